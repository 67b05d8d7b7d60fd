// Draws captions. Every text is put in with textContent: what was spoken is never markup.
//
// Finals are spoken to screen readers once, by a region of their own; open lines never are.

import { CaptionFold, speakerRuns } from "./fold.js";

const COLOURS = 8;
const ANNOUNCED_MAX = 20;
const NEAR_END_PX = 120;

const element = (id) => document.getElementById(id);

/** `Speaker 1` for S1, a given name for everything else. */
function defaultName(speaker) {
  const numbered = /^S(\d+)$/.exec(speaker ?? "");
  if (numbered) return `Speaker ${numbered[1]}`;
  return speaker ?? "Speaker";
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const pad = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  const rest = `${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

export class CaptionView {
  constructor() {
    this.list = element("finals");
    this.openBox = element("open");
    this.latest = element("latest");
    this.latest.addEventListener("click", () => this.follow(true));
    this.reset();
  }

  reset() {
    this.fold = new CaptionFold();
    this.speakers = new Map();
    this.items = new Map();
    this.announcedEnds = new Map();
    this.list.replaceChildren();
    this.openBox.replaceChildren();
    element("announcer").replaceChildren();
    element("speakers").replaceChildren();
    element("speakers").hidden = true;
    element("trimmed").hidden = true;
  }

  /** Takes a message of the stream and redraws what it changes. */
  apply(message) {
    const wasNearEnd = isNearEnd();
    const changed = this.fold.apply(message);
    if (message.type === "final") this.announce(this.fold.captions.get(changed));
    if (changed) this.drawCaption(changed);
    if (message.type !== "revision") this.drawOpen();
    this.trim();
    this.follow(wasNearEnd);
  }

  /** The server makes anew what came after this event. */
  forgetAfter(seq) {
    for (const id of this.fold.forgetAfter(seq)) {
      if (this.fold.captions.has(id)) {
        this.drawCaption(id);
      } else {
        this.items.get(id)?.remove();
        this.items.delete(id);
      }
    }
    this.drawOpen();
  }

  speaker(id) {
    if (id === null || id === undefined) return { name: "Speaker", style: "unknown" };
    if (!this.speakers.has(id)) {
      const index = this.speakers.size;
      this.speakers.set(id, { name: defaultName(id), style: `s${index % COLOURS}` });
      this.drawLegend(id);
    }
    return this.speakers.get(id);
  }

  drawCaption(id) {
    const caption = this.fold.captions.get(id);
    const item = this.items.get(id) ?? document.createElement("li");
    if (!this.items.has(id)) {
      this.items.set(id, item);
      this.list.append(item);
    }
    item.replaceChildren(...speakerRuns(caption).map((run) => this.run(run, "final")));
    this.hideRepeatedNames(item);
    if (item.nextElementSibling) this.hideRepeatedNames(item.nextElementSibling);
  }

  run({ speaker, start, text }, kind) {
    const { name, style } = this.speaker(speaker);
    const box = document.createElement("div");
    box.className = `run ${kind} ${style}`;
    box.dataset.speaker = speaker ?? "";
    const head = document.createElement("p");
    head.className = "head";
    const who = document.createElement("span");
    who.className = "who";
    who.textContent = name;
    const when = document.createElement("time");
    when.textContent = clock(start);
    head.append(who, when);
    const words = document.createElement("p");
    words.className = "words";
    words.dir = "auto";
    words.textContent = text;
    box.append(head, words);
    return box;
  }

  /** A name stands only where the speaker changes. */
  hideRepeatedNames(item) {
    let before = item.previousElementSibling?.lastElementChild?.dataset.speaker;
    for (const box of item.children) {
      box.classList.toggle("same", box.dataset.speaker === before);
      before = box.dataset.speaker;
    }
  }

  drawOpen() {
    const boxes = this.fold.openLines.map((line) => this.run(
      { speaker: line.speaker, start: line.start, text: line.text }, "partial"));
    const last = this.list.lastElementChild?.lastElementChild?.dataset.speaker;
    boxes.forEach((box, index) => {
      const before = index ? boxes[index - 1].dataset.speaker : last;
      box.classList.toggle("same", box.dataset.speaker === before);
    });
    this.openBox.replaceChildren(...boxes);
  }

  announce(caption) {
    // What a server makes anew was read out before.
    if (caption.end <= (this.announcedEnds.get(caption.lane) ?? -1)) return;
    this.announcedEnds.set(caption.lane, caption.end);
    const said = document.createElement("p");
    const parts = speakerRuns(caption).map((run) => (
      run.speaker ? `${this.speaker(run.speaker).name}: ${run.text}` : run.text));
    said.textContent = parts.join(" ");
    const announcer = element("announcer");
    announcer.append(said);
    while (announcer.children.length > ANNOUNCED_MAX) announcer.firstElementChild.remove();
  }

  drawLegend(id) {
    const speaker = this.speakers.get(id);
    const field = document.createElement("input");
    field.className = `name ${speaker.style}`;
    field.value = speaker.name;
    field.maxLength = 40;
    field.setAttribute("aria-label", `Name of ${speaker.name}`);
    field.addEventListener("input", () => this.rename(id, field.value.trim()));
    const legend = element("speakers");
    legend.append(field);
    legend.hidden = false;
  }

  rename(id, name) {
    const speaker = this.speakers.get(id);
    speaker.name = name || defaultName(id);
    for (const box of document.querySelectorAll(".run")) {
      if (box.dataset.speaker === id) box.querySelector(".who").textContent = speaker.name;
    }
  }

  trim() {
    element("trimmed").hidden = this.fold.dropped === 0;
    while (this.items.size > this.fold.captions.size) {
      const [id, item] = this.items.entries().next().value;
      item.remove();
      this.items.delete(id);
    }
  }

  follow(isWanted) {
    if (isWanted) window.scrollTo({ top: document.documentElement.scrollHeight });
    this.latest.hidden = isNearEnd();
  }
}

function isNearEnd() {
  const { scrollHeight } = document.documentElement;
  return window.scrollY + window.innerHeight >= scrollHeight - NEAR_END_PX;
}

window.addEventListener("scroll", () => {
  if (isNearEnd()) element("latest").hidden = true;
}, { passive: true });
