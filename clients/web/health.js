// The small corner: how far captions are behind what is said, and whether all is well.

const SLOW_SECONDS = 5;

const STAGES = {
  vad: "Speech detection",
  asr: "Recognition",
  diarizer: "Telling speakers apart",
  store: "Saving captions",
};

/** What to say of a `degraded` message. */
export function stageNews(message) {
  const stage = STAGES[message.stage] || "A part of the server";
  return message.over ? `${stage} works again.` : `${stage} is not working just now.`;
}

export class Health {
  constructor(box) {
    this.box = box;
    this.reset();
  }

  reset() {
    this.broken = new Set();
    this.lagSeconds = 0;
    this.delaySeconds = null;
    this.isConnected = null;
    this.draw();
  }

  take(message) {
    if (message.type === "lag") this.lagSeconds = message.seconds;
    if (message.type === "degraded" && message.over) this.broken.delete(message.stage);
    else if (message.type === "degraded") this.broken.add(message.stage);
    // A stage says when it fails; that it works again shows in what it does.
    if (message.type === "final") this.broken.delete("asr");
    if (message.type === "revision") this.broken.delete("diarizer");
    this.draw();
  }

  connection(isConnected) {
    this.isConnected = isConnected;
    this.draw();
  }

  delay(seconds) {
    this.delaySeconds = seconds;
    this.draw();
  }

  draw() {
    const behind = Math.max(this.lagSeconds, this.delaySeconds ?? 0);
    const parts = [];
    if (behind > 0) parts.push(`${behind.toFixed(1)} s behind`);
    let health = "well";
    if (this.isConnected === false) [health, parts[0]] = ["failed", "no connection"];
    else if (this.broken.size) {
      health = "slow";
      parts.push([...this.broken].map((stage) => `${STAGES[stage] ?? stage} is down`).join(", "));
    } else if (behind > SLOW_SECONDS) health = "slow";
    this.box.hidden = this.isConnected === null;
    this.box.dataset.health = health;
    const text = parts.join(" · ") || "all well";
    if (this.box.textContent !== text) this.box.textContent = text;
  }
}
