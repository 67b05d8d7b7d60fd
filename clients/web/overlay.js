// The last lines over a picture: /overlay/{id}#{link}, a browser source for OBS and its like.
//
// ?lines=2 captions at once, ?size=150 per cent, ?names=0 without names. The ground is transparent.

import { Access } from "./access.js";
import { CaptionFold, speakerRuns } from "./fold.js";
import { NameBook } from "./names.js";
import { SessionReader } from "./reader.js";

const LINES_MAX = 8;
const QUIET_MS = 10000;

const options = new URLSearchParams(location.search);
const linesShown = Math.max(1, Math.min(LINES_MAX, Number(options.get("lines") ?? 2) || 2));
const hasNames = options.get("names") !== "0";
const size = Math.max(50, Math.min(400, Number(options.get("size") ?? 100) || 100));
document.documentElement.style.setProperty("--reading", String(size / 100));

const box = document.getElementById("lines");
const fold = new CaptionFold();
const book = new NameBook();
let quiet = null;

function draw() {
  // Only what may be shown: a fold of hours is not gone through for each word.
  const last = [...fold.captions.keys()].slice(-linesShown).map((id) => fold.captions.get(id));
  const lines = [...last.map((caption) => speakerRuns(caption)),
    ...fold.openLines.map((line) => speakerRuns(line, true))].flat().slice(-linesShown);
  while (box.children.length > lines.length) box.firstElementChild.remove();
  let before = null;
  lines.forEach((run, index) => {
    const line = box.children[index] ?? box.appendChild(newLine());
    const [who, words] = line.querySelectorAll("bdi");
    line.className = `line ${book.styleOf(run.speaker)}`;
    who.textContent = hasNames && run.speaker && run.speaker !== before
      ? `${book.nameOf(run.speaker)}: ` : "";
    words.textContent = run.text;
    before = run.speaker;
  });
}

function newLine() {
  const line = document.createElement("p");
  const ground = line.appendChild(document.createElement("span"));
  const said = ground.appendChild(document.createElement("span"));
  said.dir = "auto";
  said.appendChild(document.createElement("bdi")).className = "who";
  said.appendChild(document.createElement("bdi")).className = "words";
  return line;
}

/** Old words do not stay over the picture. */
function wake() {
  box.classList.remove("quiet");
  clearTimeout(quiet);
  quiet = setTimeout(() => box.classList.add("quiet"), QUIET_MS);
}

const sessionId = decodeURIComponent(location.pathname.split("/").at(-1));
const reader = new SessionReader(sessionId, new Access({ link: location.hash.slice(1) }), {
  event: (message) => {
    fold.apply(message);
    if (message.type === "final" || message.type === "partial") wake();
    draw();
  },
  session: ({ names }) => {
    book.take(names);
    draw();
  },
  forgetAfter: (seq) => {
    fold.forgetAfter(seq);
    draw();
  },
  state: () => {},
});
reader.run().catch((error) => {
  // Whoever sets the overlay up sees it; an audience sees nothing.
  document.getElementById("problem").textContent = error.message;
});
