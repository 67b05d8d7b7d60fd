// A list of hours, of which only what is near the window exists as elements.
//
// Captions stand in blocks. A block that is far away is an empty box of its height; the last two
// always exist, since new captions come there. Heights that nobody has measured are estimated.

const CAPTIONS_PER_BLOCK = 40;
const NEAR = "1500px 0px";
const FIRST_ESTIMATE_PX = 36;

export class Blocks {
  /** `draw(item, id)` fills the list item of one caption. */
  constructor(box, draw) {
    this.box = box;
    this.draw = draw;
    this.blockOf = new WeakMap();
    /** Called when captions that were far may have come near. */
    this.onShow = () => {};
    this.observer = new IntersectionObserver((seen) => this.look(seen), { rootMargin: NEAR });
    window.addEventListener("resize", () => this.forgetHeights());
    this.clear();
  }

  clear() {
    this.observer.disconnect();
    this.blocks = [];
    this.places = new Map();
    this.captionPx = FIRST_ESTIMATE_PX;
    this.box.replaceChildren();
  }

  get size() {
    return this.places.size;
  }

  has(id) {
    return this.places.has(id);
  }

  /** At the end. Call `settle` after the last one. */
  add(id) {
    let block = this.blocks.at(-1);
    if (!block || block.ids.length >= CAPTIONS_PER_BLOCK) block = this.newBlock();
    block.ids.push(id);
    this.places.set(id, block);
    if (block.isShown) this.newItem(block, id);
  }

  newBlock() {
    const element = document.createElement("ol");
    element.className = "block";
    const block = { element, ids: [], items: new Map(), isShown: false, isNear: false, px: null };
    this.blockOf.set(element, block);
    this.blocks.push(block);
    this.box.append(element);
    this.observer.observe(element);
    return block;
  }

  newItem(block, id) {
    const item = document.createElement("li");
    item.dataset.id = id;
    block.items.set(id, item);
    block.element.append(item);
    this.draw(item, id);
  }

  remove(id) {
    const block = this.places.get(id);
    if (!block) return;
    this.places.delete(id);
    block.ids.splice(block.ids.indexOf(id), 1);
    block.items.get(id)?.remove();
    block.items.delete(id);
    block.px = null;
    if (!block.ids.length) {
      this.observer.unobserve(block.element);
      block.element.remove();
      this.blocks.splice(this.blocks.indexOf(block), 1);
    }
  }

  /** The last blocks exist, those that are not near any more do not. */
  settle() {
    this.blocks.forEach((block, index) => {
      if (block.isNear || index >= this.blocks.length - 2) this.show(block);
      else this.hide(block);
    });
  }

  redraw(id) {
    const item = this.item(id);
    if (item) this.draw(item, id);
  }

  /** Null while it does not exist. */
  item(id) {
    return this.places.get(id)?.items.get(id) ?? null;
  }

  first() {
    return this.blocks[0]?.ids[0] ?? null;
  }

  last() {
    return this.blocks.at(-1)?.ids.at(-1) ?? null;
  }

  /** The neighbour's id, one before or after; null at the ends. */
  neighbour(id, by) {
    const block = this.places.get(id);
    const near = block.ids[block.ids.indexOf(id) + by];
    if (near !== undefined) return near;
    const other = this.blocks[this.blocks.indexOf(block) + by];
    return other?.ids.at(by < 0 ? -1 : 0) ?? null;
  }

  reveal(id) {
    const block = this.places.get(id);
    if (!block) return;
    this.show(block);
    this.item(id).scrollIntoView({ block: "center" });
  }

  look(seen) {
    for (const { target, isIntersecting } of seen) {
      const block = this.blockOf.get(target);
      if (block) block.isNear = isIntersecting;
    }
    this.settle();
    this.onShow();
  }

  show(block) {
    if (block.isShown) return;
    block.isShown = true;
    block.element.style.height = "";
    for (const id of block.ids) this.newItem(block, id);
  }

  hide(block) {
    if (block.isShown) {
      block.px = block.element.offsetHeight;
      this.captionPx = block.px / block.ids.length;
      block.isShown = false;
      block.items.clear();
      block.element.replaceChildren();
    }
    const px = block.px ?? block.ids.length * this.captionPx;
    const height = `${Math.round(px)}px`;
    if (block.element.style.height !== height) block.element.style.height = height;
  }

  /** Text is of another size, or lines of another length. */
  forgetHeights() {
    for (const block of this.blocks) {
      block.px = null;
      if (block.isShown) this.captionPx = block.element.offsetHeight / block.ids.length;
    }
    this.settle();
  }
}
