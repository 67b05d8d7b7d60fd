// How a page proves who it is: a key that its user typed, a link that an audience was given, or
// nothing, where the server wants nothing.
//
// A key and a link go into headers alone. What opens a WebSocket, or reads with a link, is a ticket:
// good once, for half a minute, for one thing.

/** Why the server refused; `code` is one of docs/protocol.md's. */
export class AccessError extends Error {
  constructor({ code, message, retry_after_ms: retryAfterMs = null }, status) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfterMs = retryAfterMs;
  }
}

export class Access {
  /** `key` is asked each time: its user may type another one. */
  constructor({ key = () => "", link = "" } = {}) {
    this.key = key;
    this.link = link;
  }

  /** False where the server is asked without any proof. */
  get hasProof() {
    return Boolean(this.link || this.key());
  }

  /** A ticket to open a stream or, with a session's id, to read that one. Throws AccessError. */
  async ticket(sessionId = null) {
    const wanted = sessionId ? { scope: "view", session_id: sessionId } : { scope: "stream" };
    const answer = await asked("/v1/tickets", {
      method: "POST", body: JSON.stringify(wanted), headers: this.proof(),
    });
    return (await answer.json()).ticket;
  }

  /** Reads something of one session: `path` begins behind its id. Throws AccessError. */
  async read(sessionId, path, headers = {}, signal = undefined) {
    const address = `/v1/sessions/${encodeURIComponent(sessionId)}${path}`;
    const ask = async (proof) => asked(address, { headers: { ...proof, ...headers }, signal });
    if (!this.link) return ask(this.proof());
    try {
      return await ask({ Authorization: `Ticket ${await this.ticket(sessionId)}` });
    } catch (error) {
      // A ticket may have met another server than the one that gave it, or have come too late.
      if (error.status !== 401) throw error;
      return ask({ Authorization: `Ticket ${await this.ticket(sessionId)}` });
    }
  }

  /** Asks for what needs a key. Throws AccessError. */
  async request(path, options = {}) {
    return asked(path, { ...options, headers: this.proof() });
  }

  proof() {
    if (this.link) return { Authorization: `Link ${this.link}` };
    return this.key() ? { Authorization: `Bearer ${this.key()}` } : {};
  }
}

async function asked(path, options) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (!answer.ok) throw new AccessError(await complaint(answer), answer.status);
  return answer;
}

async function complaint(answer) {
  try {
    return await answer.json();
  } catch {
    return { code: "lost", message: `The server answered with ${answer.status}.` };
  }
}
