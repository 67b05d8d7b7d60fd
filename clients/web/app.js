// The page of someone who captions: its controls, joined to a source, a stream and the view.

import { Access } from "./access.js";
import { joinDownloads } from "./downloads.js";
import { Health } from "./health.js";
import { Legend, NameBook } from "./names.js";
import { Preferences } from "./preferences.js";
import { SessionReader } from "./reader.js";
import { Search } from "./search.js";
import { SessionsDialog } from "./sessions.js";
import { ShareDialog } from "./share.js";
import { Microphone, SourceError, TabAudio, openFile } from "./sources.js";
import { StreamError } from "./stream.js";
import { Talk, advice } from "./talk.js";
import { CaptionView } from "./view.js";

const KEY_ITEM = "captiond.key";
const FIGURES_MS = 500;
const element = (id) => document.getElementById(id);

const key = () => element("key").value.trim();
const access = new Access({ key });
const book = new NameBook();
const view = new CaptionView(book);
const health = new Health(element("health"));
let running = null;
let reading = null;
let sessionId = null;
let naming = Promise.resolve();

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

// One run

const page = {
  opened: (ready) => {
    showSession(ready.session_id);
    view.reset();
  },
  message: (message) => {
    health.take(message);
    view.apply(message);
  },
  forgetAfter: (seq) => view.forgetAfter(seq),
  state: showState,
  tell,
  level: (value) => { element("level").value = value; },
  connection: (isThere) => health.connection(isThere),
};

async function caption(openSource) {
  if (running) return;
  leaveReading();
  tell("");
  health.reset();
  const talk = new Talk(page, access);
  running = talk;
  showControls();
  showState("connecting", "Opening…");
  try {
    await talk.run(openSource, settings());
    showState("idle", "Finished");
  } catch (error) {
    if (talk.isStopping && !talk.isOpened) showState("idle", "Not listening");
    else explain(error, openSource);
  } finally {
    running = null;
    showControls();
    element("figures").textContent = talk.summary;
  }
}

function settings() {
  const keywords = element("keywords").value.split(",").map((word) => word.trim().slice(0, 80));
  return {
    language: element("language").value || null,
    keywords: keywords.filter(Boolean).slice(0, 100),
    diarize: element("diarize").checked,
  };
}

function stop() {
  if (running?.stop()) element("stop").disabled = true;
}

function captionFile(file) {
  if (!file) return;
  const options = {
    separateChannels: element("channels").checked,
    play: element("play").checked,
  };
  caption(() => openFile(file, options));
}

// A past session, or one that somebody else talks in

async function read(id) {
  if (running) return;
  leaveReading();
  tell("");
  view.reset();
  showSession(id);
  element("figures").textContent = "";
  const reader = new SessionReader(id, access, {
    event: (message) => view.apply(message),
    session: ({ names }) => book.take(names),
    forgetAfter: (seq) => view.forgetAfter(seq),
    state: (state) => showState("busy", state === "retrying" ? "Connection lost" : "Reading…"),
  });
  reading = reader;
  try {
    await reader.run();
  } catch (error) {
    tell(error.message);
  }
  if (reading === reader) showState("idle", "A past session");
}

function leaveReading() {
  reading?.close();
  reading = null;
}

// Names

/** One after the other, so that the last one typed is the last one stored. */
function storeName(speaker, name) {
  const id = sessionId;
  if (id === null) return;
  const body = JSON.stringify({ [speaker]: name });
  naming = naming.then(async () => {
    try {
      await access.request(`/v1/sessions/${encodeURIComponent(id)}/names`, { method: "PATCH", body });
    } catch (error) {
      tell(`The name was not saved: ${error.message}`);
    }
  });
}

// Controls and figures

function showSession(id) {
  sessionId = id;
  element("welcome").hidden = true;
  showControls();
}

function showControls() {
  const isRunning = running !== null;
  for (const id of ["microphone", "tab", "choose", "past"]) element(id).hidden = isRunning;
  element("tab").hidden ||= !TabAudio.isOffered;
  element("stop").hidden = !isRunning;
  element("stop").disabled = false;
  element("level").hidden = !running?.source?.isLive;
  element("downloads").hidden = sessionId === null;
  element("share-open").hidden = sessionId === null;
  for (const field of element("settings").querySelectorAll("input, select")) {
    field.disabled = isRunning;
  }
}

setInterval(() => {
  if (!running) return;
  element("figures").textContent = running.summary;
  health.delay(running.figures.recentDelay);
}, FIGURES_MS);

// Wiring

new Legend(element("speakers"), book, storeName);
new Preferences(element("reading"), () => view.measure());
new Search(view, {
  field: element("search"), count: element("search-count"),
  previous: element("search-previous"), next: element("search-next"),
});
const owned = () => ({ sessionId, access, before: () => naming });
joinDownloads(element("downloads"), owned, tell);
const share = new ShareDialog(element("share"), owned);
const past = new SessionsDialog(element("sessions"), access, read);
element("share-open").addEventListener("click", () => share.open());
element("past").addEventListener("click", () => past.open());

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
element("tab").addEventListener("click", () => caption(() => TabAudio.open()));
element("stop").addEventListener("click", stop);
element("choose").addEventListener("click", () => element("file").click());
element("file").addEventListener("change", () => {
  captionFile(element("file").files[0]);
  element("file").value = "";
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  captionFile(event.dataTransfer.files[0]);
});
window.addEventListener("beforeunload", (event) => {
  if (running?.source?.isLive) event.preventDefault();
});
showControls();
if (!window.isSecureContext) {
  tell("Browsers give a microphone to secure pages only: open this page by https://, or on the "
    + "server's own machine as http://localhost. Files work here too.");
}
