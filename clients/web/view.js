// Draws captions. Every text is put in with textContent: what was spoken is never markup.
//
// Messages are folded as they come and drawn once per frame, so that hours of captions can come at
// once. Finals are spoken to screen readers once, by a region of their own; open lines never are.
// Nothing that stands jumps: an open line keeps its elements, and the place that it gives up when
// it becomes shorter stays empty until the next words take it.

import { Blocks } from "./blocks.js";
import { CaptionFold, plain, speakerRuns } from "./fold.js";
import { Legend, NameBook } from "./names.js";

const ANNOUNCED_MAX = 20;
const NEAR_END_PX = 120;
const SLACK_PX_MAX = 240;
// Browsers draw no frames for a page that is not seen.
const UNSEEN_DRAW_MS = 1000;

const element = (id) => document.getElementById(id);

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const pad = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const rest = `${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

export class CaptionView {
  /** `book` holds the speakers' names; without one the page has names of its own. */
  constructor(book = null) {
    this.book = book ?? new NameBook();
    if (!book) new Legend(element("speakers"), this.book, () => {});
    this.section = element("captions");
    this.list = element("finals");
    this.blocks = new Blocks(this.list, (item, id) => this.drawCaption(item, id));
    this.openBox = element("open");
    this.latest = element("latest");
    this.latest.addEventListener("click", () => this.jumpToLive());
    window.addEventListener("scroll", () => this.noteScroll(), { passive: true });
    new ResizeObserver(([{ target }]) => {
      document.documentElement.style.setProperty("--dock", `${target.offsetHeight}px`);
    }).observe(document.querySelector(".dock"));
    this.blocks.onShow = () => this.drawn();
    this.book.listen(() => this.drawNames());
    this.drawListeners = [];
    this.reset();
  }

  reset() {
    this.fold = new CaptionFold();
    this.openLines = new Map();
    this.changed = new Set();
    this.announcedEnds = new Map();
    this.isDrawDue = false;
    this.blocks.clear();
    this.openBox.replaceChildren();
    this.section.style.paddingBottom = "";
    element("announcer").replaceChildren();
    element("trimmed").hidden = true;
    this.book.clear();
  }

  /** `listen` is called after each drawing. */
  listen(listener) {
    this.drawListeners.push(listener);
  }

  /** Takes a message of the stream; it is seen with the next frame. */
  apply(message) {
    const changed = this.fold.apply(message);
    if (changed) this.changed.add(changed);
    if (message.type === "final") this.announce(this.fold.captions.get(changed));
    this.drawSoon();
  }

  /** The server makes anew what came after this event. */
  forgetAfter(seq) {
    for (const id of this.fold.forgetAfter(seq)) this.changed.add(id);
    this.drawSoon();
  }

  drawSoon() {
    if (this.isDrawDue) return;
    this.isDrawDue = true;
    if (document.hidden) setTimeout(() => this.flush(), UNSEEN_DRAW_MS);
    else requestAnimationFrame(() => this.flush());
  }

  /** Draws what is to be drawn now. */
  flush() {
    if (!this.isDrawDue) return;
    this.isDrawDue = false;
    const wasNearEnd = isNearEnd();
    const heightBefore = this.section.offsetHeight;
    this.drawChanged();
    this.drawOpen();
    this.keepHeight(heightBefore);
    this.follow(wasNearEnd);
    this.drawn();
  }

  drawn() {
    for (const listener of this.drawListeners) listener();
  }

  // Finals

  drawChanged() {
    for (const id of this.changed) {
      const isThere = this.fold.captions.has(id);
      const next = this.blocks.has(id) ? this.blocks.neighbour(id, 1) : null;
      if (!isThere) this.blocks.remove(id);
      else if (this.blocks.has(id)) this.blocks.redraw(id);
      else this.blocks.add(id);
      if (next !== null) this.blocks.redraw(next);
    }
    this.changed.clear();
    this.trim();
    this.blocks.settle();
  }

  drawCaption(item, id) {
    this.fill(item, speakerRuns(this.fold.captions.get(id)), "final");
    // A name stands only where the speaker changes.
    let before = this.lastSpeaker(this.blocks.neighbour(id, -1));
    for (const part of item.children) {
      part.classList.toggle("same", part.dataset.speaker === before);
      before = part.dataset.speaker;
    }
  }

  /** As in `dataset.speaker`; null where there is no such caption. */
  lastSpeaker(id) {
    const caption = id === null ? undefined : this.fold.captions.get(id);
    return caption ? speakerRuns(caption).at(-1).speaker ?? "" : null;
  }

  /** Runs into a box, with as few changes to what stands there as possible. */
  fill(box, runs, kind, stableWords = Infinity) {
    while (box.children.length > runs.length) box.lastElementChild.remove();
    let left = stableWords;
    runs.forEach((run, index) => {
      const part = box.children[index] ?? box.appendChild(newRun());
      this.fillRun(part, run, kind, left);
      left = Math.max(0, left - (run.words ?? 0));
    });
  }

  fillRun(part, { speaker, start, text, was }, kind, stableWords) {
    const [head, words] = part.children;
    const [who, when, mark] = head.children;
    part.className = `run ${kind} ${this.book.styleOf(speaker)}`;
    part.dataset.speaker = speaker ?? "";
    put(who, this.book.nameOf(speaker));
    put(when, clock(start));
    mark.hidden = !was;
    if (was) {
      put(mark, "corrected");
      mark.title = `First shown as ${this.book.nameOf(was)}`;
    }
    const [stable, tail] = words.children;
    const [sure, rest] = splitAfter(text, stableWords);
    put(stable, sure);
    put(tail, rest);
  }

  // Open lines

  drawOpen() {
    const lines = this.fold.openLines;
    for (const [id, box] of this.openLines) {
      if (lines.some((line) => line.caption_id === id)) continue;
      box.remove();
      this.openLines.delete(id);
    }
    let before = this.lastSpeaker(this.blocks.last());
    lines.forEach((line, index) => {
      const box = this.openLineOf(line.caption_id, index);
      this.fill(box, speakerRuns(line, true), "partial", line.stable_words);
      for (const part of box.children) {
        // Whoever is not known yet is taken for the last one, so that no name comes and goes.
        const isSame = part.dataset.speaker === before || (!part.dataset.speaker && before !== null);
        part.classList.toggle("same", isSame);
        before = part.dataset.speaker || before;
      }
    });
  }

  openLineOf(id, index) {
    if (!this.openLines.has(id)) this.openLines.set(id, document.createElement("div"));
    const box = this.openLines.get(id);
    if (this.openBox.children[index] !== box) {
      this.openBox.insertBefore(box, this.openBox.children[index] ?? null);
    }
    return box;
  }

  /** What became shorter leaves its place empty, below. */
  keepHeight(before) {
    this.section.style.paddingBottom = "";
    const slack = Math.min(before - this.section.offsetHeight, SLACK_PX_MAX);
    if (slack > 0) this.section.style.paddingBottom = `${slack}px`;
  }

  // Names, announcements, place

  drawNames() {
    for (const part of document.querySelectorAll("#captions .run")) {
      put(part.querySelector(".who"), this.book.nameOf(part.dataset.speaker || null));
    }
  }

  announce(caption) {
    // What a server makes anew was read out before.
    if (caption.end <= (this.announcedEnds.get(caption.lane) ?? -1)) return;
    this.announcedEnds.set(caption.lane, caption.end);
    const said = document.createElement("p");
    const parts = speakerRuns(caption).map((run) => (
      run.speaker ? `${this.book.nameOf(run.speaker)}: ${run.text}` : run.text));
    said.textContent = plain(parts.join(" "));
    const announcer = element("announcer");
    announcer.append(said);
    while (announcer.children.length > ANNOUNCED_MAX) announcer.firstElementChild.remove();
  }

  trim() {
    element("trimmed").hidden = this.fold.dropped === 0;
    while (this.blocks.size > this.fold.captions.size) this.blocks.remove(this.blocks.first());
  }

  show(id) {
    this.blocks.reveal(id);
  }

  /** The size of the text is another one. */
  measure() {
    this.blocks.forgetHeights();
  }

  jumpToLive() {
    this.follow(true);
    this.section.focus({ preventScroll: true });
  }

  follow(isWanted) {
    if (isWanted) window.scrollTo({ top: document.documentElement.scrollHeight });
    this.latest.hidden = isWanted || isNearEnd();
  }

  noteScroll() {
    this.latest.hidden = isNearEnd();
  }
}

/** div.run > (p.head > bdi.who time span.mark) (p.words > span.stable span.tail) */
function newRun() {
  const part = document.createElement("div");
  const head = child(part, "p", "head");
  child(head, "bdi", "who");
  child(head, "time", "when");
  child(head, "span", "mark").hidden = true;
  const words = child(part, "p", "words");
  words.dir = "auto";
  child(words, "span", "stable");
  child(words, "span", "tail");
  return part;
}

function child(parent, tag, name) {
  const made = document.createElement(tag);
  made.className = name;
  return parent.appendChild(made);
}

function put(box, text) {
  if (box.textContent !== text) box.textContent = text;
}

/** The first words, and the rest with the space before it. */
function splitAfter(text, words) {
  if (words === Infinity) return [text, ""];
  const [sure] = new RegExp(`^(?:\\s*\\S+){0,${words}}`, "u").exec(text);
  return [sure, text.slice(sure.length)];
}

function isNearEnd() {
  const { scrollHeight } = document.documentElement;
  return window.scrollY + window.innerHeight >= scrollHeight - NEAR_END_PX;
}
