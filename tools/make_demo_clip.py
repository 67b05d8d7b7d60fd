"""Makes the demo clip: two synthetic people in a short meeting, with the true words and turns.

    python -m tools.make_demo_clip [--out server/assets/demo_clip]

Writes ``clip.flac``, ``reference.json`` and ``reference.rttm``, and reserves the clip's sentences
and voices by hash, so that the demo checkpoint is never trained on them.  The same espeak-ng
gives the same clip.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from tools.demo_whisper.sentences import RESERVED_FILE, text_hash
from tools.demo_whisper.synthesis import (
    SAMPLE_RATE_HZ,
    Samples,
    Speech,
    Synthesizer,
    TimedWord,
    Voice,
)

OUT_DIR = Path(__file__).resolve().parent.parent / "server" / "assets" / "demo_clip"
SEED = 7
LEAD_S, TAIL_S = 0.4, 0.8
PAUSE_BETWEEN_TURNS_S = (0.5, 0.9)
PAUSE_IN_TURN_S = 0.22
PEAK = 0.5
NOISE_DBFS = -62.0

VOICES = {
    "low": Voice("en-us", "m3", rate_wpm=165, pitch=25, pitch_range=45),
    "high": Voice("en-us", "steph", rate_wpm=168, pitch=65, pitch_range=45),
}
TURNS = (
    ("low", ("Hello, this is Robert in Berlin.",)),
    ("high", ("Thank you, Robert.", "What about the budget in Paris?")),
    ("low", ("Maria will review the new budget on Monday.",)),
    ("high", ("Can you send the report with Susan?",)),
    ("low", ("Yes, I will check it.",)),
    ("high", ("The server is ready, but the database is not simple.",)),
    ("low", ("My number is four zero seven two nine.",)),
    ("high", ("Room number thirty one is open.",)),
    ("low", ("Our team in Boston has twenty six people.",)),
    ("high", ("Please update the website and the schedule.",)),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One person speaking without being interrupted."""

    speaker: str
    start_s: float
    speech: Speech

    @property
    def end_s(self) -> float:
        return self.start_s + self.speech.duration_s

    @property
    def words(self) -> list[TimedWord]:
        return [word.shifted(self.start_s) for word in self.speech.words]


def turns(synthesizer: Synthesizer, rng: np.random.Generator) -> list[Turn]:
    """All turns in order, with their times in the clip."""
    made, start_s = [], LEAD_S
    for speaker, sentences in TURNS:
        speech = _joined([synthesizer.say(text, VOICES[speaker]) for text in sentences])
        made.append(Turn(speaker, start_s, speech))
        # Whole milliseconds, so that the reference's three decimals are exact.
        start_s = round(made[-1].end_s + rng.uniform(*PAUSE_BETWEEN_TURNS_S), 3)
    return made


def _joined(parts: list[Speech]) -> Speech:
    pause = np.zeros(round(PAUSE_IN_TURN_S * SAMPLE_RATE_HZ), np.float32)
    samples, words = parts[0].samples, list(parts[0].words)
    for part in parts[1:]:
        samples = np.concatenate([samples, pause])
        offset_s = len(samples) / SAMPLE_RATE_HZ
        words += [word.shifted(offset_s) for word in part.words]
        samples = np.concatenate([samples, part.samples])
    return Speech(samples, tuple(words))


def mix(made: list[Turn], rng: np.random.Generator) -> Samples:
    """The whole clip with slight room noise, 16 kHz mono."""
    length = round((made[-1].end_s + TAIL_S) * SAMPLE_RATE_HZ)
    clip = np.zeros(length, np.float32)
    for turn in made:
        first = round(turn.start_s * SAMPLE_RATE_HZ)
        samples = turn.speech.samples
        clip[first : first + len(samples)] += samples * (PEAK / np.abs(samples).max())
    noise = rng.standard_normal(length) * 10 ** (NOISE_DBFS / 20)
    return (clip + noise).astype(np.float32)


def reference(made: list[Turn]) -> dict[str, object]:
    """The truth about the clip; times in seconds from its start."""
    words = [
        {
            "word": word.text,
            "start": round(word.start_s, 3),
            "end": round(word.end_s, 3),
            "speaker": turn.speaker,
        }
        for turn in made
        for word in turn.words
    ]
    spans = [
        {"speaker": turn.speaker, "start": round(turn.start_s, 3), "end": round(turn.end_s, 3)}
        for turn in made
    ]
    return {"words": words, "turns": spans, "text": " ".join(str(word["word"]) for word in words)}


def rttm(made: list[Turn]) -> str:
    """The turns as NIST RTTM."""
    lines = (
        f"SPEAKER clip 1 {turn.start_s:.3f} {turn.speech.duration_s:.3f} "
        f"<NA> <NA> {turn.speaker} <NA> <NA>\n"
        for turn in made
    )
    return "".join(lines)


def reserve() -> None:
    """Write the hashes that the training recipe leaves out."""
    hashes = {
        "sentences": sorted(text_hash(text) for _, texts in TURNS for text in texts),
        "variants": sorted(text_hash(voice.variant) for voice in VOICES.values()),
    }
    RESERVED_FILE.write_text(json.dumps(hashes, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT_DIR)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    made = turns(Synthesizer(), rng)
    truth = reference(made)
    truth["voices"] = {name: asdict(voice) for name, voice in VOICES.items()}
    soundfile.write(out / "clip.flac", mix(made, rng), SAMPLE_RATE_HZ, subtype="PCM_16")
    (out / "reference.json").write_text(json.dumps(truth, indent=1, ensure_ascii=False) + "\n")
    (out / "reference.rttm").write_text(rttm(made))
    reserve()


if __name__ == "__main__":
    main()
