"""Transcript: durable events folded into captions and cues."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streaming.events import (
    CaptionWord,
    Done,
    DurableEvent,
    Final,
    Gap,
    GapReason,
    LanguageDetected,
    Quantiles,
    Revision,
    SpeakerRun,
    text_of,
)
from streaming.exports import Cue, Transcript
from streaming.exports.transcript import plain
from streaming.timeline import Span

MS = 16


def final(
    caption_id: str, *said: tuple[str, str | None], start_ms: int = 1_000, lane: int = 0
) -> Final:
    """Words of 400 ms, one every 500 ms, each with its speaker."""
    words = tuple(
        CaptionWord(
            text, Span((start_ms + 500 * i) * MS, (start_ms + 500 * i + 400) * MS), 0.9, speaker
        )
        for i, (text, speaker) in enumerate(said)
    )
    span = Span(start_ms * MS, (start_ms + 500 * len(said)) * MS)
    speaker = said[0][1] if said else None
    return Final(1, caption_id, lane, span, text_of(words), "en", 0.9, speaker, words)


def revision(caption_id: str, rev: int, *runs: tuple[int, int, str | None]) -> Revision:
    return Revision(2, caption_id, rev, tuple(SpeakerRun(*run) for run in runs))


def done(audio_seconds: float) -> Done:
    nothing = Quantiles(None, None)
    return Done(9, audio_seconds, 0.0, 0.0, 0.0, None, 0, 0, nothing, nothing)


ABC = final("c1", ("one", "S1"), ("two", "S1"), ("three", "S1"))


def test_one_cue_per_speaker_run() -> None:
    events: list[DurableEvent] = [ABC, revision("c1", 1, (2, 3, "S2"))]
    assert Transcript.from_events(events).cues() == [
        Cue(1_000, 1_900, "S1", "one two"),
        Cue(2_000, 2_400, "S2", "three"),
    ]


def test_revisions_fold_in_order_and_only_once() -> None:
    first, second = revision("c1", 1, (0, 3, "S2")), revision("c1", 2, (0, 1, "S3"))
    (caption,) = Transcript.from_events([ABC, first, second]).captions
    assert [word.speaker for word in caption.words] == ["S3", "S2", "S2"]
    assert caption.speaker == "S2"
    replayed = Transcript.from_events([ABC, first, second, ABC, first])
    assert replayed.captions == (caption,)


def test_a_revision_reaching_beyond_its_caption_changes_only_what_is_there() -> None:
    events: list[DurableEvent] = [ABC, revision("c1", 1, (-5, 1, "S2"), (2, 10**9, None))]
    (caption,) = Transcript.from_events(events).captions
    assert [word.speaker for word in caption.words] == ["S2", "S1", None]


def test_a_revision_of_an_unknown_caption_changes_nothing() -> None:
    assert Transcript.from_events([revision("c9", 1, (0, 1, "S1"))]).captions == ()


def test_without_words_a_caption_has_one_cue_and_one_speaker() -> None:
    bare = Final(1, "c1", 0, Span(0, 800 * MS), "one two three", "en", None, "S1", ())
    (cue,) = Transcript.from_events([bare]).cues()
    assert cue == Cue(0, 800, "S1", "one two three")
    longest = revision("c1", 1, (0, 1, "S1"), (1, 3, "S2"))
    (cue,) = Transcript.from_events([bare, longest]).cues()
    assert cue.speaker == "S2"
    (cue,) = Transcript.from_events([bare, revision("c1", 1)]).cues()
    assert cue.speaker == "S1"


def test_names_take_the_place_of_speakers_and_nothing_else() -> None:
    said = final("c1", ("one", "S1"), ("two", "S2"), ("three", None))
    plain_one = Transcript.from_events([said])
    named = plain_one.named({"S1": "Ann", "S3": "Nobody"})
    assert [word.speaker for word in named.captions[0].words] == ["Ann", "S2", None]
    assert named.captions[0].speaker == "Ann"
    assert named.named({"Ann": "S1"}) == plain_one


def test_two_speakers_of_one_name_are_one() -> None:
    said = final("c1", ("one", "S1"), ("two", "S2"))
    both = Transcript.from_events([said]).named({"S1": "Ann", "S2": "Ann"})
    assert [(cue.speaker, cue.text) for cue in both.cues()] == [("Ann", "one two")]
    assert both.speakers == ("Ann",)


def test_a_passage_has_the_words_of_one_speaker() -> None:
    said = final("c1", ("one", "S1"), ("two", "S2\n"), ("three", "S2\n"), start_ms=0, lane=3)
    first, second = Transcript.from_events([said]).passages()
    assert (first.text, first.speaker, first.lane, first.language) == ("one", "S1", 3, "en")
    assert (second.text, second.speaker) == ("two three", "S2")
    assert second.span == Span(500 * MS, 1_400 * MS)


def test_a_word_that_holds_spaces_is_several_which_share_its_time() -> None:
    (passage,) = Transcript.from_events([final("c1", ("New\u2028York\0", "S1"))]).passages()
    assert [word.text for word in passage.words] == ["New", "York"]
    assert [word.span.start // MS for word in passage.words] == [1_000, 1_171]
    assert passage.words[-1].span.end == 1_400 * MS
    bare = Final(1, "c1", 0, Span(0, 800 * MS), "ab cd", "en", 0.7, "S1", ())
    (passage,) = Transcript.from_events([bare]).passages()
    assert [word.span.end // MS for word in passage.words] == [400, 800]


def test_captions_stand_in_order_of_time_whatever_their_lane() -> None:
    late, early = final("c1", ("b", "B"), start_ms=5_000), final("c2", ("a", "A"), lane=1)
    transcript = Transcript.from_events([late, early])
    assert [caption.caption_id for caption in transcript.captions] == ["c2", "c1"]
    assert transcript.speakers == ("A", "B")


def test_gaps_and_the_end_are_kept() -> None:
    gap = Gap(3, 0, Span(0, 16), GapReason.OVERLOAD)
    language = LanguageDetected(2, "en", 0.9)
    running = Transcript.from_events([ABC, language, gap])
    assert running.audio_seconds is None
    ended = Transcript.from_events([ABC, language, gap, gap, done(12.5)])
    assert ended.gaps == (gap,)
    assert ended.audio_seconds == 12.5


def test_a_cue_without_text_is_none_and_one_without_time_lasts_a_millisecond() -> None:
    word = CaptionWord("hm", Span(160, 160), None, None)
    instant = Final(1, "c1", 0, Span(160, 160), "hm", None, None, None, (word,))
    blank = Final(2, "c2", 0, Span(160, 320), " \n", None, None, None, ())
    assert Transcript.from_events([instant, blank]).cues() == [Cue(10, 11, None, "hm")]


def test_text_and_names_are_made_inert() -> None:
    assert plain("a\r\n\r\nb\t\0\x1b[31mc") == "a b [31mc"
    assert plain("x\u202ey\u2066z\u2028w\ud800") == "xyz w"
    assert plain("👩\u200d🚀 नमस्ते") == "👩\u200d🚀 नमस्ते"
    (cue,) = Transcript.from_events([final("c1", ("hi", "\0\n"))]).cues()
    assert cue.speaker is None


FINALS: st.SearchStrategy[DurableEvent] = st.builds(
    lambda caption_id, said, start: final(caption_id, *said, start_ms=start),
    st.sampled_from(["c1", "c2", "c3"]),
    st.lists(st.tuples(st.text(max_size=5), st.none() | st.text(max_size=3)), max_size=4),
    st.integers(0, 20_000),
)
RUNS: Any = st.lists(
    st.tuples(st.integers(-2, 6), st.integers(-2, 6), st.none() | st.text(max_size=3))
)
REVISIONS: st.SearchStrategy[DurableEvent] = st.builds(
    lambda caption_id, rev, runs: revision(caption_id, rev, *runs),
    st.sampled_from(["c1", "c2", "c3", "c4"]),
    st.integers(1, 4),
    RUNS,
)
DURABLE = st.lists(st.one_of(FINALS, REVISIONS), max_size=10)


@given(st.lists(st.tuples(st.text(" a\u0301\0\n予,", max_size=4), st.booleans()), max_size=6))
def test_a_passage_reads_as_its_words_do(texts: list[tuple[str, bool]]) -> None:
    words = tuple(CaptionWord(text, Span(0, 1), None, None, glued) for text, glued in texts)
    said = Final(1, "c1", 0, Span(0, 1), "", None, None, None, words)
    passages = Transcript.from_events([said]).passages()
    assert [passage.text for passage in passages] == [t for t in [plain(text_of(words))] if t]
    assert all(word.text == plain(word.text) for p in passages for word in p.words)


@given(DURABLE)
def test_cues_are_never_empty_negative_or_out_of_order(events: list[DurableEvent]) -> None:
    cues = Transcript.from_events(events).cues()
    assert all(cue.text and cue.text == plain(cue.text) for cue in cues)
    assert all(cue.start_ms < cue.end_ms for cue in cues)
    assert [cue.start_ms for cue in cues] == sorted(cue.start_ms for cue in cues)


@given(DURABLE)
def test_a_replay_changes_no_caption(events: list[DurableEvent]) -> None:
    once = {caption.caption_id: caption for caption in Transcript.from_events(events).captions}
    # Only revisions of captions that were unknown the first time may now find theirs.
    known: set[str] = set()
    for event in events:
        if isinstance(event, Final):
            known.add(event.caption_id)
        elif isinstance(event, Revision) and event.caption_id not in known:
            return
    twice = Transcript.from_events([*events, *events]).captions
    assert {caption.caption_id: caption for caption in twice} == once
