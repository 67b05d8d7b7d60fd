"""Makes the short clips that the tests of languages and keywords caption, with what is said.

    python -m tools.make_test_speech [--out tests/system/speech]

Writes ``german.ogg``, ``names.ogg`` and ``speech.json``. They are committed, so that those tests
need no synthesizer; their voice never trained the demo checkpoint.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile

from tools.demo_whisper.corpus import HELD_OUT_VARIANTS
from tools.demo_whisper.sentences import Sentence
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, Synthesizer, Voice

OUT_DIR = Path(__file__).resolve().parent.parent / "tests" / "system" / "speech"
PAUSE_S = 1.0
"""Ends an utterance at every endpointing silence that is offered by a preset."""
PEAK = 0.5
NOISE_DBFS = -62.0
VARIANT = HELD_OUT_VARIANTS[0]

GERMAN = (
    Sentence(
        "Anna wird den Vertrag am Montag prüfen.", "de", "Anna will check the contract on Monday."
    ),
    Sentence("Hallo, hier ist Robert in Berlin.", "de", "Hello, this is Robert in Berlin."),
    Sentence(
        "Kannst du die Datenbank mit Maria testen?", "de", "Can you test the database with Maria?"
    ),
)
NAMES = (
    Sentence("Laura will review the new budget on Monday.", "en"),
    Sentence("Can you check the contract with Robert?", "en"),
    Sentence("Hello, this is Susan in Paris.", "en"),
)
CLIPS = {
    "german": (Voice("de", VARIANT, rate_wpm=150), GERMAN),
    "names": (Voice("en-us", VARIANT, rate_wpm=155), NAMES),
}


def spoken(synthesizer: Synthesizer, voice: Voice, sentences: tuple[Sentence, ...]) -> Samples:
    """The sentences with pauses around them and a little room noise."""
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE_HZ), np.float32)
    parts = [pause]
    for sentence in sentences:
        samples = synthesizer.say(sentence.text, voice).samples
        parts += [samples * (PEAK / np.abs(samples).max()), pause]
    clip = np.concatenate(parts)
    noise = np.random.default_rng(1).standard_normal(len(clip), np.float32)
    return (clip + noise * np.float32(10 ** (NOISE_DBFS / 20))).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.make_test_speech")
    parser.add_argument("--out", type=Path, default=OUT_DIR)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    synthesizer = Synthesizer()
    for name, (voice, sentences) in CLIPS.items():
        samples = spoken(synthesizer, voice, sentences)
        soundfile.write(out / f"{name}.ogg", samples, SAMPLE_RATE_HZ, format="OGG", subtype="OPUS")
    told = {
        name: {"voice": asdict(voice), "sentences": [asdict(sentence) for sentence in sentences]}
        for name, (voice, sentences) in CLIPS.items()
    }
    (out / "speech.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
