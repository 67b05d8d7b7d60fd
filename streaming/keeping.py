"""From where on a client must keep its audio, for whoever goes on with the session after a crash.

Owns the frames of the checkpoint that was taken last and of the one that is stored. What a
checkpoint holds is ``checkpoint.py``'s to say, what a lane needs again the lane's.

Invariant: K1 no frame at or after ``kept_frame`` is acknowledged, and it never goes down.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from streaming.intake import Intake
from streaming.lane import Lane

CHECKPOINT_SECONDS = 5
"""Of audio without any event, such as silence, after which a checkpoint is worth a write."""


@dataclass(frozen=True, slots=True)
class SavedPoint:
    """An encoded checkpoint."""

    frame: int
    """Where a session that goes on from it wants its audio from."""
    body: bytes


class Keeper:
    """One session's restarts, in the client's frames."""

    def __init__(self, intake: Intake, lanes: Mapping[int, Lane], frame: int, heard: int) -> None:
        """``frame``: where audio begins; ``heard``: before it, all was heard by another owner."""
        self._intake = intake
        self._lanes = lanes
        self._heard_frames = heard
        self.kept_frame = self.taken_frame = frame
        """The restart of the checkpoint that is stored, and that of the one taken last."""
        self._was_replay = self.is_replay

    @property
    def is_replay(self) -> bool:
        """What comes now was heard before: what its messages did is known."""
        return self._intake.frames_received < self._heard_frames

    def ends_replay(self) -> bool:
        """True once, when all that was heard before has come again."""
        was_replay, self._was_replay = self._was_replay, self.is_replay
        return was_replay and not self._was_replay

    @property
    def heard_frames(self) -> int:
        return max(self._heard_frames, self._intake.frames_received)

    @property
    def restart_frame(self) -> int:
        """Where a session that goes on from now would want its audio from."""
        if self.is_replay or not self._lanes:
            return self.taken_frame
        needed = {index: lane.restart for index, lane in self._lanes.items()}
        return max(self.taken_frame, self._intake.restart_frame(needed))

    def is_due(self, sample_rate_hz: int) -> bool:
        """So much was dealt with that it should not have to be sent again."""
        return self.restart_frame - self.taken_frame >= CHECKPOINT_SECONDS * sample_rate_hz

    def note_kept(self, point: SavedPoint) -> None:
        """A checkpoint is stored: audio before its restart will never be needed again."""
        self.kept_frame = max(self.kept_frame, point.frame)
