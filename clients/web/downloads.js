// The transcript as a file, in each format that the server has.

/** Joins the buttons `data-format=…` inside a box; `source()` gives {sessionId, access, before}. */
export function joinDownloads(box, source, tell) {
  for (const button of box.querySelectorAll("button[data-format]")) {
    button.addEventListener("click", () => download(button.dataset.format, source(), tell));
  }
}

async function download(format, { sessionId, access, before }, tell) {
  try {
    // A name that is on its way to the server belongs into the file.
    await before?.();
    const answer = await access.read(sessionId, `/transcript?format=${format}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `captions.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    tell(`The download failed: ${error.message}`);
  }
}
