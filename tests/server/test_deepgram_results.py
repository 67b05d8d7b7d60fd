"""The order, tiling, speakers and flags of Deepgram's messages, for any order of what comes in."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.deepgram_messages import Phrasebook, plain_text, spoken_words, transcript
from server.protocols.deepgram_query import Terms
from server.protocols.deepgram_results import (
    HURRIED_WAIT_NS,
    SPEAKER_WAIT_NS,
    ChannelResults,
    Voices,
    settled_voices,
)
from streaming.events import (
    CaptionWord,
    Final,
    Gap,
    GapReason,
    Partial,
    Revision,
    SpeakerRun,
    SpeechEnded,
    SpeechStarted,
)
from streaming.timeline import SAMPLE_RATE_HZ, Span

WORD = SAMPLE_RATE_HZ // 4
MS = 1_000_000
Message = dict[str, Any]


def word(text: str, at: int, speaker: str | None = None, *, is_glued: bool = False) -> CaptionWord:
    return CaptionWord(text, Span(at, at + WORD), 0.9, speaker, is_glued)


def final(seq: int, start: int, speakers: list[str | None], name: str | None = None) -> Final:
    """One word per speaker, back to back."""
    words = tuple(word(f"w{start + i * WORD}", start + i * WORD, s) for i, s in enumerate(speakers))
    span = Span(start, words[-1].span.end)
    return Final(seq, name or f"c{seq}", 0, span, "", "en", 0.9, speakers[0], words)


def partial(start: int, words: int = 1, caption: str = "c1") -> Partial:
    spoken = tuple(word(f"p{i}", start + i * WORD) for i in range(words))
    span = Span(start, start + max(1, words) * WORD)
    return Partial(0, caption, 0, span, "", 0, None, spoken)


class Channel:
    """A channel, its clock and all that it has said."""

    def __init__(self, **terms: Any) -> None:
        self.results = ChannelResults(0, Terms(**terms), Phrasebook("id"), Voices())
        self.now_ns = 0
        self.said: list[Message] = []

    def hear(self, *events: Any) -> None:
        for event in events:
            if isinstance(event, Revision):
                self.results.revise(event)
            else:
                self.results.receive(event, self.now_ns)

    def settle(self, settled: int, seq: int = 10**6) -> list[Message]:
        self.results.settle(settled, seq)
        return self.take()

    def take(self, later_ns: int = 0) -> list[Message]:
        self.now_ns += later_ns
        fresh = [said.message for said in self.results.take(self.now_ns)]
        self.said += fresh
        return fresh

    @property
    def finals(self) -> list[Message]:
        return [m for m in self.said if m["type"] == "Results" and m["is_final"]]

    @property
    def words(self) -> list[Message]:
        return [w for m in self.finals for w in m["channel"]["alternatives"][0]["words"]]


def test_a_final_waits_for_its_speakers_and_no_longer() -> None:
    channel = Channel(diarize=True)
    channel.hear(final(1, 0, ["S1", None]), final(2, 8 * WORD, [None]))
    assert channel.settle(20 * WORD) == []
    assert channel.results.due_ns(0) == SPEAKER_WAIT_NS
    channel.hear(Revision(3, "c1", 1, (SpeakerRun(1, 2, "S2"),)))
    assert [len(m["channel"]["alternatives"][0]["words"]) for m in channel.take()] == [1, 1]
    assert channel.take(SPEAKER_WAIT_NS - 1) == []
    (late,) = channel.take(1)
    assert "speaker" not in late["channel"]["alternatives"][0]["words"][0]
    assert [w.get("speaker") for w in channel.words] == [0, 1, None]
    assert channel.results.is_empty


def test_who_is_unknown_has_the_voice_beside() -> None:
    voices = Voices()
    assert settled_voices([None, "S2", None, "S1"], voices) == [0, 0, 0, 1]
    assert settled_voices([None, None], voices) == [None, None]
    assert settled_voices(["S1"], voices) == [1]


def test_who_wants_to_go_waits_less() -> None:
    channel = Channel(diarize=True)
    channel.hear(final(1, 0, [None]))
    channel.results.hurry(0)
    channel.hear(final(2, 8 * WORD, [None]))
    assert channel.settle(20 * WORD) == []
    assert len(channel.take(HURRIED_WAIT_NS)) == 2


def test_a_final_waits_until_it_is_known_whether_it_is_the_last() -> None:
    channel = Channel()
    channel.hear(SpeechStarted(0, 0, 0), SpeechEnded(0, 0, 5 * WORD), final(3, 0, [None]))
    assert channel.settle(0, seq=2) == []
    assert channel.results.due_ns(0) == SPEAKER_WAIT_NS
    assert channel.results.due_ns(SPEAKER_WAIT_NS) is None, "it waits for the store alone"
    (told,) = channel.settle(6 * WORD, seq=3)
    assert told["speech_final"]
    assert channel.results.due_ns(0) is None


def test_an_utterance_that_is_cut_ends_once() -> None:
    channel = Channel()
    channel.hear(SpeechStarted(0, 0, 0), final(1, 0, [None]))
    (first,) = channel.settle(2 * WORD)
    assert not first["speech_final"]
    channel.hear(SpeechEnded(1, 0, 5 * WORD))
    (blank,) = channel.settle(6 * WORD)
    assert blank["speech_final"]
    assert blank["channel"]["alternatives"][0]["transcript"] == ""
    assert blank["start"] + blank["duration"] == 5 * WORD / SAMPLE_RATE_HZ


def test_an_end_that_was_never_heard_of_holds_nothing_up() -> None:
    channel = Channel(speech_events=True)
    channel.hear(SpeechStarted(0, 0, 0), SpeechStarted(0, 0, 8 * WORD), SpeechEnded(0, 0, 9 * WORD))
    channel.settle(20 * WORD)
    assert [m["type"] for m in channel.said].count("Results") == 2
    assert not channel.results.is_unsettled


def test_noise_is_told_of_only_to_who_was_told_of_speech() -> None:
    noise = (SpeechStarted(0, 0, 0), SpeechEnded(0, 0, WORD))
    quiet, told = Channel(), Channel(speech_events=True)
    for channel in (quiet, told):
        channel.hear(*noise)
        channel.settle(2 * WORD)
    assert quiet.said == []
    assert [message["type"] for message in told.said] == ["SpeechStarted", "Results"]
    assert told.said[-1]["speech_final"]


def test_an_interim_that_came_to_nothing_is_taken_back() -> None:
    channel = Channel(interim=True, endpoints=False)
    channel.hear(SpeechStarted(0, 0, 0), partial(0))
    assert not channel.take()[0]["is_final"]
    channel.hear(partial(0, words=0), SpeechEnded(0, 0, WORD))
    (blank,) = channel.settle(2 * WORD)
    assert blank["is_final"]
    assert not blank["speech_final"]


def test_an_interim_never_overtakes_a_final() -> None:
    channel = Channel(interim=True, diarize=True)
    channel.hear(final(1, 0, [None]), partial(8 * WORD, caption="c2"))
    assert channel.settle(4 * WORD) == []
    assert not channel.results.has_news(0)
    channel.hear(partial(8 * WORD, words=2, caption="c2"))
    said = channel.take(SPEAKER_WAIT_NS)
    assert [message["is_final"] for message in said] == [True, False]
    assert len(said[-1]["channel"]["alternatives"][0]["words"]) == 2


def test_interims_name_only_voices_that_finals_have_named() -> None:
    channel = Channel(interim=True, diarize=True)
    spoken = Partial(0, "c1", 0, Span(0, WORD), "", 0, "S1", (word("a", 0, "S1"),))
    channel.hear(spoken)
    channel.take()
    channel.hear(final(1, 0, ["S1"]), spoken)
    channel.settle(WORD)
    told = [m["channel"]["alternatives"][0]["words"][0].get("speaker") for m in channel.said]
    assert told == [None, 0, 0]


def test_what_was_lost_is_told() -> None:
    channel = Channel()
    channel.hear(Gap(1, 0, Span(0, SAMPLE_RATE_HZ), GapReason.OVERLOAD))
    error, blank = channel.settle(SAMPLE_RATE_HZ)
    assert error["variant"] == "AudioGap"
    assert "0.0 s to 1.0 s" in error["description"]
    assert blank["duration"] == 1.0


def test_the_end_of_an_utterance_is_a_gap_between_words() -> None:
    gap = 4 * WORD
    channel = Channel(utterance_end_samples=gap, interim=True)
    channel.hear(SpeechStarted(0, 0, 0), final(1, 0, [None]))
    assert channel.results.awaits_gap
    assert [m["type"] for m in channel.settle(WORD + gap - 1)] == ["Results"]
    (ended,) = channel.settle(WORD + gap)
    assert ended["last_word_end"] == WORD / SAMPLE_RATE_HZ
    assert channel.settle(WORD + 2 * gap) == []
    assert not channel.results.awaits_gap


def test_a_word_after_a_gap_in_noise_ends_the_utterance_before_it() -> None:
    channel = Channel(utterance_end_samples=4 * WORD, interim=True)
    channel.hear(SpeechStarted(0, 0, 0), final(1, 0, [None]), partial(5 * WORD, caption="c2"))
    assert [m["type"] for m in channel.settle(WORD)] == ["Results", "UtteranceEnd", "Results"]


FINALS = st.lists(
    st.tuples(
        st.integers(0, 6),
        st.lists(st.sampled_from(["S1", "S2", "S3", None]), min_size=1, max_size=5),
        st.booleans(),
    ),
    max_size=8,
)


@given(FINALS, st.lists(st.integers(0, 40), max_size=4), st.booleans(), st.data())
def test_every_word_is_said_once_in_order_and_tiles(
    plan: list[tuple[int, list[str | None], bool]],
    finalizes: list[int],
    diarize: bool,
    data: st.DataObject,
) -> None:
    """D1, D2, D4, D5 and D6, whenever it is settled, revised and taken."""
    channel = Channel(diarize=diarize, interim=True)
    at, seq, asked, spoken = 0, 0, 0, []
    for pause, speakers, ends in plan:
        start = at + pause * WORD
        seq, at = seq + 1, start + len(speakers) * WORD
        caption = final(seq, start, speakers)
        spoken += [w.text for w in caption.words]
        channel.hear(SpeechStarted(seq - 1, 0, start), partial(start))
        if ends:
            channel.hear(SpeechEnded(seq - 1, 0, at))
        channel.hear(caption)
        if data.draw(st.booleans()):
            run = SpeakerRun(0, len(speakers), "S4")
            channel.hear(Revision(seq, caption.caption_id, 1, (run,)))
        if finalizes:
            finalizes.pop()
            channel.results.finalize(at, channel.now_ns)
            asked += 1
        if data.draw(st.booleans()):
            channel.settle(at, seq)
        channel.take(data.draw(st.sampled_from([0, 100 * MS, SPEAKER_WAIT_NS])))
    channel.settle(at + WORD, seq)
    channel.take(SPEAKER_WAIT_NS)
    assert channel.results.is_empty
    assert [w["word"] for w in channel.words] == spoken
    assert sum(m["from_finalize"] for m in channel.finals) == asked
    through = 0.0
    for message in channel.finals:
        assert message["start"] == pytest.approx(through, abs=0.002)
        through = message["start"] + message["duration"]
        told = {w.get("speaker") for w in message["channel"]["alternatives"][0]["words"]}
        assert len(told) <= 1
        assert diarize or told <= {None}


# Words


def test_punctuation_is_never_a_word() -> None:
    words = [word("¿", 0), word("Qué", WORD), word("…", 2 * WORD), word("100%!", 3 * WORD)]
    spoken = spoken_words(words, [None] * 4)
    assert [(w.text, w.plain) for w in spoken] == [("¿Qué…", "qué"), ("100%!", "100%")]
    assert spoken_words([word("—", 0)], [None]) == []


def test_words_are_joined_as_they_are_written() -> None:
    words = [word("it", 0), word("'s", WORD, is_glued=True), word("so.", 2 * WORD)]
    spoken = spoken_words(words, [None] * 3)
    assert transcript(spoken, punctuate=True) == "it's so."
    assert plain_text("'s") == "s"


@given(st.text(max_size=12))
def test_plain_text_is_plain(text: str) -> None:
    plain = plain_text(text)
    assert plain == plain_text(plain)
    assert not any(plain.startswith(mark) or plain.endswith(mark) for mark in ".,!? ")
