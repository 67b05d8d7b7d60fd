// Captions of a WAV file through Deepgram's JavaScript SDK: node client.js URL KEY FILE

const fs = require("node:fs");
const { setTimeout: sleep } = require("node:timers/promises");
const { DeepgramClient } = require("@deepgram/sdk");

const HEADER_BYTES = 44;
const PACKET_S = 0.1;

function clientOf(url, apiKey) {
  // [three lines]
  const ws = url.replace(/^http/, "ws");
  const environment = { base: url, production: ws, agent: ws, agentRest: url };
  return new DeepgramClient({ apiKey, environment });
  // [end]
}

async function stream(url, key, path) {
  const file = fs.readFileSync(path);
  const channels = file.readUInt16LE(22);
  const rate = file.readUInt32LE(24);
  const messages = [];
  const socket = await clientOf(url, key).listen.v1.connect({
    model: "nova-3",
    encoding: "linear16",
    sample_rate: rate,
    channels,
    interim_results: "true",
    punctuate: "true",
    diarize: "true",
    vad_events: "true",
  });
  const closed = new Promise((resolve) => socket.on("close", resolve));
  socket.on("message", (message) => messages.push(message));
  socket.on("error", (error) => console.error(error));
  socket.connect();
  await socket.waitForOpen();
  const packet = Math.round(rate * PACKET_S) * channels * 2;
  let due = Date.now();
  for (let at = HEADER_BYTES; at < file.length; at += packet) {
    socket.sendMedia(file.subarray(at, at + packet));
    due += PACKET_S * 1000;
    await sleep(Math.max(0, due - Date.now()));
  }
  socket.sendFinalize({ type: "Finalize" });
  socket.sendCloseStream({ type: "CloseStream" });
  const { code } = await closed;
  return { messages, code };
}

async function main() {
  const [url, key, path] = process.argv.slice(2);
  const { messages, code } = await stream(url, key, path);
  const finals = messages.filter((m) => m.type === "Results" && m.is_final);
  const words = finals.flatMap((m) => m.channel.alternatives[0].words);
  const told = {
    words: words.map((word) => word.punctuated_word),
    speakers: words.map((word) => word.speaker ?? null),
    messages,
    close_code: code,
  };
  process.stdout.write(JSON.stringify(told));
}

main();
