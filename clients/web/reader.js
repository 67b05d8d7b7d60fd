// One session read along, by someone who is not its talker: /v1/sessions/{id}/events.
//
// Hands out each event once and in order, over lost connections and new servers, until the session
// is over. Where a server shows captions that it then loses, `forgetAfter` is called first.

import { AccessError } from "./access.js";

const FIRST_DELAY_MS = 300;
const DELAY_MS_MAX = 4000;
const HOPELESS = new Set([400, 401, 403, 404, 410]);

export class SessionReader {
  /**
   * `on` has `event(message)`, `session({state, names})`, `forgetAfter(seq)` and
   * `state("connecting" | "live" | "retrying")`.
   */
  constructor(sessionId, access, on) {
    this.sessionId = sessionId;
    this.access = access;
    this.on = on;
    this.storedSeq = 0;
    this.seenSeq = 0;
    this.isDone = false;
    this.isClosed = false;
    this.isOpenSession = true;
    this.delayMs = FIRST_DELAY_MS;
    this.abort = new AbortController();
  }

  /** Resolves when the session is over or `close` was called. Throws AccessError. */
  async run() {
    this.on.state("connecting");
    while (!this.isClosed) {
      try {
        await this.connection();
      } catch (error) {
        if (this.isClosed) return;
        if (error instanceof AccessError && HOPELESS.has(error.status)) throw error;
      }
      if (this.isDone || !this.isOpenSession || this.isClosed) return;
      this.on.state("retrying");
      await new Promise((resolve) => setTimeout(resolve, this.delayMs * (0.5 + Math.random())));
      this.delayMs = Math.min(DELAY_MS_MAX, this.delayMs * 2);
    }
  }

  close() {
    this.isClosed = true;
    this.abort.abort();
  }

  async connection() {
    const place = this.storedSeq ? { "Last-Event-ID": String(this.storedSeq) } : {};
    const answer = await this.access.read(
      this.sessionId, "/events?names=1", place, this.abort.signal);
    if (this.seenSeq > this.storedSeq) this.on.forgetAfter(this.storedSeq);
    this.seenSeq = this.storedSeq;
    this.on.state("live");
    let rest = "";
    const text = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await text.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) this.take(block);
    }
  }

  take(block) {
    const fields = Object.fromEntries(block.split("\n").map((line) => {
      const at = line.indexOf(":");
      return [line.slice(0, at), line.slice(at + 1).trimStart()];
    }));
    if (fields.data === undefined) return;
    const message = JSON.parse(fields.data);
    if (fields.event === "session") {
      this.isOpenSession = message.state === "open";
      this.on.session(message);
      return;
    }
    this.deliver(message, fields.id);
  }

  deliver(message, id) {
    if (message.seq !== undefined) {
      if (id !== undefined) this.storedSeq = Number(id);
      if (message.seq <= this.seenSeq) return;
      this.seenSeq = message.seq;
      this.delayMs = FIRST_DELAY_MS;
    }
    this.on.event(message);
    if (message.type === "done") this.isDone = true;
  }
}
