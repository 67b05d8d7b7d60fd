// What the status line shows: elapsed audio, delay of finals, speed. As clients/latency.py.

const PACKETS_KEPT = 36000;
const DELAYS_KEPT = 1000;

export class Figures {
  constructor() {
    this.ends = [];
    this.times = [];
    this.delays = [];
    this.captioned = 0;
    this.firstMs = null;
  }

  get seconds() {
    return this.ends.at(-1) ?? 0;
  }

  sent(endSeconds) {
    const now = performance.now();
    this.firstMs ??= now;
    this.ends.push(endSeconds);
    this.times.push(now);
    if (this.ends.length > PACKETS_KEPT) {
      this.ends.splice(0, PACKETS_KEPT / 2);
      this.times.splice(0, PACKETS_KEPT / 2);
    }
  }

  finalCame(endSeconds) {
    this.captioned = Math.max(this.captioned, endSeconds);
    let index = this.ends.findLastIndex((end) => end < endSeconds) + 1;
    index = Math.min(index, this.ends.length - 1);
    if (index < 0) return;
    this.delays.push((performance.now() - this.times[index]) / 1000);
    if (this.delays.length > DELAYS_KEPT) this.delays.shift();
  }

  quantile(share) {
    const ranked = [...this.delays].sort((a, b) => a - b);
    return ranked[Math.min(ranked.length - 1, Math.floor(share * ranked.length))] ?? null;
  }

  /** Of the last few captions, for a corner that says how it is now. */
  get recentDelay() {
    const recent = this.delays.slice(-5).sort((a, b) => a - b);
    return recent[Math.floor(recent.length / 2)] ?? null;
  }

  get rtfx() {
    const spentMs = this.firstMs === null ? 0 : performance.now() - this.firstMs;
    return spentMs > 0 ? (this.captioned * 1000) / spentMs : 0;
  }
}
