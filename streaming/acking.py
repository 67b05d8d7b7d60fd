"""What a client is told of its audio: how far it may go on, and how much of it is kept.

Owns the credit, and when there is enough news for a message; what is kept is the session's to say.
Frames are the client's own.

Invariant: K1 credit that was given is never taken back.
"""

from collections.abc import Sequence

from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Ack, AudioFormat

ACK_SAMPLES = SAMPLE_RATE_HZ
"""Progress that is worth a message."""


class Credit:
    """How far ahead of its captions a session's audio may run."""

    def __init__(self, audio: AudioFormat, samples: int, frame: int) -> None:
        """``samples`` may be held per lane; ``frame``: as far as was promised before."""
        self._audio = audio
        self._samples = samples
        self.frame = frame
        """Audio before it may be sent."""

    def until(self, frames_received: int, held_samples: Sequence[int], *, is_halted: bool) -> int:
        """The frame up to which audio may be sent; ``is_halted``: no further than before."""
        room = 0 if is_halted else max(0, self._room_samples(held_samples))
        frames = room * self._audio.sample_rate // SAMPLE_RATE_HZ
        self.frame = max(self.frame, frames_received + frames)
        return self.frame

    def _room_samples(self, held_samples: Sequence[int]) -> int:
        """How much more may be held; channels fill up side by side, tagged lanes as they like."""
        if not self._audio.tagged:
            return self._samples - max(held_samples, default=0)
        return self._samples * max(1, len(held_samples)) - sum(held_samples)


class Acknowledgements:
    """One session's acks, across its connections."""

    def __init__(self, frames_min: int) -> None:
        """``frames_min``: progress that is worth a message."""
        self._frames_min = frames_min
        self._stored_frame = self._credit_frame = 0

    def news(self, stored_frame: int, credit_frame: int, *, is_ending: bool) -> Ack | None:
        """What there is to tell; ``is_ending``: any progress counts."""
        moved = max(stored_frame - self._stored_frame, credit_frame - self._credit_frame)
        if moved < (1 if is_ending else self._frames_min):
            return None
        return Ack(stored_frame, credit_frame)

    def told(self, ack: Ack) -> None:
        """It is on its way."""
        self._stored_frame = ack.stored_through_frame
        self._credit_frame = ack.credit_until_frame
