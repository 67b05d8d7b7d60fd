// Finds words and names in the captions, also in those that are far out of sight.
//
// Matches are marked by CSS highlights where the browser has them, so that no caption is changed.

import { plain, speakerRuns } from "./fold.js";

const MARKED_MAX = 500;

/** Without case and accents, so that "cafe" finds "Café". */
function folded(text) {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}

export class Search {
  constructor(view, { field, count, previous, next }) {
    Object.assign(this, { view, field, count, previousButton: previous, nextButton: next });
    this.found = [];
    this.at = -1;
    this.texts = new WeakMap();
    view.book.listen(() => { this.texts = new WeakMap(); });
    field.addEventListener("input", () => this.search());
    field.addEventListener("keydown", (event) => this.key(event));
    previous.addEventListener("click", () => this.step(-1));
    next.addEventListener("click", () => this.step(1));
    view.listen(() => this.wanted && this.refresh());
  }

  get wanted() {
    return folded(plain(this.field.value));
  }

  search() {
    this.at = -1;
    this.refresh();
    if (this.found.length) this.step(-1);
  }

  refresh() {
    const { wanted } = this;
    const current = this.found[this.at];
    this.found = wanted ? [...this.view.fold.captions.values()]
      .filter((caption) => this.shown(caption).includes(wanted))
      .map((caption) => caption.caption_id) : [];
    this.at = current === undefined ? -1 : this.found.indexOf(current);
    this.tell();
    this.mark();
  }

  /** What stands there, with names; made once, for captions never change but are replaced. */
  shown(caption) {
    if (!this.texts.has(caption)) {
      const parts = speakerRuns(caption).map(({ speaker, text }) => (
        `${speaker ? this.view.book.nameOf(speaker) : ""} ${text}`));
      this.texts.set(caption, folded(parts.join(" ")));
    }
    return this.texts.get(caption);
  }

  step(by) {
    const { length } = this.found;
    if (!length) return;
    this.at = this.at < 0 && by < 0 ? length - 1 : (this.at + by + length) % length;
    this.view.show(this.found[this.at]);
    this.tell();
    this.mark();
  }

  tell() {
    const { length } = this.found;
    const place = this.at < 0 ? `${length} found` : `${this.at + 1} of ${length}`;
    const text = this.wanted ? (length ? place : "Nothing found") : "";
    if (this.count.textContent !== text) this.count.textContent = text;
    this.previousButton.disabled = this.nextButton.disabled = !length;
  }

  mark() {
    for (const item of this.view.list.querySelectorAll(".found")) item.classList.remove("found");
    this.view.blocks.item(this.found[this.at])?.classList.add("found");
    if (!window.Highlight) return;
    const ranges = this.found.slice(0, MARKED_MAX).flatMap((id) => this.ranges(id));
    CSS.highlights.set("found", new Highlight(...ranges));
  }

  ranges(id) {
    const { wanted } = this;
    const item = this.view.blocks.item(id);
    return [...item?.querySelectorAll(".stable, .who") ?? []].flatMap(({ firstChild: node }) => {
      const text = node ? folded(node.data) : "";
      // Accents that were taken off would shift places: such a text is found, and not marked.
      if (!node || text.length !== node.data.length) return [];
      const ranges = [];
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) {
        const range = new Range();
        range.setStart(node, at);
        range.setEnd(node, at + wanted.length);
        ranges.push(range);
      }
      return ranges;
    });
  }

  key(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.step(event.shiftKey ? -1 : 1);
    } else if (event.key === "Escape") {
      this.field.value = "";
      this.search();
      this.view.jumpToLive();
    }
  }
}
