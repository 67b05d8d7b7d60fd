// One caption session over WebSocket: the rules of docs/protocol.md, as clients/stream.py has them.
//
// Keeps audio until the server has stored it, never sends beyond the credit, reconnects with
// `resume`, and hands out each durable event exactly once and in order.
// Bounds: unacknowledged audio by the credit and HELD_BYTES_MAX (send() waits, offer() refuses).

import { AccessError } from "./access.js";

const SUBPROTOCOL = "captiond.v1";
const TICKET_PREFIX = "captiond.ticket.";
const PATH = "/v1/stream";
const FATAL = new Set([1002, 1003, 1007, 1008, 1009, 1010, 4400, 4401, 4403, 4404, 4409, 4410]);
const FEW_TRIES = new Set([1011, 4429, 4500]);
const CLOSE_CODE_OF = {
  bad_message: 4400, bad_audio: 4400, unsupported: 4400, out_of_order: 4400, too_fast: 4429,
  too_big: 1009, unauthorized: 4401, forbidden: 4403, unknown_session: 4404, idle: 4408,
  superseded: 4409, session_expired: 4410, overloaded: 1013, draining: 1012,
  engine_failed: 4500, internal: 1011,
};
const RETRY = { firstMs: 200, maxMs: 8000, tries: 10, totalMs: 60000, fewTries: 3, openingTries: 3 };
const HELD_BYTES_MAX = 64 * 1024 * 1024;
const MESSAGES_PER_SECOND = 250;
const SOCKET_BUFFER_MAX = 1024 * 1024;
const KEEPALIVE_MS = 15000;
const PROGRESS_UPTIME_MS = 5000;

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Why a session ended early; `code` is one of docs/protocol.md's, or "lost". */
export class StreamError extends Error {
  constructor(code, message, closeCode, retryAfterMs = null) {
    super(message);
    this.code = code;
    this.closeCode = closeCode;
    this.retryAfterMs = retryAfterMs;
  }
}

/** Unacknowledged audio in order, addressed by byte. */
class Backlog {
  constructor(frameBytes, messageBytesMax) {
    this.frameBytes = frameBytes;
    this.messageBytesMax = messageBytesMax;
    this.packets = [];
    this.next = 0;
    this.accepted = 0;
    this.stored = 0;
    this.credit = 0;
  }

  room() {
    const free = HELD_BYTES_MAX - (this.accepted - this.stored);
    return Math.max(0, Math.min(this.credit - this.accepted, free, this.messageBytesMax));
  }

  accept(bytes) {
    this.packets.push({ start: this.accepted, bytes });
    this.accepted += bytes.length;
  }

  acknowledge(frame) {
    const stored = Math.min(frame * this.frameBytes, this.accepted);
    if (stored <= this.stored) return false;
    this.stored = stored;
    let gone = 0;
    while (gone < this.next && end(this.packets[gone]) <= stored) gone += 1;
    this.packets.splice(0, gone);
    this.next -= gone;
    return true;
  }

  grant(frame) {
    this.credit = frame * this.frameBytes;
  }

  /**
   * Offer everything from a frame on again; false where that audio is not held. What lies before
   * it and is not stored is kept all the same: the next server may be a new process.
   */
  rewind(frame) {
    const at = frame * this.frameBytes;
    if (at < this.stored || at > this.accepted) return false;
    this.next = this.packets.findIndex((packet) => end(packet) > at);
    if (this.next < 0) this.next = this.packets.length;
    const cut = this.packets[this.next];
    if (cut && cut.start < at) {
      const parts = [
        { start: cut.start, bytes: cut.bytes.subarray(0, at - cut.start) },
        { start: at, bytes: cut.bytes.subarray(at - cut.start) },
      ];
      this.packets.splice(this.next, 1, ...parts);
      this.next += 1;
    }
    return true;
  }

  get isSent() {
    return this.next === this.packets.length;
  }

  /** What waits, joined into one message; null where there is nothing, or no credit. */
  take() {
    const joined = [];
    let size = 0;
    while (this.next < this.packets.length && end(this.packets[this.next]) <= this.credit) {
      const { bytes } = this.packets[this.next];
      if (joined.length && size + bytes.length > this.messageBytesMax) break;
      joined.push(bytes);
      size += bytes.length;
      this.next += 1;
    }
    return joined.length ? new Blob(joined) : null;
  }
}

const end = (packet) => packet.start + packet.bytes.length;

/** Opens, feeds and reads one session. */
export class CaptionStream {
  /**
   * `start` is the start message, `access` of access.js; `on` has `event(message)`, `ready(message)`,
   * `state("connecting" | "live" | "retrying" | "done", detail)`.
   */
  constructor(start, access, on) {
    this.start = start;
    this.access = access;
    this.on = on;
    const { sample_rate: rate, channels } = start.audio;
    this.frameBytes = 2 * channels;
    this.backlog = new Backlog(this.frameBytes, Math.min(this.frameBytes * rate, 256 * 1024));
    this.session = null;
    this.lastSeq = 0;
    this.hasEnd = false;
    this.isDone = false;
    this.isClosed = false;
    this.failure = null;
    this.connected = null;
    this.wakers = [];
    this.tries = 0;
    this.triesSince = null;
  }

  /** Resolves after `done`; rejects with a StreamError where the session is given up. */
  async run() {
    try {
      while (!this.isDone) {
        const lost = await this.connection();
        if (!this.isDone) await this.beforeRetry(lost);
      }
      this.on.state("done");
    } catch (error) {
      this.failure = error;
      throw error;
    } finally {
      this.isClosed = true;
      this.wake();
    }
  }

  /** Take audio of any length, waiting for credit. */
  async send(bytes) {
    let rest = bytes;
    while (rest.length) {
      if (this.isClosed || this.hasEnd) return;
      const room = Math.min(this.backlog.room(), rest.length);
      if (room === 0) {
        await this.changed();
        continue;
      }
      this.backlog.accept(rest.subarray(0, room));
      rest = rest.subarray(room);
      this.wake();
    }
  }

  /** Take a live packet now, or refuse it: false means it is lost. */
  offer(bytes) {
    if (this.isClosed || this.hasEnd || this.backlog.room() < bytes.length) return false;
    this.backlog.accept(bytes);
    this.wake();
    return true;
  }

  end() {
    this.hasEnd = true;
    this.wake();
  }

  /** Leave at once; the server keeps what is final. */
  abandon() {
    this.isClosed = true;
    this.socket?.close(1000);
    this.wake();
  }

  wake() {
    const wakers = this.wakers;
    this.wakers = [];
    for (const resolve of wakers) resolve();
  }

  changed() {
    return new Promise((resolve) => this.wakers.push(resolve));
  }

  /** One connection, from the first word to the last; returns why it is over. */
  async connection() {
    this.on.state(this.session ? "retrying" : "connecting");
    const protocols = [SUBPROTOCOL];
    try {
      if (this.access.hasProof) protocols.push(TICKET_PREFIX + await this.access.ticket());
    } catch (error) {
      return error instanceof AccessError ? refusedBy(error) : lostBy(1006, "", null);
    }
    if (this.isClosed) return lostBy(1006, "", null);
    return this.conversation(protocols);
  }

  conversation(protocols) {
    return new Promise((resolve) => {
      const scheme = location.protocol === "https:" ? "wss" : "ws";
      const socket = new WebSocket(`${scheme}://${location.host}${this.path()}`, protocols);
      const openedMs = performance.now();
      let notice = null;
      this.socket = socket;
      socket.onopen = () => {
        this.connected = socket;
        socket.send(JSON.stringify(this.greeting()));
      };
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "error") notice = message;
        else this.receive(socket, message);
      };
      socket.onclose = async ({ code, reason }) => {
        if (performance.now() - openedMs > PROGRESS_UPTIME_MS) this.progressed();
        this.wake();
        const wasOpen = notice || code !== 1006 || this.connected === socket;
        resolve(wasOpen ? lostBy(code, reason, notice) : await this.refusal());
      };
    });
  }

  /** Why a WebSocket was not let in: browsers hide it, but a plain request is told. */
  async refusal() {
    try {
      await this.access.request(this.path());
    } catch (error) {
      if (error instanceof AccessError) return refusedBy(error);
    }
    return lostBy(1006, "", null);
  }

  /** A server that takes no new sessions lets in who says that it comes back. */
  path() {
    return this.session ? `${PATH}?resume=1` : PATH;
  }

  greeting() {
    if (!this.session) return this.start;
    return {
      type: "resume",
      session_id: this.session.session_id,
      resume_token: this.session.resume_token,
      last_seq: this.lastSeq,
    };
  }

  receive(socket, message) {
    if (message.type === "ready") this.begin(socket, message);
    else if (message.type === "ack") this.acknowledge(message);
    else this.deliver(socket, message);
  }

  begin(socket, ready) {
    if (!this.backlog.rewind(ready.resume_from_frame)) {
      socket.close(4404, "audio not held");
      return;
    }
    this.backlog.grant(ready.credit_until_frame);
    if (this.session && ready.resume_from_frame > this.session.resume_from_frame) this.progressed();
    this.session = ready;
    // The server died before it could store the rest: it is made anew.
    this.lastSeq = Math.min(this.lastSeq, ready.seq);
    this.on.ready(ready);
    this.on.state("live");
    this.pump(socket);
    this.wake();
  }

  acknowledge(ack) {
    if (this.backlog.acknowledge(ack.stored_through_frame)) this.progressed();
    this.backlog.grant(ack.credit_until_frame);
    this.wake();
  }

  deliver(socket, message) {
    if (message.seq !== undefined) {
      if (message.seq <= this.lastSeq) return;
      if (message.seq !== this.lastSeq + 1) {
        socket.close(4500, "a missing event");
        return;
      }
      this.lastSeq = message.seq;
      this.progressed();
    }
    this.on.event(message);
    if (message.type === "done") {
      this.isDone = true;
      socket.close(1000);
    }
  }

  /** Sends what waits for as long as this socket is the present one. */
  async pump(socket) {
    let endSent = false;
    let quietSinceMs = performance.now();
    let dueMs = 0;
    const isOpen = () => this.socket === socket && socket.readyState === WebSocket.OPEN;
    while (isOpen()) {
      if (socket.bufferedAmount > SOCKET_BUFFER_MAX) {
        await wait(20);
        continue;
      }
      // What comes meanwhile goes together, however small the packets are.
      if (performance.now() < dueMs) await wait(dueMs - performance.now());
      const message = this.nextMessage(endSent, performance.now() - quietSinceMs > KEEPALIVE_MS);
      if (message === null) {
        await Promise.race([this.changed(), wait(KEEPALIVE_MS / 3)]);
        continue;
      }
      endSent = endSent || message === END;
      socket.send(message);
      quietSinceMs = performance.now();
      dueMs = quietSinceMs + 1000 / this.messagesPerSecond();
    }
  }

  /** Each one counts, and a server sends away who sends too many. */
  messagesPerSecond() {
    const allowed = this.session.limits.packets_per_second_max ?? 2 * MESSAGES_PER_SECOND;
    return Math.min(MESSAGES_PER_SECOND, Math.max(1, allowed / 2));
  }

  nextMessage(endSent, isQuiet) {
    const audio = this.backlog.take();
    if (audio) return audio;
    if (this.hasEnd && this.backlog.isSent && !endSent) return END;
    if (!isQuiet) return null;
    // Neither changes anything: an end that was said before, or no audio.
    return endSent ? END : new Uint8Array(0);
  }

  progressed() {
    this.tries = 0;
    this.triesSince = null;
  }

  async beforeRetry(lost) {
    if (this.isClosed) throw lost;
    this.triesSince ??= performance.now();
    let triesMax = FEW_TRIES.has(lost.closeCode) ? RETRY.fewTries : RETRY.tries;
    if (!this.session) triesMax = RETRY.openingTries;
    const base = Math.min(RETRY.maxMs, RETRY.firstMs * 2 ** this.tries);
    const delayMs = Math.max(base * (0.5 + Math.random()), lost.retryAfterMs ?? 0);
    const spentMs = performance.now() - this.triesSince;
    const isOver = this.tries >= triesMax || spentMs + delayMs > RETRY.totalMs;
    if (FATAL.has(lost.closeCode) || isOver) throw lost;
    this.tries += 1;
    this.on.state("retrying", { reason: lost, delayMs });
    await Promise.race([wait(delayMs), this.untilClosed()]);
    if (this.isClosed) throw lost;
  }

  async untilClosed() {
    while (!this.isClosed) await this.changed();
  }
}

const END = '{"type":"end"}';

function refusedBy({ code, message, retryAfterMs }) {
  return new StreamError(code, message, CLOSE_CODE_OF[code] ?? 1006, retryAfterMs);
}

function lostBy(code, reason, notice) {
  if (notice) {
    const closeCode = code === 1006 ? CLOSE_CODE_OF[notice.code] ?? 1011 : code;
    return new StreamError(notice.code, notice.message, closeCode, notice.retry_after_ms);
  }
  return new StreamError("lost", reason || "The connection was lost.", code);
}
