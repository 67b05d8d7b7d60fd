// Runs on the audio thread: collects mono samples into packets of 16-bit PCM.

const PACKET_MS = 100;

class PcmPackets extends AudioWorkletProcessor {
  constructor() {
    super();
    this.packet = new Int16Array(Math.round((sampleRate * PACKET_MS) / 1000));
    this.filled = 0;
    this.isStopped = false;
    this.port.onmessage = () => this.stop();
  }

  process([input]) {
    const channel = input[0];
    if (channel && !this.isStopped) {
      for (const value of channel) this.take(value);
    }
    return !this.isStopped;
  }

  take(value) {
    const clamped = Math.max(-1, Math.min(1, value));
    this.packet[this.filled++] = Math.round(clamped < 0 ? clamped * 32768 : clamped * 32767);
    if (this.filled === this.packet.length) this.post();
  }

  post() {
    const heard = this.packet.slice(0, this.filled);
    this.filled = 0;
    this.port.postMessage(heard, [heard.buffer]);
  }

  // The last, shorter packet, then null: nothing more will come.
  stop() {
    this.isStopped = true;
    if (this.filled > 0) this.post();
    this.port.postMessage(null);
  }
}

registerProcessor("pcm-packets", PcmPackets);
