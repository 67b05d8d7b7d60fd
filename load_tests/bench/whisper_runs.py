"""Engines for the sections about Whisper, and live runs that more than one of them reads.

``--set threads=N`` gives torch so many threads; ``--set whisper=FOLDER`` names a trained checkpoint
of whisper-tiny's shape, where the reference data is not beside the source tree.
"""

import time
from dataclasses import replace
from functools import cache

from load_tests.bench.live_speech import CALLS_APART_MS, Played, play
from load_tests.bench.section import Effort, SectionSkipped
from load_tests.bench.speech import Speech
from server.cpu_budget import cpu_budget
from server.engines.errors import EngineUnavailable
from server.engines.whisper import WhisperRecognizer
from server.engines.whisper_checkpoint import Checkpoint
from server.engines.whisper_options import WhisperOptions
from server.evaluation.whisper_models import (
    random_tiny_checkpoint,
    tiny_checkpoint,
    trained_checkpoint,
)
from streaming.engines import SpeechWindow

FLOAT32 = WhisperOptions(dtype="float32", device="cpu")


def threads_of(effort: Effort) -> int:
    return int(effort.options.get("threads", cpu_budget()))


@cache
def trained(threads: int) -> Checkpoint:
    """The demo's. Raises: SectionSkipped in a build without it."""
    try:
        return trained_checkpoint(threads)
    except EngineUnavailable as unavailable:
        raise SectionSkipped(str(unavailable)) from None


@cache
def tiny(threads: int, folder: str | None) -> Checkpoint | None:
    """Trained, of whisper-tiny's shape; None where there is none."""
    return tiny_checkpoint(folder, threads)


@cache
def random_tiny(threads: int) -> Checkpoint:
    return random_tiny_checkpoint(threads)


def tiny_of(effort: Effort) -> Checkpoint | None:
    return tiny(threads_of(effort), effort.options.get("whisper"))


def engine_of(checkpoint: Checkpoint, options: WhisperOptions = FLOAT32) -> WhisperRecognizer:
    """Warm, so that no figure holds what a server pays once."""
    engine = WhisperRecognizer(checkpoint, options)
    engine.warm_up()
    return engine


def live(
    speech: Speech, engine: WhisperRecognizer, what: str, calls_apart_ms: int = CALLS_APART_MS
) -> Played:
    """``play``, with a line that says how long it took."""
    began_s = time.monotonic()
    played = play(speech, engine, calls_apart_ms=calls_apart_ms)
    seconds = time.monotonic() - began_s
    print(f"{what}: {len(played.finals)} finals, {seconds:.0f} s", flush=True)
    return played


def as_final(window: SpeechWindow) -> SpeechWindow:
    return replace(window, is_final=True)
