// Where the page's audio comes from: the microphone, another tab, or a file.
//
// A source has `format` ({sample_rate, channels}) and `start(sink)`; it calls `sink.packet(bytes,
// endSeconds)` for each packet and resolves when the audio is over, and `stop()` ends it early.
// 16-bit WAV is read here, sample for sample; everything else goes through the browser's decoder.

const PACKET_SECONDS = 0.1;
const DECODED_RATE = 16000;
const DECODED_BYTES_MAX = 512 * 1024 * 1024;

/** A reason to tell the user, in words that say what to do. */
export class SourceError extends Error {}

/** Sound that is being made now; what is not taken in time is lost. */
class LiveAudio {
  static async listen(media) {
    let context = new AudioContext({ sampleRate: DECODED_RATE });
    let input;
    try {
      input = context.createMediaStreamSource(media);
    } catch {
      // Some browsers do not resample a microphone: take its own rate, the server resamples.
      context.close();
      context = new AudioContext();
      input = context.createMediaStreamSource(media);
    }
    await context.audioWorklet.addModule("/static/pcm-worklet.js");
    return new LiveAudio(media, context, input);
  }

  constructor(media, context, input) {
    this.media = media;
    this.context = context;
    this.input = input;
    this.isLive = true;
    this.format = { sample_rate: context.sampleRate, channels: 1 };
    this.node = new AudioWorkletNode(context, "pcm-packets", {
      numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit",
    });
  }

  async start(sink) {
    let frames = 0;
    await new Promise((resolve) => {
      this.node.port.onmessage = ({ data }) => {
        if (data === null) return resolve();
        frames += data.length;
        sink.level(levelOf(data));
        sink.packet(new Uint8Array(data.buffer), frames / this.format.sample_rate);
      };
      // A device that is unplugged ends the audio.
      this.media.getAudioTracks()[0].onended = () => this.stop();
      this.input.connect(this.node);
      this.context.resume();
    });
    this.close();
  }

  stop() {
    this.node.port.postMessage("stop");
  }

  close() {
    for (const track of this.media.getTracks()) track.stop();
    if (this.context.state !== "closed") this.context.close();
  }
}

export class Microphone {
  /** Asks for permission. Throws SourceError. */
  static async open() {
    if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) {
      throw new SourceError(
        "Browsers give a microphone to secure pages only. Open this page by https://, or on the "
        + "server's own machine as http://localhost. Files work here too.");
    }
    try {
      const media = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false },
      });
      return await LiveAudio.listen(media);
    } catch (error) {
      throw new SourceError(microphoneAdvice(error));
    }
  }
}

/** The sound of another tab, such as a call: the browser asks which one. */
export class TabAudio {
  static get isOffered() {
    return window.isSecureContext && Boolean(navigator.mediaDevices?.getDisplayMedia);
  }

  /** Throws SourceError. */
  static async open() {
    let media;
    try {
      media = await navigator.mediaDevices.getDisplayMedia({
        // Browsers share sound with a picture only; this one is not looked at.
        video: { frameRate: 1 },
        audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
        systemAudio: "include",
      });
    } catch (error) {
      throw new SourceError(tabAdvice(error));
    }
    if (media.getAudioTracks().length) return LiveAudio.listen(media);
    for (const track of media.getTracks()) track.stop();
    throw new SourceError("No sound was shared. Start again, choose a tab, and turn on “Also share "
      + "tab audio” there. Some browsers share no sound: Chrome and Edge do.");
  }
}

function tabAdvice(error) {
  if (error.name === "NotAllowedError") return "Nothing was shared. Start again and choose a tab.";
  return `The tab's sound could not be had: ${error.message}`;
}

function microphoneAdvice(error) {
  switch (error.name) {
    case "NotAllowedError":
      return "The microphone is not allowed for this page. Allow it in the browser's address bar, "
        + "then start again.";
    case "NotFoundError":
      return "No microphone was found. Connect one, then start again.";
    case "NotReadableError":
      return "Another program is using the microphone. Close it, then start again.";
    default:
      return `The microphone could not be opened: ${error.message}`;
  }
}

function levelOf(samples) {
  let peak = 0;
  for (const value of samples) peak = Math.max(peak, Math.abs(value));
  return peak / 32768;
}

/** Opens a sound file. Throws SourceError. */
export async function openFile(file, { separateChannels, play }) {
  const wav = await wavLayout(file);
  if (wav && !play && (wav.channels === 1 || separateChannels)) return new WavFile(file, wav);
  return DecodedFile.open(file, { separateChannels, play });
}

/** Where the samples of a 16-bit PCM WAV file lie; null for every other file. */
async function wavLayout(file) {
  const view = new DataView(await file.slice(0, 65536).arrayBuffer());
  const tag = (at) => String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
  if (view.byteLength < 44 || tag(0) !== "RIFF" || tag(8) !== "WAVE") return null;
  let layout = null;
  for (let at = 12; at + 8 <= view.byteLength;) {
    const size = view.getUint32(at + 4, true);
    if (tag(at) === "fmt ") layout = formatAt(view, at + 8);
    if (tag(at) === "data") {
      const start = at + 8;
      return layout && { ...layout, start, end: Math.min(file.size, start + size) };
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

function formatAt(view, at) {
  const isPcm = [1, 0xfffe].includes(view.getUint16(at, true));
  const bits = view.getUint16(at + 14, true);
  if (!isPcm || bits !== 16) return null;
  return { channels: view.getUint16(at + 2, true), sampleRate: view.getUint32(at + 4, true) };
}

class WavFile {
  constructor(file, layout) {
    this.file = file;
    this.layout = layout;
    this.isLive = false;
    this.format = { sample_rate: layout.sampleRate, channels: layout.channels };
  }

  async start(sink) {
    const frameBytes = 2 * this.layout.channels;
    const step = Math.round(this.layout.sampleRate * PACKET_SECONDS) * frameBytes;
    const block = step * 50;
    const { start, end } = this.layout;
    const last = end - ((end - start) % frameBytes);
    for (let at = start; at < last && !this.isStopped; at += block) {
      const read = await this.file.slice(at, Math.min(last, at + block)).arrayBuffer();
      for (let from = 0; from < read.byteLength && !this.isStopped; from += step) {
        const bytes = new Uint8Array(read, from, Math.min(step, read.byteLength - from));
        const frames = (at - start + from + bytes.length) / frameBytes;
        await sink.packet(bytes, frames / this.layout.sampleRate);
      }
    }
  }

  stop() {
    this.isStopped = true;
  }
}

class DecodedFile {
  static async open(file, { separateChannels, play }) {
    if (file.size > DECODED_BYTES_MAX) {
      throw new SourceError("This file is too long for the browser to decode. Convert it to a mono "
        + "16-bit WAV file, or use `captiond stream` on the command line.");
    }
    const decoder = new OfflineAudioContext(1, 1, DECODED_RATE);
    try {
      const audio = await decoder.decodeAudioData(await file.arrayBuffer());
      return new DecodedFile(audio, separateChannels, play);
    } catch {
      throw new SourceError(`This browser cannot decode ${file.name}. Choose a WAV, MP3, OGG, FLAC `
        + "or M4A file.");
    }
  }

  constructor(audio, separateChannels, play) {
    this.audio = audio;
    this.play = play;
    this.isLive = false;
    const channels = separateChannels ? audio.numberOfChannels : 1;
    this.format = { sample_rate: audio.sampleRate, channels };
  }

  async start(sink) {
    const player = this.play ? await startPlaying(this.audio) : null;
    this.player = player;
    const step = Math.round(this.audio.sampleRate * PACKET_SECONDS);
    for (let from = 0; from < this.audio.length && !this.isStopped; from += step) {
      const until = Math.min(this.audio.length, from + step);
      const endSeconds = until / this.audio.sampleRate;
      if (player) await player.reached(endSeconds);
      if (this.isStopped) break;
      await sink.packet(this.pcm(from, until), endSeconds);
    }
    player?.close();
  }

  stop() {
    this.isStopped = true;
    this.player?.close();
  }

  pcm(from, until) {
    const inputs = this.audio.numberOfChannels;
    const tracks = Array.from({ length: inputs }, (_, i) => this.audio.getChannelData(i));
    const outputs = this.format.channels;
    const samples = new Int16Array((until - from) * outputs);
    for (let frame = from, at = 0; frame < until; frame += 1) {
      for (let output = 0; output < outputs; output += 1, at += 1) {
        const value = outputs === inputs ? tracks[output][frame] : mean(tracks, frame);
        const clamped = Math.max(-1, Math.min(1, value));
        // As Chromium's decoder made it of 16 bits, so that what was exact stays so there.
        samples[at] = Math.round(clamped < 0 ? clamped * 32768 : clamped * 32767);
      }
    }
    return new Uint8Array(samples.buffer);
  }
}

function mean(tracks, frame) {
  let sum = 0;
  for (const track of tracks) sum += track[frame];
  return sum / tracks.length;
}

/** Plays a decoded file; `reached(seconds)` resolves when that much has been heard. */
async function startPlaying(audio) {
  const context = new AudioContext();
  await context.resume();
  const node = new AudioBufferSourceNode(context, { buffer: audio });
  node.connect(context.destination);
  const startedAt = context.currentTime;
  node.start();
  return {
    async reached(seconds) {
      while (context.state === "running" && context.currentTime - startedAt < seconds) {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    close() {
      if (context.state !== "closed") context.close();
    },
  };
}
