// The page of an audience: one session, read along. Nothing here can change it.
//
// Its address is /view/{id}#{link}; what stands behind the # stays in the browser.

import { Access } from "./access.js";
import { joinDownloads } from "./downloads.js";
import { Health } from "./health.js";
import { Legend, NameBook } from "./names.js";
import { Preferences } from "./preferences.js";
import { SessionReader } from "./reader.js";
import { Search } from "./search.js";
import { CaptionView } from "./view.js";

const NAMES_AGAIN_MS = 20000;
const NAMES_AGAIN_TIMES = 180;
const element = (id) => document.getElementById(id);

const sessionId = decodeURIComponent(location.pathname.split("/").at(-1));
const access = new Access({ link: location.hash.slice(1) });
const book = new NameBook();
const view = new CaptionView(book);
const health = new Health(element("health"));

function showState(state, text) {
  element("state").dataset.state = state;
  element("state").textContent = text;
}

function tell(text) {
  element("notice").hidden = !text;
  element("notice-text").textContent = text;
}

const reader = new SessionReader(sessionId, access, {
  event: (message) => {
    health.take(message);
    view.apply(message);
  },
  session: ({ names }) => book.take(names),
  forgetAfter: (seq) => view.forgetAfter(seq),
  state: (state) => {
    health.connection(state !== "retrying");
    if (state === "live") showState("live", "Live");
    else if (state === "retrying") showState("retrying", "Waiting for the server…");
    else showState("connecting", "Connecting…");
  },
});

async function read() {
  try {
    await reader.run();
    showState("idle", "Over");
    await followNames();
  } catch (error) {
    showState("failed", "Stopped");
    tell(error.message);
  }
}

/** Names are mostly given when all is said. */
async function followNames() {
  for (let times = 0; times < NAMES_AGAIN_TIMES; times += 1) {
    await new Promise((resolve) => setTimeout(resolve, NAMES_AGAIN_MS));
    if (document.hidden) continue;
    try {
      const answer = await access.read(sessionId, "/names");
      book.take((await answer.json()).names);
    } catch {
      return; // deleted, or the link is over: what is on the page stays
    }
  }
}

new Legend(element("speakers"), book);
new Preferences(element("reading"), () => view.measure());
new Search(view, {
  field: element("search"), count: element("search-count"),
  previous: element("search-previous"), next: element("search-next"),
});
joinDownloads(element("downloads"), () => ({ sessionId, access }), tell);
window.addEventListener("hashchange", () => location.reload());
read();
