// One run of captioning: a source of audio, a stream, and what is said about them meanwhile.

import { CaptionStream, StreamError } from "./stream.js";
import { Figures } from "./figures.js";
import { stageNews } from "./health.js";
import { clock } from "./view.js";

const ADVICE = {
  unauthorized: "This server wants an API key. Enter it under Settings, then start again.",
  overloaded: "The server has no room for another session just now.",
  too_fast: "The server limits how many sessions one key may have.",
  superseded: "This session was taken over by another page.",
  draining: "The server is being restarted.",
  lost: "The server cannot be reached. Check the network and that captiond is running.",
};

/** What the user can do about an error. */
export function advice(error) {
  if (!(error instanceof StreamError)) return error.message;
  const known = ADVICE[error.code];
  if (!known) return `${error.message} (${error.code})`;
  return error.code === "lost" || error.message === known ? known : `${known} ${error.message}`;
}

export class Talk {
  /**
   * `page` has `opened(ready)`, `message(message)`, `forgetAfter(seq)`, `state(name, text)`,
   * `tell(text)`, `level(value)` and `connection(isThere)`.
   */
  constructor(page, access) {
    this.page = page;
    this.access = access;
    this.stream = null;
    this.source = null;
    this.figures = new Figures();
    this.engines = [];
    this.done = null;
    this.lostSeconds = 0;
    this.isStopping = false;
    this.isDraining = false;
    this.isOpened = false;
  }

  /** From the source's opening to the last caption. Throws StreamError, SourceError. */
  async run(openSource, settings) {
    try {
      this.source = await openSource();
      const start = {
        type: "start", audio: { encoding: "pcm_s16le", ...this.source.format }, ...settings,
      };
      this.stream = new CaptionStream(start, this.access, {
        ready: (ready) => this.takeReady(ready),
        event: (message) => this.takeEvent(message),
        state: (state, detail) => this.takeState(state, detail),
      });
      await this.stream.run();
    } finally {
      this.source?.close?.();
    }
  }

  /** No more audio; the captions of what was said still come. False where nothing was opened. */
  stop() {
    this.isStopping = true;
    if (!this.stream?.session) {
      this.stream?.abandon();
      return false;
    }
    this.page.state("busy", "Finishing…");
    this.source.stop();
    return true;
  }

  takeReady(ready) {
    this.engines = Object.values(ready.engines).filter((name) => name && name !== "none");
    this.page.forgetAfter(ready.seq);
    if (this.isOpened) return;
    this.isOpened = true;
    this.page.opened(ready);
    this.feed();
  }

  async feed() {
    const { source, stream, figures } = this;
    try {
      await source.start({
        level: (value) => this.page.level(value),
        packet: async (bytes, endSeconds) => {
          if (!source.isLive) await stream.send(bytes);
          else if (!stream.offer(bytes)) this.noteLoss(bytes);
          figures.sent(endSeconds);
        },
      });
    } catch (error) {
      this.page.tell(advice(error));
    }
    if (!this.isStopping) this.page.state("busy", "Finishing…");
    stream.end();
  }

  noteLoss(bytes) {
    this.lostSeconds += bytes.length / 2 / this.source.format.sample_rate;
    this.page.tell(`The server could not take ${this.lostSeconds.toFixed(1)} s of audio while it `
      + "was away; those words are missing.");
  }

  takeEvent(message) {
    if (message.type === "final") this.figures.finalCame(message.end);
    if (message.type === "gap") {
      const span = `${clock(message.start)} to ${clock(message.end)}`;
      this.page.tell(`No captions from ${span}: ${message.reason}.`);
    }
    if (message.type === "degraded") this.page.tell(stageNews(message));
    if (message.type === "draining") {
      this.page.tell("The server is being restarted; reconnecting by itself.");
      this.isDraining = true;
    }
    if (message.type === "done") this.done = message;
    this.page.message(message);
  }

  takeState(state, detail) {
    this.page.connection(state !== "retrying");
    if (state === "live") {
      if (this.isDraining) this.page.tell("");
      this.isDraining = false;
      this.page.state("live", this.source.isLive ? "Listening" : "Captioning");
    } else if (state === "retrying") {
      const seconds = detail ? Math.ceil(detail.delayMs / 1000) : 0;
      const again = seconds ? `trying again in ${seconds} s` : "trying…";
      // The server's own words: models may be loading, or all places taken.
      const { code, message } = detail?.reason ?? {};
      const busy = code === "overloaded" && message
        && `${message[0].toUpperCase()}${message.slice(1)} (${again})`;
      this.page.state("retrying", busy || `Connection lost, ${again}`);
    } else if (state === "connecting") {
      this.page.state("connecting", "Connecting…");
    }
  }

  /** One line: engines, audio, delays, speed. */
  get summary() {
    const { figures, done } = this;
    const parts = [...this.engines, clock(figures.seconds)];
    const [p50, p95] = [figures.quantile(0.5), figures.quantile(0.95)];
    if (p50 !== null) parts.push(`captions after ${p50.toFixed(1)} s (p95 ${p95.toFixed(1)} s)`);
    const rtfx = done?.rtfx ?? figures.rtfx;
    if (rtfx) parts.push(`RTFx ${rtfx < 100 ? rtfx.toFixed(1) : Math.round(rtfx)}`);
    if (done) parts.push(`${done.words} words`, `${done.speakers} speakers`);
    return parts.join(" · ");
  }
}
