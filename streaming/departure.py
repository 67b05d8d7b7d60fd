"""When a session stops listening, because its server goes down.

People talk on while a server drains. Their session listens on until no lane has an open utterance;
from then on it is deaf: audio that comes is not taken, its client keeps it for the next server.
Where time is short the session goes deaf in the middle of an utterance, and its lanes cut between
words (``handover.py``). A session that nobody can go on with commits all that it received instead.

    LISTENING ──between utterances, or hurried──▶ DEAF ──the last final──▶ complete

Invariants: O2 what had been received when it began is judged before a session goes deaf that is
not hurried; O3 a deaf session takes nothing, asks for nothing but what is to be committed, and
never listens again.
"""

from collections.abc import Mapping

from streaming.lane import Lane
from streaming.resting import Rests


class Departure:
    """One session's."""

    def __init__(self, lanes: Mapping[int, Lane], rests: Rests) -> None:
        self._lanes = lanes
        self._rests = rests
        self._is_begun = self._is_hurried = self._is_last = False
        self.is_deaf = False

    def begin(self, *, is_last: bool) -> None:
        """Stop listening as soon as may be. ``is_last``: nobody goes on with the session."""
        if not self._is_begun:
            self._is_begun, self._is_last = True, is_last
            for lane in self._lanes.values():
                lane.handover.begin()

    def hurry(self) -> None:
        """Time is short: in the middle of an utterance if it must be."""
        self._is_hurried = True

    def look(self, *, is_attached: bool) -> bool:
        """Stop listening if it is time to; True where that is now. ``is_attached``: its talker is
        there, and may say more."""
        if self.is_deaf or not self._is_begun or not self._is_time(is_attached=is_attached):
            return False
        self.is_deaf = True
        if self._is_last:
            self._rests.rest_all()
        else:
            for lane in self._lanes.values():
                lane.handover.let_go(is_talking=is_attached)
        return True

    def _is_time(self, *, is_attached: bool) -> bool:
        lanes = [lane.handover for lane in self._lanes.values()]
        has_heard = all(lane.has_heard(everything=not is_attached) for lane in lanes)
        is_free = not is_attached or all(lane.is_between_utterances for lane in lanes)
        return self._is_hurried or (has_heard and is_free)

    def is_complete(self, *, is_quiet: bool) -> bool:
        """All that this server will commit is committed; ``is_quiet``: all that was received is."""
        if not self._is_begun:
            return is_quiet
        is_left = all(lane.handover.is_complete for lane in self._lanes.values())
        return self.is_deaf and (is_quiet if self._is_last else is_left)
