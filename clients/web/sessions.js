// The dialog with past sessions: open one, read it, name its speakers, save it, delete it.

const STATES = {
  open: "running", done: "", expired: "nobody came back", interrupted: "interrupted",
};

export class SessionsDialog {
  /** `access` asks the server, `open(id)` shows a session on the page. */
  constructor(dialog, access, open) {
    Object.assign(this, { dialog, access, openSession: open });
    this.list = dialog.querySelector("ul");
    this.error = dialog.querySelector(".error");
    this.more = dialog.querySelector(".more");
    this.more.addEventListener("click", () => this.load());
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  }

  async open() {
    this.before = null;
    this.list.replaceChildren();
    this.dialog.showModal();
    await this.load();
  }

  async load() {
    const place = this.before ? `?before=${encodeURIComponent(this.before)}` : "";
    try {
      const answer = await this.access.request(`/v1/sessions${place}`);
      const { sessions, next_before: before } = await answer.json();
      this.before = before;
      this.list.append(...sessions.map((session) => this.item(session)));
      this.say(this.list.children.length ? "" : "There are none yet.");
    } catch (error) {
      this.say(`The list could not be read: ${error.message}`);
    }
    this.more.hidden = !this.before;
  }

  say(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
  }

  item(session) {
    const item = document.createElement("li");
    const open = this.button(item, titleOf(session), "quiet open", () => {
      this.dialog.close();
      this.openSession(session.session_id);
    });
    open.dataset.session = session.session_id;
    const note = item.appendChild(document.createElement("span"));
    note.className = "aside";
    note.textContent = STATES[session.state] ?? session.state;
    const remove = this.button(item, "Delete", "quiet", () => this.remove(session, item, remove));
    remove.setAttribute("aria-label", `Delete the session of ${titleOf(session)}`);
    return item;
  }

  button(item, text, name, act) {
    const button = item.appendChild(document.createElement("button"));
    button.type = "button";
    button.className = name;
    button.textContent = text;
    button.addEventListener("click", act);
    return button;
  }

  /** Asks again on the same button: what is deleted is gone. */
  async remove(session, item, button) {
    if (!button.dataset.sure) {
      button.dataset.sure = "asked";
      button.textContent = "Really delete?";
      button.setAttribute("aria-label", `Really delete the session of ${titleOf(session)}?`);
      return;
    }
    try {
      await this.access.request(`/v1/sessions/${session.session_id}`, { method: "DELETE" });
      item.remove();
    } catch (error) {
      this.say(`It could not be deleted: ${error.message}`);
    }
  }
}

function titleOf({ created_at: created, ended_at: ended }) {
  const start = new Date(created);
  const day = start.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  if (!ended) return day;
  const minutes = Math.max(1, Math.round((new Date(ended) - start) / 60000));
  return `${day}, ${minutes} min`;
}
