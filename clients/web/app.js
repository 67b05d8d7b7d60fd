// The page's controls: opens a source and a stream, joins them, and says how it goes.

import { CaptionStream, StreamError } from "./stream.js";
import { Microphone, SourceError, openFile } from "./sources.js";
import { CaptionView, clock } from "./view.js";
import { Figures } from "./figures.js";

const KEY_ITEM = "captiond.key";
const FIGURES_MS = 500;
const element = (id) => document.getElementById(id);

const view = new CaptionView();
let running = null;
let lastSession = null;

// What the user is told

function showState(state, text) {
  element("state").dataset.state = state;
  element("state").textContent = text;
}

function tell(text, action = null) {
  element("notice").hidden = !text;
  element("notice-text").textContent = text;
  const button = element("notice-action");
  button.hidden = !action;
  if (action) {
    button.textContent = action.label;
    button.onclick = action.run;
  }
}

const ADVICE = {
  unauthorized: "This server wants an API key. Enter it under Settings, then start again.",
  overloaded: "The server has no room for another session just now.",
  too_fast: "The server limits how many sessions one key may have.",
  superseded: "This session was taken over by another page.",
  draining: "The server is being restarted.",
  lost: "The server cannot be reached. Check the network and that captiond is running.",
};

function advice(error) {
  if (!(error instanceof StreamError)) return error.message;
  const known = ADVICE[error.code];
  if (!known) return `${error.message} (${error.code})`;
  return error.code === "lost" || error.message === known ? known : `${known} ${error.message}`;
}

// One run

async function caption(openSource) {
  if (running) return;
  tell("");
  const run = { stream: null, source: null, figures: new Figures(), lostSeconds: 0 };
  running = run;
  showControls();
  showState("connecting", "Opening…");
  try {
    run.source = await openSource();
    view.reset();
    lastSession = null;
    await converse(run);
    showState("idle", "Finished");
  } catch (error) {
    if (run.isStopping && !lastSession) showState("idle", "Not listening");
    else explain(error, openSource);
  } finally {
    run.source?.close?.();
    running = null;
    showControls();
    drawFigures(run);
  }
}

async function converse(run) {
  const stream = new CaptionStream(startMessage(run.source.format), key(), {
    ready: (ready) => takeReady(run, ready),
    event: (message) => takeEvent(run, message),
    state: (state, detail) => takeState(run, state, detail),
  });
  run.stream = stream;
  await stream.run();
}

function startMessage(format) {
  const keywords = element("keywords").value.split(",").map((word) => word.trim().slice(0, 80));
  return {
    type: "start",
    audio: { encoding: "pcm_s16le", ...format },
    language: element("language").value || null,
    keywords: keywords.filter(Boolean).slice(0, 100),
    diarize: element("diarize").checked,
  };
}

function takeReady(run, ready) {
  run.engines = Object.values(ready.engines).filter((name) => name && name !== "none");
  view.forgetAfter(ready.seq);
  if (lastSession) return;
  lastSession = ready.session_id;
  element("welcome").hidden = true;
  showControls();
  feed(run);
}

async function feed(run) {
  const { source, stream, figures } = run;
  try {
    await source.start({
      level: (value) => { element("level").value = value; },
      packet: async (bytes, endSeconds) => {
        if (!source.isLive) await stream.send(bytes);
        else if (!stream.offer(bytes)) noteLoss(run, bytes);
        figures.sent(endSeconds);
      },
    });
  } catch (error) {
    tell(advice(error));
  }
  if (run.isStopping !== true) showState("busy", "Finishing…");
  stream.end();
}

function noteLoss(run, bytes) {
  run.lostSeconds += bytes.length / 2 / run.source.format.sample_rate;
  tell(`The server could not take ${run.lostSeconds.toFixed(1)} s of audio while it was away; `
    + "those words are missing.");
}

function takeEvent(run, message) {
  if (message.type === "final") run.figures.finalCame(message.end);
  if (message.type === "gap") {
    tell(`No captions from ${clock(message.start)} to ${clock(message.end)}: ${message.reason}.`);
  }
  if (message.type === "degraded") tell(stageNews(message));
  if (message.type === "draining") tell("The server is being restarted; reconnecting by itself.");
  if (message.type === "done") run.done = message;
  view.apply(message);
}

const STAGES = {
  vad: "Speech detection",
  asr: "Recognition",
  diarizer: "Telling speakers apart",
  store: "Saving captions",
};

function stageNews(message) {
  const stage = STAGES[message.stage] || "A part of the server";
  return message.over ? `${stage} works again.` : `${stage} is not working just now.`;
}

function takeState(run, state, detail) {
  if (state === "live") {
    showState("live", run.source.isLive ? "Listening" : "Captioning");
  } else if (state === "retrying") {
    const seconds = detail ? Math.ceil(detail.delayMs / 1000) : 0;
    const again = seconds ? `trying again in ${seconds} s` : "trying…";
    // The server's own words: models may be loading, or all places taken.
    const { code, message } = detail?.reason ?? {};
    const busy = code === "overloaded" && message
      && `${message[0].toUpperCase()}${message.slice(1)} (${again})`;
    showState("retrying", busy || `Connection lost, ${again}`);
  } else if (state === "connecting") {
    showState("connecting", "Connecting…");
  }
}

function explain(error, openSource) {
  showState("failed", "Stopped");
  if (!(error instanceof StreamError) && !(error instanceof SourceError)) throw error;
  const again = { label: "Try again", run: () => caption(openSource) };
  tell(advice(error), error instanceof SourceError ? null : again);
  if (error.code === "unauthorized") {
    element("settings").open = true;
    element("key").focus();
  }
}

function stop() {
  if (!running) return;
  const { stream, source } = running;
  running.isStopping = true;
  if (!stream?.session) {
    stream?.abandon();
    return;
  }
  showState("busy", "Finishing…");
  element("stop").disabled = true;
  source.stop();
}

// Controls and figures

function showControls() {
  const isRunning = running !== null;
  element("microphone").hidden = isRunning;
  element("choose").hidden = isRunning;
  element("stop").hidden = !isRunning;
  element("stop").disabled = false;
  element("level").hidden = !running?.source?.isLive;
  element("downloads").hidden = lastSession === null;
  for (const field of element("settings").querySelectorAll("input, select")) {
    field.disabled = isRunning;
  }
}

function drawFigures(run) {
  const { figures, done } = run;
  const parts = [...(run.engines ?? []), clock(figures.seconds)];
  const [p50, p95] = [figures.quantile(0.5), figures.quantile(0.95)];
  if (p50 !== null) parts.push(`captions after ${p50.toFixed(1)} s (p95 ${p95.toFixed(1)} s)`);
  const rtfx = done?.rtfx ?? figures.rtfx;
  if (rtfx) parts.push(`RTFx ${rtfx < 100 ? rtfx.toFixed(1) : Math.round(rtfx)}`);
  if (done) parts.push(`${done.words} words`, `${done.speakers} speakers`);
  element("figures").textContent = parts.join(" · ");
}

setInterval(() => {
  if (running) drawFigures(running);
}, FIGURES_MS);

function key() {
  return element("key").value.trim();
}

function authorization() {
  return key() ? { Authorization: `Bearer ${key()}` } : {};
}

async function download(format) {
  try {
    const path = `/v1/sessions/${encodeURIComponent(lastSession)}/transcript?format=${format}`;
    const response = await fetch(path, { headers: authorization() });
    if (!response.ok) throw new SourceError((await response.json()).message);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = `captions.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    tell(`The download failed: ${error.message}`);
  }
}

function captionFile(file) {
  if (!file) return;
  const options = {
    separateChannels: element("channels").checked,
    play: element("play").checked,
  };
  caption(() => openFile(file, options));
}

// Wiring

try {
  element("key").value = sessionStorage.getItem(KEY_ITEM) ?? "";
} catch {
  // Storage is off in this browser: the key is then typed anew for each visit.
}
element("key").addEventListener("change", () => {
  try {
    sessionStorage.setItem(KEY_ITEM, key());
  } catch {
    // As above.
  }
});
element("microphone").addEventListener("click", () => caption(() => Microphone.open()));
element("stop").addEventListener("click", stop);
element("choose").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", () => {
  captionFile(element("file").files[0]);
  element("file").value = "";
});
for (const button of element("downloads").querySelectorAll("button")) {
  button.addEventListener("click", () => download(button.dataset.format));
}
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  captionFile(event.dataTransfer.files[0]);
});
window.addEventListener("beforeunload", (event) => {
  if (running?.source?.isLive) event.preventDefault();
});
if (!window.isSecureContext) {
  tell("Browsers give a microphone to secure pages only: open this page by https://, or on the "
    + "server's own machine as http://localhost. Files work here too.");
}
