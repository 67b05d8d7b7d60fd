"""Events of a session → Deepgram's messages, in the one order that their clients can follow.

A channel's messages are a queue: interims replace each other, finals are deltas that never change,
and nothing overtakes a final. Deepgram cannot revise a speaker, so a final of which nobody knows
yet who spoke waits a while for its speakers; what follows waits behind it. Pure: the time is an
argument.

Invariants: D1 the finals of a channel tile its clock: each begins where the one before it ended;
D2 each word of a final event is in exactly one final message, in order; D3 a final waits for its
speakers no longer than ``SPEAKER_WAIT_NS``, and ``HURRIED_WAIT_NS`` where the client waits for it;
D4 every Finalize has exactly one answer, marked ``from_finalize``; D5 speech_final is said once per
utterance; D6 within a message every word has a speaker, or none has.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from server.protocols.deepgram_messages import (
    Flags,
    Message,
    Phrasebook,
    SpokenWord,
    alternative,
    spoken_words,
)
from server.protocols.deepgram_query import Terms
from streaming.events import Event, Final, Gap, Partial, Revision, SpeechEnded, SpeechStarted
from streaming.timeline import Span, seconds

SPEAKER_WAIT_NS = 1_000_000_000
"""A final that waits longer is late for everybody; most speakers are known by then."""
HURRIED_WAIT_NS = 250_000_000
"""After Finalize and CloseStream: clients close half a second later."""


@dataclass(slots=True)
class _Words:
    """A final, and who speaks in it as far as that is known."""

    event: Final
    speakers: list[str | None]
    due_ns: int
    flags: Flags = field(default_factory=Flags)

    @property
    def is_known(self) -> bool:
        return None not in self.speakers


@dataclass(slots=True)
class _Blank:
    """A stretch without words that a client must hear of."""

    end: int
    flags: Flags = field(default_factory=Flags)


@dataclass(slots=True)
class _Notice:
    """A message that is complete."""

    message: Message


@dataclass(slots=True)
class _Utterance:
    """Speech that voice activity has heard, until its last word is told."""

    end: int | None = None
    is_owed: bool = False
    """The client was told of it, and not of its end."""


@dataclass(frozen=True, slots=True)
class Said:
    """A message, and the event that is told by it; None where it is not the event's last one."""

    message: Message
    event: Event | None = None


class Voices:
    """Speakers as integers, in the order in which finals name them; shared by the channels."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, speaker: str) -> int:
        return self._numbers.setdefault(speaker, len(self._numbers))

    def known(self, speaker: str | None) -> int | None:
        return None if speaker is None else self._numbers.get(speaker)


def settled_voices(speakers: Sequence[str | None], voices: Voices) -> list[int | None]:
    """By word. One of nobody's is that of the word before it, or else of the first known."""
    numbers = [None if name is None else voices.number(name) for name in speakers]
    known = next((number for number in numbers if number is not None), None)
    filled: list[int | None] = []
    for number in numbers:
        known = known if number is None else number
        filled.append(known)
    return filled


class ChannelResults:
    """One channel's messages."""

    def __init__(self, index: int, terms: Terms, phrases: Phrasebook, voices: Voices) -> None:
        self._index = index
        self._terms = terms
        self._phrases = phrases
        self._voices = voices
        self.waits_for_speakers = terms.diarize
        self._queue: deque[_Words | _Blank | _Notice] = deque()
        self._interim: Partial | None = None
        """The newest, until it is told; it stands behind the queue."""
        self._open: Partial | None = None
        """The newest, told or not."""
        self._utterances: deque[_Utterance] = deque()
        self._finalizes: deque[int] = deque()
        """Where the audio stood at each Finalize that is not answered."""
        self._settled_seq = 0
        """Of finals up to this event it is known whether they are the last of their utterance."""
        self._told_through = 0
        self._last_word_end: int | None = None
        self._ended_word_end: int | None = None
        """The word that the last UtteranceEnd was about."""
        self._is_hurried = False

    # In

    def receive(self, event: Event, now_ns: int) -> None:
        """The next event of this channel's lane."""
        if isinstance(event, Final):
            self._receive_final(event, now_ns)
        elif isinstance(event, Partial):
            self._receive_partial(event)
        elif isinstance(event, SpeechStarted):
            self._receive_start(event)
        elif isinstance(event, SpeechEnded):
            if self._utterances and self._utterances[-1].end is None:
                self._utterances[-1].end = event.at
        elif isinstance(event, Gap):
            self._receive_gap(event)

    def _receive_final(self, event: Final, now_ns: int) -> None:
        wait_ns = HURRIED_WAIT_NS if self._is_hurried else SPEAKER_WAIT_NS
        speakers = [word.speaker for word in event.words]
        self._queue.append(_Words(event, speakers, now_ns + wait_ns))
        self._last_word_end = max(word.span.end for word in event.words)
        self._interim = self._open = None
        for utterance in self._utterances:
            utterance.is_owed |= utterance.end is None or event.span.start < utterance.end

    def _receive_partial(self, event: Partial) -> None:
        self._open = event if event.words else None
        if self._terms.interim:
            self._interim = self._open
            if event.words and self._utterances:
                self._utterances[-1].is_owed = True

    def _receive_start(self, event: SpeechStarted) -> None:
        told = self._terms.speech_events
        if self._utterances and self._utterances[-1].end is None:
            self._utterances[-1].end = event.at  # the news of its end was dropped for a slow reader
        self._utterances.append(_Utterance(is_owed=told))
        if told:
            self._queue.append(_Notice(self._phrases.speech_started(self._index, event.at)))

    def _receive_gap(self, event: Gap) -> None:
        """The only message of theirs that can own up to it."""
        start, end = seconds(event.span.start), seconds(event.span.end)
        lost = f"channel {self._index} from {start} s to {end} s: no words ({event.reason.value})"
        self._queue.append(_Notice(self._phrases.error("AudioGap", lost)))
        self._queue.append(_Blank(event.span.end))

    def revise(self, event: Revision) -> None:
        """Speakers of words that may not be told yet."""
        for item in self._queue:
            if isinstance(item, _Words) and item.event.caption_id == event.caption_id:
                for run in event.runs:
                    item.speakers[run.from_word : run.to_word] = [run.speaker] * (
                        run.to_word - run.from_word
                    )

    def finalize(self, received: int, now_ns: int) -> None:
        """The client wants everything up to sample ``received``, and an answer."""
        self._finalizes.append(received)
        self._hurry(now_ns)

    def hurry(self, now_ns: int) -> None:
        """No audio follows, and the client is about to go."""
        self._is_hurried = True
        self._hurry(now_ns)

    def _hurry(self, now_ns: int) -> None:
        for item in self._queue:
            if isinstance(item, _Words):
                item.due_ns = min(item.due_ns, now_ns + HURRIED_WAIT_NS)

    @property
    def pending_finalizes(self) -> int:
        return len(self._finalizes)

    # Progress

    @property
    def is_unsettled(self) -> bool:
        """``settle`` will have news as soon as what was received is captioned."""
        ended = any(utterance.end is not None for utterance in self._utterances)
        return ended or bool(self._finalizes)

    @property
    def awaits_gap(self) -> bool:
        """``settle`` will have news when there is more audio."""
        is_told = self._last_word_end is None or self._ended_word_end == self._last_word_end
        return self._terms.utterance_end_samples is not None and not is_told

    def settle(self, settled: int, seq: int) -> None:
        """All finals before sample ``settled`` were received, and there will be no others; so it
        stood when event ``seq`` was the last."""
        self._settled_seq = seq
        while self._utterances:
            end = self._utterances[0].end
            if end is None or end > settled:
                break
            self._end_utterance(end, is_owed=self._utterances.popleft().is_owed)
        while self._finalizes and self._finalizes[0] <= settled:
            self._answer_finalize(self._finalizes.popleft())
        self._tell_gap(settled)

    def _end_utterance(self, end: int, *, is_owed: bool) -> None:
        words = self._last_words_before(end)
        flags = Flags(speech_final=self._terms.endpoints)
        if words is not None and not words.flags.speech_final:
            words.flags = replace(words.flags, speech_final=self._terms.endpoints)
        elif is_owed:
            self._queue.append(_Blank(end, flags))

    def _answer_finalize(self, received: int) -> None:
        words = self._last_words_before(received)
        if words is not None and not words.flags.from_finalize:
            words.flags = replace(words.flags, from_finalize=True, speech_final=True)
        else:
            self._queue.append(_Blank(received, Flags(from_finalize=True, speech_final=True)))

    def _last_words_before(self, end: int) -> _Words | None:
        """The last final that is still to be told, where it is about audio before ``end``."""
        items = (item for item in reversed(self._queue) if isinstance(item, _Words))
        return next((item for item in items if item.event.span.start < end), None)

    def _tell_gap(self, settled: int) -> None:
        gap, word_end = self._terms.utterance_end_samples, self._last_word_end
        if gap is None or word_end is None or self._ended_word_end == word_end:
            return
        words = self._open.words if self._open else ()
        next_start = words[0].span.start if words else settled
        if next_start >= word_end + gap:
            self._ended_word_end = word_end
            self._queue.append(_Notice(self._phrases.utterance_end(self._index, word_end)))

    # Out

    @property
    def is_empty(self) -> bool:
        return not self._queue and not self._finalizes

    def due_ns(self, now_ns: int) -> int | None:
        """When time alone lets the queue go on; None where it waits for events, or for nothing."""
        head = self._queue[0] if self._queue else None
        if not isinstance(head, _Words) or head.due_ns <= now_ns:
            return None
        return head.due_ns

    def has_news(self, now_ns: int) -> bool:
        """``take`` would give something."""
        if self._queue:
            return self._is_ready(self._queue[0], now_ns)
        return self._interim is not None

    def take(self, now_ns: int) -> Iterator[Said]:
        """What may be said now, in order."""
        while self._queue and self._is_ready(self._queue[0], now_ns):
            item = self._queue.popleft()
            if isinstance(item, _Words):
                yield from self._finals(item)
            elif isinstance(item, _Blank):
                yield self._blank(item)
            else:
                yield Said(item.message)
        if self._interim is not None and not self._queue:
            interim, self._interim = self._interim, None
            yield self._interim_message(interim)

    def _is_ready(self, item: "_Words | _Blank | _Notice", now_ns: int) -> bool:
        if not isinstance(item, _Words):
            return True
        if item.event.seq > self._settled_seq:
            return False
        return not self.waits_for_speakers or item.is_known or now_ns >= item.due_ns

    def _finals(self, item: _Words) -> Iterator[Said]:
        """One message per run of a speaker; the last one has the flags, and the whole event."""
        words = spoken_words(item.event.words, self._voices_of(item.speakers))
        runs = [list(run) for _, run in groupby(words, key=lambda word: word.speaker)] or [[]]
        for run in runs[:-1]:
            end = max(word.span.end for word in run)
            yield Said(self._message(run, end, Flags(), item.event.language))
        end = item.event.span.end
        yield Said(self._message(runs[-1], end, item.flags, item.event.language), item.event)

    def _voices_of(self, speakers: Sequence[str | None]) -> list[int | None]:
        """From now on these cannot change."""
        if not self._terms.diarize:
            return [None] * len(speakers)
        return settled_voices(speakers, self._voices)

    def _message(
        self, words: Sequence[SpokenWord], end: int, flags: Flags, language: str | None
    ) -> Message:
        span = Span(self._told_through, max(self._told_through, end))
        if flags.is_final:
            self._told_through = span.end
        told = alternative(
            words,
            punctuate=self._terms.punctuate,
            language=language if self._terms.tells_language else None,
        )
        return self._phrases.results(self._index, span, flags, told)

    def _blank(self, item: _Blank) -> Said:
        return Said(self._message([], item.end, item.flags, None))

    def _interim_message(self, event: Partial) -> Said:
        voices = [self._voices.known(word.speaker) for word in event.words]
        if None in voices or not self._terms.diarize:
            voices = [None] * len(voices)
        words = spoken_words(event.words, voices)
        return Said(self._message(words, event.span.end, Flags(is_final=False), None), event)
