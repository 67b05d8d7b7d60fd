// How its reader wants the page: size of the text, contrast, light or dark, motion. Kept in this
// browser. What says "as the system" follows the system's setting.

const ITEM = "captiond.reading";
const DEFAULTS = { size: "100", theme: "system", contrast: "system", motion: "system" };
const SYSTEM = {
  contrast: window.matchMedia("(prefers-contrast: more)"),
  motion: window.matchMedia("(prefers-reduced-motion: reduce)"),
};

function stored() {
  try {
    return JSON.parse(localStorage.getItem(ITEM)) ?? {};
  } catch {
    return {}; // storage is off, or holds nonsense
  }
}

/** Joins the fields `data-preference=…` inside a box to the page. */
export class Preferences {
  constructor(box, onChange = () => {}) {
    this.values = { ...DEFAULTS, ...stored() };
    this.onChange = onChange;
    for (const field of box.querySelectorAll("[data-preference]")) {
      const name = field.dataset.preference;
      field.value = this.values[name];
      field.addEventListener("input", () => this.set(name, field.value));
    }
    for (const query of Object.values(SYSTEM)) query.addEventListener("change", () => this.show());
    this.show();
  }

  set(name, value) {
    this.values[name] = value;
    try {
      localStorage.setItem(ITEM, JSON.stringify(this.values));
    } catch {
      // Then it holds until the page is closed.
    }
    this.show();
    this.onChange();
  }

  show() {
    const { size, theme, contrast, motion } = this.values;
    const page = document.documentElement;
    page.style.setProperty("--reading", String(Number(size) / 100 || 1));
    page.dataset.theme = theme;
    const isOn = (wanted, value, query) => (value === "system" ? query.matches : value === wanted);
    page.dataset.contrast = isOn("more", contrast, SYSTEM.contrast) ? "more" : "normal";
    page.dataset.motion = isOn("less", motion, SYSTEM.motion) ? "less" : "normal";
  }
}
