// A transcript of a WAV file through OpenAI's Node SDK: node client.mjs URL KEY FILE
import { createReadStream } from "node:fs";
import OpenAI from "openai";

function clientOf(url, key) {
  // [three lines]
  return new OpenAI({ baseURL: `${url}/v1`, apiKey: key });
  // [end]
}

const [url, key, path] = process.argv.slice(2);
const client = clientOf(url, key);
const diarized = await client.audio.transcriptions.create({
  model: "gpt-4o-transcribe-diarize",
  file: createReadStream(path),
  response_format: "diarized_json",
  chunking_strategy: "auto",
});
const words = diarized.segments.flatMap((segment) =>
  segment.text.split(" ").map((word) => [word, segment.speaker]),
);

const stream = await client.audio.transcriptions.create({
  model: "gpt-4o-transcribe",
  file: createReadStream(path),
  stream: true,
});
let streamed = "";
for await (const event of stream) {
  if (event.type === "transcript.text.delta") streamed += event.delta;
}
if (streamed.split(" ").length !== words.length) {
  throw new Error(`streamed other words: ${streamed}`);
}

console.log(
  JSON.stringify({
    words: words.map(([word]) => word),
    speakers: words.map(([, speaker]) => speaker),
  }),
);
