"""What one lane commits before its server goes down and another one goes on with it.

Owns: up to where audio must be judged first, whether the lane is in the middle of anything, and
the cut of speech that does not pause. When the session stops listening is not known here.

Invariant: O1 a lane that is handed over ends no utterance: it was over, or is gone on with. What
is committed of an open one ends between two words; what lies behind it, and audio that nobody has
judged, is left as after a crash, to the checkpoint and to the client's memory.
"""

from streaming.engines import ACTIVITY_FRAME_SAMPLES
from streaming.listening import Listener
from streaming.recognition import GAP_SAMPLES_MIN, UNSETTLED_SAMPLES, EarlyCut, Recognition


class LaneHandover:
    """One lane's."""

    def __init__(self, listener: Listener, recognition: Recognition) -> None:
        self._listener = listener
        self._recognition = recognition
        self._through = 0
        self.is_deaf = False
        """Nothing more is judged here."""

    def begin(self) -> None:
        """The server is about to go away; what was received by now is to be heard here."""
        self._through = self._listener.buffer.end
        self._listener.frames_min = 1

    def has_heard(self, *, everything: bool) -> bool:
        """All that had been received by then is judged, or ``everything`` so far; but for part of
        a frame, in which no word has room."""
        through = self._listener.buffer.end if everything else self._through
        is_judged = through - self._listener.judged < ACTIVITY_FRAME_SAMPLES
        # What comes again is the next one's as well: nothing is asked meanwhile.
        return is_judged or self._listener.is_catching_up

    @property
    def is_between_utterances(self) -> bool:
        """Nobody is in the middle of anything."""
        return self._listener.open_start is None or self._listener.is_catching_up

    def let_go(self, *, is_talking: bool) -> None:
        """Judge nothing more, and commit what may be; ``is_talking``: its client is there.

        A client that is there sends the last second again. One that has gone may stay away: each
        word is committed but for one that the end of the audio may have cut off.
        """
        self.is_deaf = True
        judged, speech_end = self._listener.judged, self._listener.speech_end
        if self.is_between_utterances:
            self._recognition.leave(None)
        elif is_talking:
            self._recognition.leave(EarlyCut(speech_end, UNSETTLED_SAMPLES))
        else:
            is_pausing = speech_end < judged
            self._recognition.leave(EarlyCut(judged, 0 if is_pausing else GAP_SAMPLES_MIN))

    def cancel(self) -> None:
        """The audio has ended: there is nothing that another one could go on with."""
        self.is_deaf = False
        self._recognition.stay()

    @property
    def is_complete(self) -> bool:
        """All that this server will commit is committed."""
        is_left = not self._listener.is_asking and self._recognition.is_left
        return is_left or self._listener.is_catching_up
