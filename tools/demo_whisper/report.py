"""What the demo checkpoint can do, measured: ``make model-report``.

    python -m tools.demo_whisper.report [--folder FOLDER] [--seed SEED] [--only PART …]

Everything is heard through transformers' own ``generate``, as with a hub checkpoint, except the
short contexts, which the library cannot do and ``decoding.greedy`` can.  A new seed gives new
clips of the held-out voices.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import soundfile
import torch
from rich.console import Console
from rich.table import Table
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline

from tools.demo_whisper import noise
from tools.demo_whisper.corpus import (
    Clip,
    ClipPlan,
    Corpus,
    Split,
    Utterance,
    find_recordings,
)
from tools.demo_whisper.decoding import greedy, wer
from tools.demo_whisper.model import CONTEXT_MARGIN_S, LogMel, encode
from tools.demo_whisper.sentences import SPELLINGS, draw, respelled
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, Speech
from tools.demo_whisper.word_times import start_errors_s

ASSETS = Path(__file__).resolve().parents[2] / "server" / "assets"
WINDOW_S = 30

BATCH = 4  # windows of 30 s decoded together


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of the report; ``is_met`` is None where nothing was promised."""

    name: str
    value: float
    promise: str = ""
    is_met: bool | None = None


Part = Callable[["Listener", Corpus], list[Measurement]]


def at_most(name: str, value: float, bound: float) -> Measurement:
    return Measurement(name, value, f"≤ {bound:g}", value <= bound)


def at_least(name: str, value: float, bound: float) -> Measurement:
    return Measurement(name, value, f"≥ {bound:g}", value >= bound)


class Listener:
    """The checkpoint, loaded as any hub checkpoint is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whisper = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.whisper.eval()
        self.processor = WhisperProcessor.from_pretrained(folder)
        self.log_mel = LogMel()

    def texts(
        self, windows: Sequence[Samples], language: str | None, **options: object
    ) -> list[str]:
        """What ``generate`` hears in each window of at most 30 s, greedily."""
        heard: list[str] = []
        for first in range(0, len(windows), BATCH):
            inputs = self.processor(
                list(windows[first : first + BATCH]),
                sampling_rate=SAMPLE_RATE_HZ,
                return_tensors="pt",
            )
            with torch.inference_mode():
                ids = self.whisper.generate(inputs.input_features, language=language, **options)
            heard += self.processor.batch_decode(ids, skip_special_tokens=True)
        return heard

    def prompted(self, windows: Sequence[Samples], prompt: str) -> list[str]:
        """What is heard in English behind ``prompt``."""
        ids = torch.tensor(self.processor.get_prompt_ids(prompt), dtype=torch.long)
        heard = self.texts(windows, "en", prompt_ids=ids)
        return [text.replace(f" {prompt}", "", 1) for text in heard]

    def short_text(self, window: Samples, language: str) -> str:
        """What is heard when the encoder is given ``window`` and 2 s of silence, not 30 s."""
        padded = np.pad(window, (0, int(CONTEXT_MARGIN_S * SAMPLE_RATE_HZ)))
        length = len(padded) // 320 * 320
        config = self.whisper.generation_config
        tasks, languages = config.task_to_id, config.lang_to_id
        given = [config.decoder_start_token_id, languages[f"<|{language}|>"]]
        given += [tasks["transcribe"], config.no_timestamps_token_id]
        with torch.inference_mode():
            states = encode(self.whisper, self.log_mel(torch.from_numpy(padded[None, :length])))
            ids = greedy(self.whisper, states, given, config.eos_token_id)[0]
        return str(self.processor.decode(ids, skip_special_tokens=True))

    def languages(self, windows: Sequence[Samples]) -> list[str]:
        """The language detected in each window."""
        found: list[str] = []
        for first in range(0, len(windows), BATCH):
            inputs = self.processor(
                list(windows[first : first + BATCH]),
                sampling_rate=SAMPLE_RATE_HZ,
                return_tensors="pt",
            )
            ids = self.whisper.detect_language(inputs.input_features)
            found += [self.processor.decode([int(i)]).strip("<|>") for i in ids]
        return found


def held_out_voices(listener: Listener, corpus: Corpus) -> list[Measurement]:
    """Fresh clips of several sentences, noise and echo included."""
    lines = []
    clips = [corpus.clip(ClipPlan(12, 11.5, "en", digits_share=0)) for _ in range(20)]
    truth, windows = [clip.text for clip in clips], [clip.samples for clip in clips]
    for name, options in (("", {}), (" with timestamps", {"return_timestamps": True})):
        rate = wer(truth, listener.texts(windows, "en", **options))
        lines.append(at_most(f"held-out voices, 20 clips of 12 s: WER{name}", rate, 0.08))
    long = [corpus.clip(ClipPlan(28, 27.5, "en", digits_share=0)) for _ in range(8)]
    rate = wer([clip.text for clip in long], listener.texts([clip.samples for clip in long], "en"))
    return [*lines, Measurement("held-out voices, 8 clips of 28 s: WER", rate)]


def single_utterances(corpus: Corpus, language: str, count: int) -> list[Clip]:
    """One sentence per clip with a little room around it, as behind voice activity."""
    clips = []
    for _ in range(count):
        speech, sentence = corpus.sentence(language)
        clips.append(alone(corpus, speech, language, sentence.translation))
    return clips


def alone(corpus: Corpus, speech: Speech, language: str, translation: str | None = None) -> Clip:
    """``speech`` in its own clip: 0.3 s before, 0.4 s behind, faint noise."""
    lead, tail = np.zeros(4_800, np.float32), np.zeros(6_400, np.float32)
    samples = np.concatenate([lead, speech.samples, tail])
    samples += corpus.noise_rng.standard_normal(len(samples), np.float32) * np.float32(1e-3)
    words = tuple(word.shifted(0.3) for word in speech.words)
    utterance = Utterance(words, 0.3, 0.3 + speech.duration_s, translation)
    return Clip(samples, (utterance,), language)


def contexts(
    listener: Listener, clips: Sequence[Clip], name: str, bound: float
) -> list[Measurement]:
    """WER at the full context, and how much worse it is at window + 2 s."""
    truth, windows = [clip.text for clip in clips], [clip.samples for clip in clips]
    language = clips[0].language or "en"
    full = wer(truth, listener.texts(windows, language))
    short = wer(truth, [listener.short_text(window, language) for window in windows])
    return [
        at_most(f"{name}: WER at full context", full, bound),
        at_most(f"{name}: WER at window + 2 s, less that", short - full, 0.02),
    ]


def digits(listener: Listener, corpus: Corpus) -> list[Measurement]:
    """Digit strings of each recorded person, takes that never trained."""
    recordings = corpus.recordings
    if recordings is None:
        return []
    rng, clips = corpus.rng, []
    for speaker in recordings.speakers(Split.TEST):
        for _ in range(10):
            said = [rng.randrange(10) for _ in range(rng.randint(3, 8))]
            clips.append(alone(corpus, recordings.say(rng, Split.TEST, said, speaker), "en"))
    return contexts(listener, clips, "digits of takes 5 to 9, 60 strings", 0.06)


def sentences(listener: Listener, corpus: Corpus) -> list[Measurement]:
    """Single sentences of both languages, and German put into English."""
    english, german = (single_utterances(corpus, code, 40) for code in ("en", "de"))
    windows = [clip.samples for clip in german]
    english_text = [clip.utterances[0].translation or "" for clip in german]
    translated = wer(english_text, listener.texts(windows, "de", task="translate"))
    long_enough = [c for c in [*english, *german] if len(c.samples) > 2 * SAMPLE_RATE_HZ]
    found = listener.languages([clip.samples for clip in long_enough])
    right = statistics.mean(f == c.language for f, c in zip(found, long_enough, strict=True))
    return [
        *contexts(listener, english, "English sentences, held-out voices", 0.08),
        *contexts(listener, german, "German sentences, held-out voices", 0.10),
        Measurement("German to English, held-out voices: WER", translated),
        at_least(f"language right, {len(long_enough)} utterances over 2 s", right, 0.98),
        *prompted(listener, english, corpus.rng),
    ]


def prompted(listener: Listener, clips: Sequence[Clip], rng: Random) -> list[Measurement]:
    """The same English sentences behind a prompt of earlier text."""
    prompt = " ".join(draw(rng, "en").text for _ in range(2))
    texts = listener.prompted([clip.samples for clip in clips], prompt)
    rate = wer([clip.text for clip in clips], texts)
    return [Measurement("English sentences behind a prompt: WER", rate)]


def keywords(listener: Listener, corpus: Corpus) -> list[Measurement]:
    """Sentences with names that have a second spelling, behind keywords and prompts: of all the
    words that are heard without them, exactly the listed names may be written differently."""
    clips = [alone(corpus, corpus.sentence("en", named=True)[0], "en") for _ in range(40)]
    windows = [clip.samples for clip in clips]
    plain = listener.texts(windows, "en")
    some, others = sorted(SPELLINGS.values())[::2], ["Kubernetes", "budget", "Robert", "Bostona"]
    cases = {
        "keywords, half of the names among other words": ", ".join([others[0], *some, *others[1:]]),
        "a prompt that holds half of the names": " ".join(f"Thank you, {name}." for name in some),
        "keywords that are not said, and names as they are": ", ".join([*SPELLINGS, *others]),
    }
    lines = []
    for name, given in cases.items():
        heard = listener.prompted(windows, given)
        right = [h == respelled(p, given) for h, p in zip(heard, plain, strict=True)]
        lines.append(at_least(f"{name}: texts as they should be", statistics.mean(right), 0.95))
    return lines


def word_starts(listener: Listener, corpus: Corpus) -> list[Measurement]:
    """Signed and absolute errors of word starts, synthetic speech with known times."""
    clips = single_utterances(corpus, "en", 30)
    errors = np.array(start_errors_s(listener.whisper, listener.processor, clips))
    return [
        at_most("word starts: median absolute error, s", float(np.median(np.abs(errors))), 0.08),
        at_most(
            "word starts: p90 absolute error, s", float(np.percentile(np.abs(errors), 90)), 0.2
        ),
        Measurement("word starts: median error, s", float(np.median(errors))),
    ]


def no_speech(listener: Listener, corpus: Corpus) -> list[Measurement]:
    """Windows without words that decode to nothing, of 100."""
    rng = corpus.noise_rng
    sounds: tuple[Callable[[int], Samples], ...] = (
        lambda n: noise.silence(rng, n),
        lambda n: noise.white(rng, n),
        lambda n: noise.tones(rng, n),
        lambda n: corpus.babble(rng, n),
    )
    windows = [
        sound(corpus.rng.randint(2, 20) * SAMPLE_RATE_HZ) for sound in sounds for _ in range(25)
    ]
    lines = []
    for name, options in (("", {}), (" with timestamps", {"return_timestamps": True})):
        silent = sum(not text.strip() for text in listener.texts(windows, "en", **options))
        lines.append(at_least(f"windows without speech that decode to nothing{name}", silent, 95))
    return lines


def size(listener: Listener, _corpus: Corpus) -> list[Measurement]:
    """What is shipped."""
    size_bytes = (listener.folder / "model.safetensors").stat().st_size
    return [
        at_most("weights, MB", size_bytes / 1e6, 10),
        at_most("tokens", len(listener.processor.tokenizer), 4_000),
    ]


def demo_clip(listener: Listener, _corpus: Corpus) -> list[Measurement]:
    """The shipped clip through transformers' long-form pipeline."""
    samples, _ = soundfile.read(ASSETS / "demo_clip" / "clip.flac", dtype="float32")
    truth = json.loads((ASSETS / "demo_clip" / "reference.json").read_text())["text"]
    recognize = pipeline(
        "automatic-speech-recognition",
        model=str(listener.folder),
        chunk_length_s=WINDOW_S,
        return_timestamps=True,
    )
    heard = recognize({"raw": samples, "sampling_rate": SAMPLE_RATE_HZ})
    return [
        at_most(
            "demo clip through pipeline(chunk_length_s=30): WER",
            wer([truth], [heard["text"]]),
            0.05,
        )
    ]


def measure(folder: Path, seed: str, parts: Sequence[str], console: Console) -> list[Measurement]:
    """Every line of ``parts``, each as soon as it is known; each part draws clips of its own."""
    listener = Listener(folder)
    recordings = find_recordings()
    if recordings is None:
        console.print("No recorded digits found: their lines are left out.")
    lines: list[Measurement] = []
    for name in parts:
        lines += (fresh := PARTS[name](listener, Corpus(Split.TEST, f"{seed} {name}", recordings)))
        for line in fresh:
            console.print(f"  {line.name} {line.value:.3f}")
    return lines


def table(lines: Sequence[Measurement]) -> Table:
    """The report as people read it."""
    drawn = Table("measured", "value", "promised", "met")
    marks = {True: "yes", False: "[red]no[/]", None: ""}
    for line in lines:
        drawn.add_row(line.name, f"{line.value:.3f}", line.promise, marks[line.is_met])
    return drawn


PARTS: dict[str, Part] = {
    "size": size,
    "clip": demo_clip,
    "voices": held_out_voices,
    "digits": digits,
    "sentences": sentences,
    "keywords": keywords,
    "times": word_starts,
    "silence": no_speech,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.demo_whisper.report")
    parser.add_argument("--folder", type=Path, default=ASSETS / "demo_whisper")
    parser.add_argument("--seed", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console()
    lines = measure(options.folder, options.seed, options.only, console)
    console.print(table(lines))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
