"""Pauses of a session's talker: where what was heard ends, to the last sample received.

Owns the rule which lanes wait for more audio, and since when they have waited too long. What a
pause means for utterances is the lane's; whether it is the talker's own, the server's to find out.
"""

from collections.abc import Mapping

from streaming.intake import Intake
from streaming.lane import Lane

IDLE_FLUSH_NS = 1_000_000_000
"""Without audio for this long the open utterance is closed: a muted speaker has stopped."""


class Rests:
    """One session's."""

    def __init__(self, intake: Intake, lanes: Mapping[int, Lane], stirred: dict[int, Lane]) -> None:
        """``stirred`` is told of lanes that something happens to here."""
        self._intake = intake
        self._lanes = lanes
        self._stirred = stirred

    @property
    def due_ns(self) -> int | None:
        """When the next lane has waited for too long; None where none waits."""
        waiting = (lane.last_audio_ns for lane in self._lanes.values() if self._waits(lane))
        last_audio_ns = min(waiting, default=None)
        return None if last_audio_ns is None else last_audio_ns + IDLE_FLUSH_NS

    def _waits(self, lane: Lane) -> bool:
        """More audio could change what the lane has heard last."""
        is_unsettled = not lane.is_settled or self._intake.has_tail(lane.index)
        return is_unsettled and not lane.is_catching_up

    def rest_idle(self, now_ns: int) -> None:
        """Rest the lanes that have waited for too long."""
        for lane in self._lanes.values():
            if lane.last_audio_ns <= now_ns - IDLE_FLUSH_NS and self._waits(lane):
                self._rest(lane)
                lane.last_audio_ns = now_ns

    def rest_all(self) -> None:
        """Nobody is waited for."""
        self._intake.drop_partial_frame()
        for lane in self._lanes.values():
            if not lane.is_catching_up:
                self._rest(lane)

    def _rest(self, lane: Lane) -> None:
        """Its talker has paused: what was heard ends here, to the last sample."""
        self._flush_tail(lane)
        lane.end_utterance()
        self._stirred[lane.index] = lane

    def flush_missing(self) -> None:
        """All has come again that the last owner heard: its decoders, which it had flushed, gave
        more of that than these give by themselves."""
        for lane in self._lanes.values():
            if lane.is_catching_up:
                self._flush_tail(lane)

    def _flush_tail(self, lane: Lane) -> None:
        """Samples that wait for more audio; those of all channels, where these share a decoder."""
        for piece in self._intake.flush(lane.index):
            of_lane = self._lanes[piece.lane]
            of_lane.receive(piece.samples, of_lane.last_audio_ns)
            self._stirred[of_lane.index] = of_lane
