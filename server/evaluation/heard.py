"""What came of one recording: captions, who said them at first and in the end, and when.

Filled event by event, by a client of a server or by the offline run; scores read it.
"""

from dataclasses import dataclass, field, replace

from clients.delays import DelayMeter
from clients.live import CaptionFold
from streaming.events import CaptionWord, Done, Event, Final, Revision
from streaming.exports import Caption


@dataclass(slots=True)
class Heard:
    """See the module's docstring; times are seconds of the monotonic clock."""

    fold: CaptionFold = field(default_factory=CaptionFold)
    delays: DelayMeter | None = field(default_factory=DelayMeter)
    """None where no time passes: offline."""
    revisions: int = 0
    revision_ages_s: list[float] = field(default_factory=list)
    """Since the caption that was revised had come."""
    engines: dict[str, str] = field(default_factory=dict)
    engine_s: dict[str, float] | None = None
    """Time that each stage's engine worked; None where it cannot be told apart."""
    wall_s: float | None = None
    _first_speakers: dict[str, list[str | None]] = field(default_factory=dict)
    _final_came_s: dict[str, float] = field(default_factory=dict)

    def receive(self, event: Event, now_s: float) -> None:
        """Take one event as it comes."""
        self.fold.apply(event)
        if self.delays is not None:
            self.delays.received(event, now_s)
        if isinstance(event, Final):
            self._first_speakers[event.caption_id] = [word.speaker for word in event.words]
            self._final_came_s[event.caption_id] = now_s
        elif isinstance(event, Revision):
            self._revise(event, now_s)

    def _revise(self, revision: Revision, now_s: float) -> None:
        self.revisions += 1
        if self.delays is not None:
            self.revision_ages_s.append(now_s - self._final_came_s[revision.caption_id])
        first = self._first_speakers[revision.caption_id]
        for run in revision.runs:
            for index in range(run.from_word, min(run.to_word, len(first))):
                first[index] = first[index] or run.speaker

    @property
    def done(self) -> Done:
        assert self.fold.done is not None, "the session has not ended"
        return self.fold.done

    @property
    def has_speakers(self) -> bool:
        """False where nobody was asked to tell speakers apart."""
        return "diarizer" in self.engines

    @property
    def captions(self) -> list[Caption]:
        """By time, as the client holds them at the end."""
        return sorted(self.fold.captions, key=lambda c: (c.span, c.lane))

    @property
    def words(self) -> list[CaptionWord]:
        """By time, with the speakers that they have at the end."""
        return _by_time([word for caption in self.captions for word in caption.words])

    @property
    def words_as_first_sent(self) -> list[CaptionWord]:
        """With the first speaker that each word was given."""
        return _by_time(
            [
                replace(word, speaker=speaker)
                for caption in self.captions
                for word, speaker in zip(
                    caption.words, self._first_speakers[caption.caption_id], strict=True
                )
            ]
        )

    @property
    def text(self) -> str:
        """Captions in order of time."""
        return " ".join(caption.text for caption in self.captions)


def _by_time(words: list[CaptionWord]) -> list[CaptionWord]:
    return sorted(words, key=lambda word: word.span)
