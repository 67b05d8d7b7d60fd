// Messages folded into what a viewer should see now; clients/live.py is the same in Python.
//
// Bounds: CAPTIONS_MAX finals (the oldest go first), OPEN_PER_LANE_MAX open lines per lane,
// UNDOABLE_MAX changes that can be taken back.

// A working day of lively talk.
export const CAPTIONS_MAX = 20000;
const OPEN_PER_LANE_MAX = 4;
// A server shows at most 512 events of a session that its store has not taken.
const UNDOABLE_MAX = 1024;

export class CaptionFold {
  constructor() {
    this.captions = new Map();
    this.open = new Map();
    this.dropped = 0;
    this.done = null;
    this.undo = [];
  }

  /** Takes one message; returns the id of the caption that is new or changed, else null. */
  apply(message) {
    switch (message.type) {
      case "partial": return this.applyPartial(message);
      case "final": return this.applyFinal(message);
      case "revision": return this.applyRevision(message);
      case "gap": return this.closeLines(message.lane, message.end);
      case "done":
        this.open.clear();
        this.done = message;
        return null;
      default: return null;
    }
  }

  /**
   * The server died before it could store what came after this event, and makes it anew: as if it
   * had never come. Returns the ids of the captions that are gone or changed.
   */
  forgetAfter(seq) {
    const changed = new Set();
    while (this.undo.length && this.undo.at(-1).seq > seq) {
      const { id, before } = this.undo.pop();
      changed.add(id);
      if (before === null) this.captions.delete(id);
      else if (this.captions.has(id)) this.captions.set(id, before);
    }
    if (changed.size) this.open.clear();
    return changed;
  }

  note(seq, id, before) {
    this.undo.push({ seq, id, before });
    if (this.undo.length > UNDOABLE_MAX) this.undo.shift();
  }

  get openLines() {
    return [...this.open.values()].sort((a, b) => a.lane - b.lane || a.start - b.start);
  }

  applyPartial(partial) {
    if (this.captions.has(partial.caption_id) || this.done) return null;
    if (!partial.text) {
      this.open.delete(partial.caption_id);
      return null;
    }
    this.open.set(partial.caption_id, partial);
    const lines = this.openLines.filter((line) => line.lane === partial.lane);
    for (const line of lines.slice(0, -OPEN_PER_LANE_MAX)) this.open.delete(line.caption_id);
    return null;
  }

  applyFinal(final) {
    this.closeLines(final.lane, final.start + 0.0005);
    this.open.delete(final.caption_id);
    this.captions.set(final.caption_id, { ...final, rev: 0 });
    this.note(final.seq, final.caption_id, null);
    while (this.captions.size > CAPTIONS_MAX) {
      this.captions.delete(this.captions.keys().next().value);
      this.dropped += 1;
    }
    return final.caption_id;
  }

  applyRevision(revision) {
    const caption = this.captions.get(revision.caption_id);
    if (!caption || revision.rev <= caption.rev) return null;
    const words = (caption.words ?? []).map((word, index) => {
      const run = revision.runs.findLast((one) => one.from_word <= index && index < one.to_word);
      return run ? corrected(word, run.speaker) : word;
    });
    const speaker = words.length ? caption.speaker : revision.runs[0]?.speaker ?? caption.speaker;
    this.captions.set(revision.caption_id, { ...caption, words, speaker, rev: revision.rev });
    this.note(revision.seq, revision.caption_id, caption);
    return revision.caption_id;
  }

  closeLines(lane, before) {
    for (const line of this.openLines) {
      if (line.lane === lane && line.start < before) this.open.delete(line.caption_id);
    }
    return null;
  }
}

/** A word of another speaker; `was` says whom it was shown as before, where that was somebody. */
function corrected(word, speaker) {
  const was = word.was ?? word.speaker;
  return { ...word, speaker, was: was === speaker ? null : was };
}

/**
 * A caption's words as runs of one speaker: [{speaker, start, text, was}]. Of an open line, words
 * that nobody is known for yet stand with those before them.
 */
export function speakerRuns(caption, isOpen = false) {
  if (!caption.words?.length) {
    return [{ speaker: caption.speaker, start: caption.start, text: plain(caption.text) }];
  }
  const runs = [];
  for (const word of caption.words) {
    let run = runs.at(-1);
    const isSame = run && (run.speaker === word.speaker || (isOpen && word.speaker === null));
    if (!isSame) {
      run = { speaker: word.speaker, start: word.start, text: "", words: 0, was: null };
      runs.push(run);
    }
    run.text += run.text && !word.glued ? ` ${plain(word.word)}` : plain(word.word);
    run.words += 1;
    run.was ??= word.was ?? null;
  }
  return runs;
}

// As Python has it: U+FEFF is none, some controls are.
const SPACE = /(?!\ufeff)[\s\x1c-\x1f\x85]/gu;
// Controls, lone surrogates, and what would turn around the text that follows.
const REMOVED = /[\p{Cc}\p{Cs}\u202a-\u202e\u2066-\u2069]/gu;

/** One inert line, as streaming/exports/transcript.py makes it. */
export function plain(text) {
  const line = text.replace(SPACE, " ").replace(REMOVED, "");
  return line.replace(/ {2,}/g, " ").replace(/^ | $/g, "");
}
