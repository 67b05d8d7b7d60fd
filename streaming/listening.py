"""One lane's ear: samples become utterances, and every sample is accounted for.

Owns the buffer, the endpointer, and the places where an open utterance must end (flush, silence
on the line, end of audio). Asks voice activity for probabilities; knows nothing of words.

Invariants: A1 audio is judged in order, each sample once; A2 ``silent_samples`` plus the samples
of all utterances equals what was judged, at every moment outside an utterance.
"""

from collections import deque
from dataclasses import dataclass

import numpy as np

from streaming.buffer import SampleBuffer
from streaming.endpointing import Endpointer, EndpointerState, EndpointingOptions, Offset, Onset
from streaming.engines import ACTIVITY_FRAME_SAMPLES, Activity, ActivityWindow, Samples
from streaming.timeline import Span

FRAMES_MIN = 3
"""96 ms: one call per live packet of 100 ms, not one per frame."""
FRAMES_MAX = 128
"""4 s: a file that is sent at full speed must not hold up the batch."""

ENDS_KEPT_MAX = 64
"""Places where an utterance must end and that are not reached yet, in a state: one or two are
usual. A client that flushes after each packet loses the rest of them in a crash, and no audio."""

SpeechEdge = Onset | Offset


@dataclass(frozen=True, slots=True)
class ListenerState:
    """What whoever takes a lane over must know of what was heard."""

    heard: int
    """Samples received: those before it will come again, and were judged already or will be."""
    judged: int
    silent_through: int
    silent_samples: int
    ends: tuple[Span, ...]
    activity: bytes | None
    """The voice activity engine's own state at ``judged``."""
    endpointer: EndpointerState


class Listener:
    """Judges a lane's audio and remembers what may still be needed of it."""

    def __init__(self, buffer_samples: int, endpointing: EndpointingOptions) -> None:
        self.buffer = SampleBuffer(buffer_samples)
        self._endpointer = Endpointer(endpointing)
        self._state: bytes | None = None
        self._ends: deque[Span] = deque()
        """Where an open utterance must end, in order, and where judging goes on after it (time
        that was skipped lies between); at most one per received packet."""
        self._asked: Span | None = None
        self._silent_through = 0
        self.judged = 0
        self.silent_samples = 0
        self._heard = 0
        """Audio before this sample came before, to somebody else."""
        self._buffer_samples = buffer_samples
        self.frames_min = FRAMES_MIN
        """Fewer frames wait for more, unless an utterance must end behind them."""

    @property
    def restart(self) -> int:
        """Audio before this sample will not be asked for by an ear that goes on from here."""
        speech_end = self._endpointer.last_speech_end
        return self.judged if speech_end is None else min(self.judged, speech_end - 1)

    def state(self, since: int) -> ListenerState:
        """What ``resume`` needs; speech before sample ``since`` is left out."""
        return ListenerState(
            heard=max(self.buffer.end, self._heard),
            judged=self.judged,
            silent_through=self._silent_through,
            silent_samples=self.silent_samples,
            ends=tuple(self._ends)[:ENDS_KEPT_MAX],
            activity=self._state,
            endpointer=self._endpointer.state(since),
        )

    def resume(self, state: ListenerState, start: int) -> None:
        """Go on as the ear whose state it was; audio from sample ``start`` on will come again."""
        self.buffer = SampleBuffer(self._buffer_samples, start)
        self._heard, self.judged = state.heard, state.judged
        self._silent_through, self.silent_samples = state.silent_through, state.silent_samples
        self._ends = deque(state.ends)
        self._state = state.activity
        self._endpointer.resume(state.endpointer)

    @property
    def is_catching_up(self) -> bool:
        """Audio that was received before has not all come again."""
        return self.buffer.end < self._heard

    def give_up_missing(self) -> None:
        """What has not come again never will: it is taken for silence."""
        self.buffer.skip(max(0, self._heard - self.buffer.end))

    @property
    def settled(self) -> int:
        """No later utterance can begin before this sample."""
        return min(self._endpointer.settled, self.judged)

    @property
    def is_asking(self) -> bool:
        """Some audio is being judged."""
        return self._asked is not None

    @property
    def open_start(self) -> int | None:
        """Where the open utterance began."""
        return self._endpointer.open_start

    @property
    def speech_end(self) -> int:
        """The open utterance will not end before this sample."""
        return min(self._endpointer.last_speech_end or 0, self.judged)

    @property
    def open_parts(self) -> tuple[Span, ...]:
        """The open utterance's speech so far, without its pauses."""
        return self._endpointer.open_speech

    @property
    def open_speech(self) -> Span | None:
        """The open utterance from its first to its last speech frame so far."""
        parts = self.open_parts
        return Span(parts[0].start, parts[-1].end) if parts else None

    @property
    def is_idle(self) -> bool:
        """Everything received is judged, and no utterance is open."""
        is_judged = self.judged == self.buffer.end and not self._ends and self._asked is None
        return is_judged and self.open_start is None

    @property
    def is_settled(self) -> bool:
        """And all of it is silence or in an ended utterance, and will stay so."""
        return self.is_idle and self.settled == self.buffer.end

    def receive(self, samples: Samples) -> None:
        """Raises: BufferFull."""
        self.buffer.append(samples)

    def end_here(self) -> None:
        """Whatever is open must end at the last sample received."""
        self.skip(0)

    def skip(self, samples: int) -> None:
        """Time passes without audio: what is open must end before it."""
        end = self.buffer.end
        self.buffer.skip(samples)
        if end < self._heard:
            return  # heard before: where it made an utterance end is known
        if self._ends and self._ends[-1].end == end:
            self._ends[-1] = Span(self._ends[-1].start, self.buffer.end)
        else:
            self._ends.append(Span(end, self.buffer.end))

    def take_window(self) -> ActivityWindow | None:
        """The next frames to judge, unless some are being judged."""
        if self._asked is not None or self.is_catching_up:
            return None
        end = self._ends[0].start if self._ends else self.buffer.end
        frames = min((end - self.judged) // ACTIVITY_FRAME_SAMPLES, FRAMES_MAX)
        is_tail = frames == 0 and bool(self._ends) and self.judged < end
        if is_tail:
            return self._tail_window(end)
        if frames < self.frames_min and not (self._ends and frames):
            return None
        self._asked = Span(self.judged, self.judged + frames * ACTIVITY_FRAME_SAMPLES)
        return ActivityWindow(self.buffer.read(self._asked), self._state)

    def _tail_window(self, end: int) -> ActivityWindow:
        """The last samples before an end, filled up with silence to one frame."""
        self._asked = Span(self.judged, end)
        frame = np.zeros(ACTIVITY_FRAME_SAMPLES, np.int16)
        frame[: self._asked.samples] = self.buffer.read(self._asked)
        return ActivityWindow(frame, self._state)

    def receive_activity(self, activity: Activity | None) -> list[SpeechEdge]:
        """The answer to ``take_window``; None when there is none to be had.

        Audio that nobody judged counts as speech: better a needless decode than a lost word.
        """
        assert self._asked is not None
        frames = max(1, self._asked.samples // ACTIVITY_FRAME_SAMPLES)
        if activity is None or activity.probabilities.shape != (frames,):
            activity = Activity(np.ones(frames, np.float32), b"")
        heard = activity.probabilities
        probabilities = np.where(np.isfinite(heard), heard, np.float32(1))
        self._state = activity.state or None
        self.judged = self._asked.end
        self._asked = None
        return self._noted(self._endpointer.receive(probabilities)) + self.take_edges()

    def take_edges(self) -> list[SpeechEdge]:
        """Ends that have been reached without a question to the engine."""
        edges: list[SpeechEdge] = []
        while self._asked is None and self._ends and self._ends[0].start == self.judged:
            edges += self._close(self._ends.popleft())
        return edges

    def _close(self, end: Span) -> list[SpeechEdge]:
        edges = self._noted(self._endpointer.close(end.start))
        self._endpointer.skip_to(end.end)
        # The frame grid and the model's memory start anew: what follows may be another scene.
        self._state = None
        self.judged = end.end
        self.silent_samples += end.end - self._silent_through
        self._silent_through = end.end
        return edges

    def _noted(self, edges: list[SpeechEdge]) -> list[SpeechEdge]:
        for edge in edges:
            if isinstance(edge, Onset):
                self.silent_samples += edge.start - self._silent_through
            else:
                self._silent_through = edge.span.end
        return edges
