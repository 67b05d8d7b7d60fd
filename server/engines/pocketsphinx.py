"""CMU PocketSphinx with the English model that its package ships: open vocabulary, offline.

Modest accuracy, low cost, nothing to download: the recognizer of a first start. English only; a
window that asks for another language is still read as English, and the answer says so.
Stateless: the decoder's features remember earlier audio (measured: the same window differs after
another one, with every ``cmn`` setting), so they are set anew before each window (35 µs), after
which a window's answer is that of a fresh decoder.
"""

import re
from collections.abc import Sequence
from typing import Any, Self

from pocketsphinx import Decoder

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, check_options
from streaming.engines import Hypothesis, Samples, SpeechWindow, Word
from streaming.timeline import SAMPLE_RATE_HZ, Span

FRAME_SAMPLES = SAMPLE_RATE_HZ // 100
WINDOW_SAMPLES_MIN = SAMPLE_RATE_HZ // 10
"""Shorter audio holds no word, and the decoder raises on some of it."""
_DRAFT_SETTINGS: dict[str, Any] = {"fwdflat": False, "bestpath": False, "maxhmmpf": 3_000, "ds": 2}
"""One search pass instead of three: 0.10 instead of 0.35 of real time (read speech, one core)."""
_PRONUNCIATION = re.compile(r"\(\d+\)$")
"""The dictionary's second and later pronunciations: ``read(2)``."""
_FILLERS = ("<", "[", "+")
"""First characters of what is no word: ``<sil>``, ``[NOISE]``, ``++BREATH++``."""


class PocketSphinxRecognizer:
    """Full search for finals, a cheaper one for partials."""

    description = "pocketsphinx en-us"
    languages = ("en",)

    def __init__(self) -> None:
        self._final = _decoder()
        self._draft = _decoder(**_DRAFT_SETTINGS)

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        check_options(spec)
        if spec.model is not None:
            raise EngineUnavailable(
                "pocketsphinx has its own model and takes no other; leave --asr-model away, or "
                "choose --asr whisper"
            )
        try:
            return cls()
        except RuntimeError as error:
            raise EngineUnavailable(
                f"the pocketsphinx model does not load ({error}); install it again: "
                "pip install --force-reinstall pocketsphinx"
            ) from error

    def warm_up(self) -> None:
        """Loading has read the whole model already."""

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        return [self._recognize(window) for window in windows]

    def _recognize(self, window: SpeechWindow) -> Hypothesis:
        if len(window.samples) < WINDOW_SAMPLES_MIN:
            return Hypothesis((), language="en")
        decoder = self._final if window.is_final else self._draft
        _decode(decoder, window.samples)
        # Without the lattice pass of the full search there is no posterior.
        words = _words(decoder, len(window.samples), has_posterior=window.is_final)
        return Hypothesis(words, language="en")


def _decoder(**settings: Any) -> Any:
    return Decoder(loglevel="FATAL", cmn="batch", **settings)


def _decode(decoder: Any, samples: Samples) -> None:
    decoder.reinit_feat()
    decoder.start_utt()
    try:
        # The whole utterance at once, so that its features are normalized over all of it.
        decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
    finally:
        decoder.end_utt()


def _words(decoder: Any, samples: int, *, has_posterior: bool) -> tuple[Word, ...]:
    if decoder.hyp() is None:
        return ()
    window = Span(0, samples)
    return tuple(
        Word(
            _PRONUNCIATION.sub("", segment.word),
            _span(segment, window),
            confidence=min(1.0, max(0.0, float(segment.prob))) if has_posterior else None,
        )
        for segment in decoder.seg()
        if not segment.word.startswith(_FILLERS)
    )


def _span(segment: Any, window: Span) -> Span:
    """Segments name their first and their last frame."""
    start = segment.start_frame * FRAME_SAMPLES
    return Span(start, (segment.end_frame + 1) * FRAME_SAMPLES).clamped(window)
