// What speakers are called on this page, and the row of names at the top.
//
// Captions say S1 for ever; a name that somebody gave stands in its place. The owner of a session
// edits them: the page shows a name while it is typed and tells the server when it is finished.

import { plain } from "./fold.js";

const COLOURS = 8;

/** `Speaker 1` for S1, a given name for everything else. */
function defaultName(speaker) {
  const numbered = /^S(\d+)$/.exec(speaker ?? "");
  if (numbered) return `Speaker ${numbered[1]}`;
  return plain(speaker ?? "") || "Speaker";
}

/** Names and colours of one session's speakers, in order of appearance. */
export class NameBook {
  constructor() {
    this.listeners = [];
    this.clear();
  }

  clear() {
    this.given = new Map();
    this.met = new Map();
    this.changed();
  }

  /** `listen` is called with nothing whenever a name or a speaker is new. */
  listen(listener) {
    this.listeners.push(listener);
  }

  changed() {
    for (const listener of this.listeners) listener();
  }

  nameOf(speaker) {
    return this.given.get(speaker) ?? defaultName(speaker);
  }

  /** A colour class; a speaker who is met for the first time gets the next one. */
  styleOf(speaker) {
    if (speaker === null || speaker === undefined) return "unknown";
    if (!this.met.has(speaker)) {
      this.met.set(speaker, `s${this.met.size % COLOURS}`);
      this.changed();
    }
    return this.met.get(speaker);
  }

  get speakers() {
    return [...this.met.keys()];
  }

  /** All names, as the server has them. */
  take(names) {
    this.given = new Map(Object.entries(names));
    this.changed();
  }

  rename(speaker, name) {
    if (name) this.given.set(speaker, name);
    else this.given.delete(speaker);
    this.changed();
  }
}

/** The row at the top. With `store(speaker, name or null)` names can be edited. */
export class Legend {
  constructor(box, book, store = null) {
    this.box = box;
    this.book = book;
    this.store = store;
    this.fields = new Map();
    book.listen(() => this.draw());
  }

  draw() {
    const { speakers } = this.book;
    if (!speakers.length) {
      this.fields.clear();
      this.box.replaceChildren();
    }
    for (const speaker of speakers) this.drawOne(speaker);
    this.box.classList.toggle("empty", !speakers.length);
  }

  drawOne(speaker) {
    if (!this.fields.has(speaker)) {
      const field = this.store ? this.input(speaker) : document.createElement("span");
      field.className = `name ${this.book.styleOf(speaker)}`;
      this.fields.set(speaker, field);
      this.box.append(field);
    }
    const field = this.fields.get(speaker);
    const name = this.book.nameOf(speaker);
    if (!this.store) field.textContent = name;
    else if (document.activeElement !== field) field.value = name;
  }

  input(speaker) {
    const field = document.createElement("input");
    field.maxLength = 80;
    field.autocomplete = "off";
    field.setAttribute("aria-label", `Name of ${defaultName(speaker)}`);
    field.addEventListener("input", () => this.book.rename(speaker, plain(field.value)));
    field.addEventListener("change", () => {
      const name = plain(field.value);
      if (!name) field.value = defaultName(speaker);
      this.store(speaker, name || null);
    });
    field.addEventListener("keydown", ({ key }) => {
      if (key === "Enter") field.blur();
    });
    return field;
  }
}
