"""What live captions cost beside a transcription afterwards, and which stage takes it.

Live: every partial and final of sessions that speak at the same time, in the batches that the
scheduler makes. Afterwards: the same utterances through transformers' ``generate``, one per row
and padded, eight at a time. Same weights, dtype and threads; both turn by turn in one process.
Seconds are those of the processor, which other programs on the machine do not stretch.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from load_tests.bench.section import Effort, Figures, section

if TYPE_CHECKING:
    from load_tests.bench.speech import Speech
    from server.engines.whisper import WhisperRecognizer
    from server.evaluation.whisper_models import BatchedGenerate
    from streaming.engines import Samples, SpeechWindow

SECONDS, SESSIONS, ROUNDS = 96, 16, 3
QUICK_SECONDS, QUICK_SESSIONS, QUICK_ROUNDS = 6, 2, 1
PARTS = 4
ROWS = 8
WINDOW_SAMPLES = 30 * 16_000
PACKED_TOKENS_MAX = 180
"""Six a second: a window that repeats itself must not make packing look dear."""
TOKENS = ("tokens live", "tokens by generate", "tokens of packed windows")
Work = Callable[[], int]
"""Returns how many text tokens came."""
STAGES = ("features", "encoder", "verify", "step", "words")


@section(
    "streaming overhead",
    bounds={
        "streaming_overhead": 2.0,
        "streaming_overhead_wall": None,
        "streaming_overhead_packed": None,
        "live_seconds_per_audio_second": None,
    },
)
def measure(effort: Effort) -> Figures:
    """Seconds of the processor over seconds of the processor, medians of rounds."""
    from load_tests.bench.speech import utterances
    from load_tests.bench.whisper_runs import engine_of, live, threads_of, tiny_of, trained
    from server.evaluation.whisper_models import BatchedGenerate

    speech = utterances(
        *((QUICK_SECONDS, QUICK_SESSIONS) if effort.is_quick else (SECONDS, SESSIONS)),
        effort.seed,
    )
    checkpoint = (None if effort.is_quick else tiny_of(effort)) or trained(threads_of(effort))
    engine = engine_of(checkpoint)
    played = live(speech, engine, f"live, {checkpoint.name}")
    generate = BatchedGenerate(checkpoint, timestamps=engine.timestamps)
    finals = [window.samples for window in played.finals]
    before = asdict(engine.counters)
    kinds: list[list[Work]] = [
        [partial(_live_again, engine, [call]) for call in played.calls],
        [partial(_generated, generate, engine, batch) for batch in _batches(finals)],
        [
            partial(_generated, generate, engine, batch, PACKED_TOKENS_MAX)
            for batch in _batches(_packed(speech))
        ],
    ]
    rounds = [_round(kinds) for _ in range(QUICK_ROUNDS if effort.is_quick else ROUNDS)]
    wall, cpu = ([[one[kind] for one in row] for row in rounds] for kind in (0, 1))
    spent = {f: value - before[f] for f, value in asdict(engine.counters).items()}
    total_s = sum(row[0] for row in wall)
    return {
        "streaming_overhead": round(median(row[0] / row[1] for row in cpu), 3),
        "streaming_overhead_wall": round(median(row[0] / row[1] for row in wall), 3),
        "streaming_overhead_packed": round(median(row[0] / row[2] for row in cpu), 3),
        "live_seconds_per_audio_second": round(median(row[0] for row in cpu) / speech.seconds, 4),
        "streaming_shares": {name: round(spent[f"{name}_s"] / total_s, 3) for name in STAGES},
        "streaming_overhead_of": {
            "checkpoint": engine.description,
            "threads": threads_of(effort),
            "finals": len(played.finals),
            "partials": len(played.windows) - len(played.finals),
            "rows per call": round(len(played.windows) / len(played.calls), 2),
            "seconds per final": round(played.final_seconds / len(played.finals), 2),
            "rounds": len(rounds),
            **dict(zip(TOKENS, (one[2] for one in rounds[0]), strict=True)),
            "speech": speech.description,
        },
    }


def _round(kinds: "Sequence[Sequence[Work]]") -> list[tuple[float, float, int]]:
    """Seconds on the clock, of the processor, and text tokens, of each kind of work.

    A part of each in turn, so that what else the machine does falls on all alike.
    """
    sums = [(0.0, 0.0, 0) for _ in kinds]
    for part in range(PARTS):
        for kind, works in enumerate(kinds):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            tokens = sum(work() for work in works[part::PARTS])
            wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
            before = sums[kind]
            sums[kind] = (before[0] + wall_s, before[1] + cpu_s, before[2] + tokens)
    return sums


def _live_again(engine: "WhisperRecognizer", calls: "Sequence[Sequence[SpeechWindow]]") -> int:
    before = engine.counters.final_text_tokens
    for call in calls:
        engine.recognize(call)
    return engine.counters.final_text_tokens - before


def _generated(
    generate: "BatchedGenerate",
    engine: "WhisperRecognizer",
    batch: "Sequence[Samples]",
    tokens_max: int = 448,
) -> int:
    """With the engine's own bound on the length of a transcript. Returns text tokens."""
    from streaming.engines import SpeechWindow

    tasks = [engine.task(SpeechWindow(samples, "en"), "en") for samples in batch]
    return generate(batch, "en", min(tokens_max, max(task.tokens_max for task in tasks)))


def _batches(windows: "Sequence[Samples]") -> "list[Sequence[Samples]]":
    return [windows[start : start + ROWS] for start in range(0, len(windows), ROWS)]


def _packed(speech: "Speech") -> "list[Samples]":
    """All audio in windows of 30 s, one recording behind the other, pauses included."""
    audio = np.concatenate([recording.samples for recording in speech.recordings])
    return [audio[start : start + WINDOW_SAMPLES] for start in range(0, len(audio), WINDOW_SAMPLES)]
