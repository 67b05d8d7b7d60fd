"""Cues: how passages are broken into what fits a screen, by hand and for any words."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streaming.events import CaptionWord, Revision, SpeakerRun
from streaming.exports import Transcript
from streaming.exports.cue_breaks import CUE_MS_MAX, SHOWN_MS_MIN
from streaming.exports.cue_text import LINE_COLUMNS_MAX, columns
from streaming.exports.shaped_cues import ShapedCue, shaped_cues
from tests.transcripts import (
    HOSTILE,
    bare_caption,
    caption,
    no_spaces,
    of,
    spoken,
    transcript,
    word,
)


def cues_of(made: Transcript, prefix: str = "") -> list[ShapedCue]:
    return shaped_cues(made, lambda speaker: prefix)


def lines_of(made: Transcript, prefix: str = "") -> list[tuple[str, ...]]:
    return [cue.lines for cue in cues_of(made, prefix)]


# Lines


def test_what_fits_a_line_stays_on_it() -> None:
    text = "Forty-two characters fit on this one line."
    assert len(text) == LINE_COLUMNS_MAX
    assert lines_of(transcript(spoken(text, step_ms=200))) == [(text,)]


def test_two_lines_break_after_a_sentence_or_a_clause_where_both_fit() -> None:
    assert lines_of(
        transcript(spoken("This was all. Nobody said another word of that", 0, 200))
    ) == [("This was all.", "Nobody said another word of that")]
    assert lines_of(
        transcript(spoken("If it rains tomorrow, nobody will come to see us", 0, 200))
    ) == [("If it rains tomorrow,", "nobody will come to see us")]


def test_two_lines_are_about_as_long_otherwise() -> None:
    text = "one two three four five six seven eight nine ten"
    assert lines_of(transcript(spoken(text, step_ms=200))) == [
        ("one two three four five", "six seven eight nine ten")
    ]


def test_the_prefix_begins_each_cue_and_counts() -> None:
    text = "Forty-two characters fit on this one line."
    assert lines_of(transcript(spoken(text, step_ms=200)), "Ann: ") == [
        ("Ann: Forty-two characters", "fit on this one line.")
    ]
    twice = lines_of(transcript(spoken(f"{text} {text} {text}", step_ms=200)), "Ann: ")
    assert len(twice) > 1
    assert all(first.startswith("Ann: ") for first, *_ in twice)


def test_a_word_that_fits_only_without_the_prefix_has_the_second_line() -> None:
    long = "Donaudampfschifffahrtsgesellschaft-Kapitän"
    assert lines_of(transcript(spoken(long)), "Ann: ") == [("Ann:", long)]


def test_a_word_wider_than_a_line_is_broken_and_keeps_its_time() -> None:
    cues = cues_of(transcript([word("x" * 100, 1_000, 3_000)]))
    assert [[len(line) for line in cue.lines] for cue in cues] == [[28, 35], [37]]
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [(1_000, 2_260), (2_260, 3_260)]


def test_digits_never_have_the_last_line_for_themselves() -> None:
    text = "The number that you asked me for it was: 1234567"
    assert lines_of(transcript(spoken(text, step_ms=200))) == [
        ("The number that you asked", "me for it was: 1234567")
    ]
    first, *more = lines_of(transcript([word("7" * 50, 0, 2_000)]))
    assert [len(first), len(more)] == [1, 1]


def test_letters_keep_their_marks() -> None:
    lines = [
        line for lines in lines_of(transcript([word("e\u0301" * 60, 0, 900)])) for line in lines
    ]
    assert "".join(lines) == "e\u0301" * 60
    assert all(line.startswith("e") for line in lines)


# Languages without spaces


def unspaced(*texts: str) -> list[CaptionWord]:
    return [word(t, i * 200, i * 200 + 200, glued=i > 0) for i, t in enumerate(texts)]


def test_wide_characters_count_two() -> None:
    assert columns("ab予算") == 6
    assert lines_of(transcript(unspaced(*"予" * 21))) == [("予" * 21,)]
    assert [len(lines) for lines in lines_of(transcript(unspaced(*"予" * 22)))] == [2]


def test_unspaced_text_breaks_after_its_own_marks() -> None:
    text = "来年の予算について話し合いましょう。それから新しい事務所についても話します。終わり。"
    assert lines_of(transcript(unspaced(*text))) == [
        ("来年の予算について話し合いましょう。",),
        ("それから新しい事務所につ", "いても話します。終わり。"),
    ]


def test_an_unspaced_text_in_one_word_breaks_after_its_marks_too() -> None:
    text = "来年の予算について話しましょう。"
    text += "皆さん、「それから新しい事務所についても話します。」終わり。"
    assert lines_of(of([bare_caption(text, 0, 9_000)])) == [
        ("来年の予算について話しましょう。",),
        ("皆さん、「それから新しい事務所に", "ついても話します。」終わり。"),
    ]


def test_unspaced_letters_of_one_column_are_known_too() -> None:
    thai = "สวัสดีครับทุกคนวันนี้เราจะพูดเกี่ยวกับงบประมาณสำหรับปีหน้า"
    (lines,) = lines_of(of([bare_caption(thai, 0, 6_000)]))
    assert "".join(lines) == thai
    assert len(lines) == 2


def test_a_closing_mark_begins_no_line() -> None:
    made = transcript(unspaced(*"予" * 17, "、", *"算" * 15))
    assert lines_of(made) == [("予" * 17 + "、", "算" * 15)]
    marked = transcript(unspaced(*"ก" * 21, "\u0e31", *"ก" * 21))
    assert lines_of(marked) == [("ก" * 21 + "\u0e31",), ("ก" * 21,)]


def test_a_glued_mark_of_a_spaced_language_is_no_break() -> None:
    words = [word("Prices", 0, 300), word("rose", 300, 600), word("by", 600, 900)]
    words += [word("3", 900, 1_000), word(".", 1_000, 1_100, glued=True)]
    words += [
        word("14", 1_100, 1_200, glued=True),
        *spoken("percent in the whole of the year", 1_200),
    ]
    assert lines_of(transcript(words)) == [
        ("Prices rose by 3.14 percent", "in the whole of the year")
    ]


# Cues


def test_a_long_caption_is_cut_at_sentence_ends_first() -> None:
    text = (
        "The first of these sentences is about as long as a single line, well. "
        "The second one is not much shorter than it, as you see."
    )
    assert [" ".join(lines) for lines in lines_of(transcript(spoken(text)))] == [
        "The first of these sentences is about as long as a single line, well.",
        "The second one is not much shorter than it, as you see.",
    ]


def test_a_long_sentence_is_cut_at_clauses() -> None:
    text = (
        "When nobody knows at all where the meeting takes place this time, "
        "then everybody will be late for it once more"
    )
    assert [" ".join(lines)[-5:] for lines in lines_of(transcript(spoken(text)))] == [
        "time,",
        " more",
    ]


def test_without_marks_the_widest_gap_cuts() -> None:
    said = spoken("one two three four five six seven eight", 0, 300)
    said += spoken("nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen", 2_700)
    first, second = lines_of(transcript(said))
    assert first[-1].endswith("eight")
    assert second[0].startswith("nine")


def test_no_cut_leaves_a_cue_too_short_to_be_read_where_another_would_do() -> None:
    endless = "and then it goes on and on without an end that anybody in the room could see or hear"
    first, second = cues_of(transcript(spoken(f"No. {endless}", 0, 250)))
    assert first.end_ms - first.start_ms >= SHOWN_MS_MIN
    assert second.end_ms - second.start_ms >= SHOWN_MS_MIN
    alone, _ = cues_of(transcript(spoken("No.", 0, 250), spoken(endless, 1_000, 250)))
    assert alone.lines == ("No.",)


def test_a_minute_by_one_speaker() -> None:
    text = " ".join("Every sentence of this minute has nine little words." for _ in range(22))
    cues = cues_of(transcript(spoken(text, 0, 300)))
    assert cues[-1].end_ms == pytest.approx(59_350, abs=1)
    assert all(cue.lines[-1].endswith("words.") for cue in cues)
    assert all(1_000 <= cue.end_ms - cue.start_ms <= CUE_MS_MAX for cue in cues)


def test_a_minute_without_words_is_shared_out() -> None:
    text = " ".join("Every sentence of this minute has nine little words." for _ in range(22))
    cues = cues_of(of([bare_caption(text, 1_000, 61_000)]))
    assert cues[0].start_ms == 1_000
    assert cues[-1].end_ms == 61_000
    assert all(cue.end_ms - cue.start_ms <= CUE_MS_MAX for cue in cues)
    assert [" ".join(cue.lines) for cue in cues] == [text[:52]] * 22


def test_revisions_inside_a_caption_make_cues_of_their_own() -> None:
    final = caption(spoken("Shall I start? Please do, Ben."))
    revision = Revision(2, "c1", 1, (SpeakerRun(3, 6, "S2"),))
    assert [(cue.speaker, *cue.lines) for cue in cues_of(of([final, revision]))] == [
        ("S1", "Shall I start?"),
        ("S2", "Please do, Ben."),
    ]


# Times


def times(made: Transcript) -> list[tuple[int, int]]:
    return [(cue.start_ms, cue.end_ms) for cue in cues_of(made)]


def test_a_short_cue_is_shown_for_a_second_or_until_the_next() -> None:
    said = (
        [word("Yes.", 0, 300, "A")],
        [word("No.", 700, 900, "B")],
        [word("Oh.", 5_000, 5_100, "A")],
    )
    assert times(transcript(*said)) == [(0, 700), (700, 1_700), (5_000, 6_000)]


def test_cues_overlap_where_speech_does() -> None:
    said = [word("Listening", 0, 3_000, "A")], [word("Mhm", 1_000, 1_400, "B")]
    assert times(transcript(*said)) == [(0, 3_000), (1_000, 2_000)]


def test_one_speaker_never_overlaps_themselves() -> None:
    said = [word("one", 0, 3_000)], [word("two", 2_000, 2_500)], [word("three", 2_000, 4_000)]
    assert times(transcript(*said)) == [(0, 2_000), (2_000, 2_001), (2_001, 4_000)]


def test_words_without_duration() -> None:
    said = [word("Uh", 500, 500), word("huh.", 500, 500)], [word("So.", 500, 500, "B")]
    assert times(transcript(*said)) == [(500, 1_500), (500, 1_500)]


def test_a_word_that_lasts_too_long_is_shown_as_long_as_may_be() -> None:
    assert times(transcript([word("Oooh", 0, 60_000)])) == [(0, CUE_MS_MAX)]


# For any words

TEXTS = st.text(max_size=20) | st.text("aé.,!。、12 ", max_size=60) | st.sampled_from(HOSTILE)
WORDS = st.builds(
    lambda text, start, length, speaker, glued: word(text, start, start + length, speaker, glued),
    TEXTS,
    st.integers(0, 20_000),
    st.integers(0, 9_000),
    st.sampled_from(["A", "B", None]),
    st.booleans(),
)
CAPTIONS = st.lists(st.lists(WORDS, min_size=1, max_size=8), max_size=3)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PREFIXES = st.sampled_from(["", "S1: ", "A long name of someone…: "])


@pytest.mark.parametrize("letter", ["x", "9", "漢", "e\u0301", "\u0301", "。", "👩\u200d"])
def test_a_word_of_ten_thousand_letters_fits_too(letter: str) -> None:
    endless = "".join([letter] * 10_000)[:10_000]
    for prefix in ("", "A long name of someone…: "):
        check_cues(transcript([word(endless, 0, 3_000), word("9", 3_000, 3_000)]), prefix)


@FEW
@given(CAPTIONS, PREFIXES)
def test_cues_fit_the_screen_and_lose_nothing(said: list[list[CaptionWord]], prefix: str) -> None:
    check_cues(transcript(*said), prefix)


def check_cues(made: Transcript, prefix: str) -> None:
    cues = cues_of(made, prefix)
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(line and len(line) <= columns(line) <= LINE_COLUMNS_MAX for line in cue.lines)
        assert cue.lines[0].startswith(prefix.rstrip())
        assert len(cue.lines) == 1 or not cue.lines[-1].isdecimal()
        assert 1 <= cue.end_ms - cue.start_ms <= CUE_MS_MAX
    assert [cue.start_ms for cue in cues] == sorted(cue.start_ms for cue in cues)
    for speaker in ("A", "B", None):
        own = [cue for cue in cues if cue.speaker == speaker]
        assert all(a.end_ms <= b.start_ms for a, b in pairwise(own))
        shown = "".join("".join(cue.lines).removeprefix(prefix.rstrip()) for cue in own)
        passages = [p.text for p in made.passages() if p.speaker == speaker]
        assert sorted(no_spaces(shown)) == sorted(no_spaces("".join(passages)))


@FEW
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(1, 9_000), st.sampled_from("ABC"))))
def test_where_nobody_talks_at_once_no_cues_overlap(said: list[tuple[int, int, str]]) -> None:
    captions, now_ms = [], 0
    for pause_ms, length_ms, speaker in said:
        captions.append([word("word", now_ms + pause_ms, now_ms + pause_ms + length_ms, speaker)])
        now_ms += pause_ms + length_ms
    cues = cues_of(transcript(*captions))
    assert all(a.end_ms <= b.start_ms for a, b in pairwise(cues))
    starts = [each.span.start // 16 for words in captions for each in words]
    assert [cue.start_ms for cue in cues] == starts


@FEW
@given(st.lists(st.sampled_from(["a", "no", "word,", "is", "broken.", "unbreakable"]), min_size=1))
def test_words_that_fit_are_whole_and_in_order(texts: list[str]) -> None:
    made = transcript(spoken(" ".join(texts)))
    shown = [each for cue in cues_of(made) for line in cue.lines for each in line.split()]
    assert shown == texts
