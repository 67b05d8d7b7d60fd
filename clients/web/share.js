// The dialog that makes addresses for an audience: a page to read along, and an overlay.

export class ShareDialog {
  /** `source()` gives {sessionId, access}. */
  constructor(dialog, source) {
    this.dialog = dialog;
    this.source = source;
    this.error = dialog.querySelector(".error");
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.make();
    });
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    for (const button of dialog.querySelectorAll("button[data-copy]")) {
      button.addEventListener("click", () => this.copy(button));
    }
  }

  open() {
    this.error.hidden = true;
    this.dialog.querySelector(".links").hidden = true;
    this.dialog.showModal();
  }

  async make() {
    const { sessionId, access } = this.source();
    const hours = Number(this.dialog.querySelector("[name=hours]").value);
    try {
      const answer = await access.request(`/v1/sessions/${encodeURIComponent(sessionId)}/links`, {
        method: "POST", body: JSON.stringify({ hours }),
      });
      const made = await answer.json();
      this.field("view").value = location.origin + made.view_path;
      this.field("overlay").value = location.origin + made.overlay_path;
      this.dialog.querySelector(".links").hidden = false;
      this.error.hidden = true;
      this.field("view").focus();
    } catch (error) {
      this.error.textContent = `No link was made: ${error.message}`;
      this.error.hidden = false;
    }
  }

  field(name) {
    return this.dialog.querySelector(`[name=${name}]`);
  }

  async copy(button) {
    const field = this.field(button.dataset.copy);
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    } catch {
      // Not a secure page: the text is selected, ctrl-C copies it.
    }
  }
}
