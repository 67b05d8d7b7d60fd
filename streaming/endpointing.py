"""Speech probability per frame → where utterances start and end.

Owns: hysteresis, hangover, pre-roll, tail. A frame is ``ACTIVITY_FRAME_SAMPLES`` long. Where the
probabilities come from, and what is done with an utterance, is not known here.

Invariants:
E1  Events depend on the probabilities alone, never on how they were split into calls.
E2  Utterances are in order and never overlap: each sample lies in one of them, or is silence.
E3  ``settled`` never moves back, and no later utterance starts before it.

The rule is that of Silero VAD's ``get_speech_timestamps``: a higher threshold to begin than to go
on. It differs in that a frame between the two thresholds keeps the state it finds, and that an
onset needs its frames before anything is announced, since a stream cannot take it back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streaming.engines import ACTIVITY_FRAME_SAMPLES
from streaming.timeline import Span, samples_from_ms

PAUSE_MS_MIN = 160
"""A shorter pause is part of speech: plosives close the mouth for up to 150 ms."""
SPEECH_SPANS_MAX = 4_096
"""Per utterance, so that one that never ends stays bounded; pauses after these are not split."""
STATE_SPANS_MAX = 64
"""Of an open utterance's stretches of speech, those that its state keeps apart: 20 s of speech
that pauses three times a second. Older ones are told as one."""


@dataclass(frozen=True, slots=True)
class EndpointingOptions:
    """What counts as an utterance."""

    threshold_on: float = 0.5
    """A frame of at least this probability begins speech, or takes it up after a pause."""
    threshold_off: float = 0.35
    """A frame below this ends speech; one in between is whatever the frame before it was."""
    speech_ms_min: int = 96
    """Frames at ``threshold_on`` that an onset needs, in all, before one below the lower one, and
    before the hangover's time has gone by."""
    hangover_ms: int = 600
    """Silence that ends an utterance."""
    pre_roll_ms: int = 320
    """Kept before the first speech frame."""
    tail_ms: int = 256
    """Kept after the last speech frame."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold_off <= self.threshold_on <= 1:
            raise ValueError("thresholds: 0 < threshold_off <= threshold_on <= 1 is needed")
        if not 0 <= self.tail_ms <= self.hangover_ms:
            raise ValueError("tail_ms lies between 0 and hangover_ms")
        if self.pre_roll_ms < 0 or self.speech_ms_min < 0:
            raise ValueError("pre_roll_ms and speech_ms_min cannot be negative")


@dataclass(frozen=True, slots=True)
class Onset:
    """An utterance has begun."""

    start: int
    """Its first sample, pre-roll included."""
    at: int
    """The first sample of speech."""


@dataclass(frozen=True, slots=True)
class Offset:
    """The utterance has ended."""

    span: Span
    """All of it, pre-roll and tail included."""
    at: int
    """The end of speech."""
    speech: tuple[Span, ...]
    """Its speech without the pauses; in order, apart, never empty."""


@dataclass(frozen=True, slots=True)
class OpenSpeechState:
    """Speech that has not ended, for whoever takes the endpointing over."""

    start: int
    at: int
    frames_on: int
    is_announced: bool
    is_paused: bool
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class EndpointerState:
    """All that later decisions depend on."""

    judged: int
    floor: int
    open_speech: OpenSpeechState | None


class _OpenSpeech:
    """Speech from its first frame on, announced as an utterance or not yet."""

    def __init__(self, start: int, first: Span) -> None:
        self.start = start
        self.at = first.start
        self.frames_on = 0
        self.is_announced = False
        self.is_paused = False
        self.spans = [first]

    @classmethod
    def of(cls, state: OpenSpeechState) -> "_OpenSpeech":
        speech = cls(state.start, state.spans[0])
        speech.at = state.at
        speech.frames_on = state.frames_on
        speech.is_announced, speech.is_paused = state.is_announced, state.is_paused
        speech.spans = list(state.spans)
        return speech

    @property
    def end(self) -> int:
        return self.spans[-1].end

    def extend(self, frame: Span) -> None:
        """The frame is speech: part of the last span, or a new one after a pause."""
        last = self.spans[-1]
        is_new = frame.start - last.end >= samples_from_ms(PAUSE_MS_MIN)
        if is_new and len(self.spans) < SPEECH_SPANS_MAX:
            self.spans.append(frame)
        else:
            self.spans[-1] = Span(last.start, frame.end)


def latest_spans(spans: Sequence[Span], since: int) -> tuple[Span, ...]:
    """The stretches of speech from a sample on, oldest first, as few as a state keeps apart.

    The last one always stays, with its true end.
    """
    last = spans[-1]
    cut = [Span(min(max(s.start, since), s.end), s.end) for s in spans if s.end > since]
    cut = cut or [Span(max(last.start, last.end - 1), last.end)]
    older, newer = cut[: 1 - STATE_SPANS_MAX], cut[1 - STATE_SPANS_MAX :]
    return (Span(older[0].start, older[-1].end), *newer) if older else tuple(newer)


class Endpointer:
    """One lane's endpointing."""

    judged: int
    """Every sample before this one lies in a frame whose probability was received."""

    def __init__(self, options: EndpointingOptions, start: int = 0) -> None:
        self.judged = start
        self._floor = start
        self._open: _OpenSpeech | None = None
        self._options = options
        frames = samples_from_ms(options.speech_ms_min) / ACTIVITY_FRAME_SAMPLES
        self._onset_frames = max(1, int(np.ceil(frames)))
        self._hangover_samples = samples_from_ms(options.hangover_ms)
        # An onset that neither comes nor goes would hold its lane's audio for ever.
        self._undecided_samples_max = (
            self._hangover_samples + self._onset_frames * ACTIVITY_FRAME_SAMPLES
        )
        self._pre_roll_samples = samples_from_ms(options.pre_roll_ms)
        self._tail_samples = samples_from_ms(options.tail_ms)

    @property
    def open_start(self) -> int | None:
        """The start of the open utterance; None between utterances."""
        return self._open.start if self._open and self._open.is_announced else None

    @property
    def last_speech_end(self) -> int | None:
        """The end of the last frame judged as speech inside the open utterance."""
        return self._open.end if self._open and self._open.is_announced else None

    @property
    def open_speech(self) -> tuple[Span, ...]:
        """The open utterance's speech so far, as ``Offset.speech`` will have it."""
        return tuple(self._open.spans) if self._open and self._open.is_announced else ()

    @property
    def settled(self) -> int:
        """Every sample before it is silence or in an ended utterance, and will stay so."""
        return self._open.start if self._open else self._start_before(self.judged)

    def state(self, since: int) -> EndpointerState:
        """What ``resume`` needs, with speech before sample ``since`` left out."""
        speech = self._open
        if speech is None:
            return EndpointerState(self.judged, self._floor, None)
        spans = latest_spans(speech.spans, since)
        return EndpointerState(
            self.judged,
            self._floor,
            OpenSpeechState(
                speech.start,
                speech.at,
                speech.frames_on,
                speech.is_announced,
                speech.is_paused,
                spans,
            ),
        )

    def resume(self, state: EndpointerState) -> None:
        """Go on as the endpointer whose state it was would have."""
        self.judged, self._floor = state.judged, state.floor
        self._open = None if state.open_speech is None else _OpenSpeech.of(state.open_speech)

    def receive(self, probabilities: NDArray[np.float32]) -> list[Onset | Offset]:
        """Judge the next frames, shape (frames,)."""
        events: list[Onset | Offset] = []
        for probability in probabilities.tolist():
            frame = Span(self.judged, self.judged + ACTIVITY_FRAME_SAMPLES)
            self.judged = frame.end
            if frame.end > self._floor:
                events += self._judge(frame, probability)
        return events

    def close(self, end: int) -> list[Onset | Offset]:
        """The audio ends, or rests, at ``end``: so does what is open, announced first if need be.

        Frames may be received afterwards; what they hold belongs to later utterances.
        """
        if self._open is None:
            return []
        announced = self._announce(self._open)
        return [*announced, self._end(self._open, end)]

    def skip_to(self, sample: int) -> None:
        """The lane's clock jumped: the next frame starts at ``sample``. Call ``close`` first."""
        if self._open is not None:
            raise ValueError("close the open utterance before its lane's clock jumps")
        if sample < self._floor:
            raise ValueError(f"an utterance that ended at {self._floor} cannot be judged again")
        self._floor = max(sample, self.settled)
        self.judged = sample

    def _judge(self, frame: Span, probability: float) -> list[Onset | Offset]:
        is_on = probability >= self._options.threshold_on
        if self._open is None:
            if not is_on:
                return []
            first = frame.clamped(Span(self._floor, frame.end))
            self._open = _OpenSpeech(self._start_before(first.start), first)
        if probability < self._options.threshold_off:
            return self._pause(self._open)
        return self._go_on(self._open, frame, is_on)

    def _go_on(self, speech: _OpenSpeech, frame: Span, is_on: bool) -> list[Onset | Offset]:
        if speech.is_paused and not is_on:
            return self._pause(speech)
        speech.is_paused = False
        speech.extend(frame)
        speech.frames_on += is_on
        if speech.frames_on >= self._onset_frames:
            return self._announce(speech)
        if frame.end - speech.at >= self._undecided_samples_max:
            self._open = None
        return []

    def _pause(self, speech: _OpenSpeech) -> list[Onset | Offset]:
        if not speech.is_announced:
            self._open = None
            return []
        speech.is_paused = True
        if self.judged - speech.end < self._hangover_samples:
            return []
        # The newest frame may be padding behind the last sample: no utterance reaches into it.
        return [self._end(speech, self.judged - ACTIVITY_FRAME_SAMPLES)]

    def _announce(self, speech: _OpenSpeech) -> list[Onset | Offset]:
        if speech.is_announced:
            return []
        speech.is_announced = True
        return [Onset(speech.start, speech.at)]

    def _end(self, speech: _OpenSpeech, end: int) -> Offset:
        """The offset, no later than ``end``, though never without any speech."""
        end = max(end, speech.at + 1)
        span = Span(speech.start, min(end, speech.end + self._tail_samples))
        self._open = None
        self._floor = span.end
        heard = (part.clamped(span) for part in speech.spans)
        parts = tuple(part for part in heard if part.samples)
        return Offset(span, min(end, speech.end), parts)

    def _start_before(self, speech_start: int) -> int:
        return max(self._floor, speech_start - self._pre_roll_samples)
