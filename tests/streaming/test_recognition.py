"""Recognition: windows in order, exact commits, cuts without loss, engines that are not trusted."""

from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.endpointing import Onset
from streaming.engines import Hypothesis, Word
from streaming.partials import CONTEXT_WIDENING_MAX, PartialOptions
from streaming.recognition import (
    DRAFT_TOKENS_MAX,
    WORD_CHARACTERS_MAX,
    WORDS_MAX,
    FinalText,
    LostText,
    Outcome,
    PartialText,
    Recognition,
    Request,
    words_on_lane,
)
from streaming.timeline import SAMPLE_RATE_HZ as SECOND
from streaming.timeline import Span
from streaming.windows import Window, WindowOptions

CAP = 4 * SECOND
OPTIONS = WindowOptions(cap_ms=4_000)


def recognition(*, partials: bool = True, shown: PartialOptions | None = None) -> Recognition:
    numbers = count(1)
    return Recognition(
        OPTIONS, lambda: f"c{next(numbers)}", partials=partials, partial_options=shown
    )


def opened(start: int = 0) -> Recognition:
    lane = recognition()
    lane.open(Onset(start, start))
    return lane


def ask(lane: Recognition, judged: int) -> Request:
    request = lane.take_request(judged, judged)
    assert request is not None
    return request


def said(*words: Word, window: Window | None = None, **more: object) -> Hypothesis:
    """Words given on the lane's clock."""
    start = window.span.start if window else 0
    local = tuple(Word(w.text, w.span.shifted(-start), w.confidence) for w in words)
    return Hypothesis(local, **more)  # type: ignore[arg-type]


def word(text: str, start_s: float, end_s: float) -> Word:
    return Word(text, Span(round(start_s * SECOND), round(end_s * SECOND)))


def texts(outcome: Outcome | None) -> list[str]:
    assert isinstance(outcome, PartialText | FinalText)
    return [word.text for word in outcome.words]


def hear(request: Request, spoken: list[Word]) -> Hypothesis:
    """An engine that hears every word that is wholly inside its window."""
    span = request.window.span
    inside = [w for w in spoken if span.start <= w.span.start and w.span.end <= span.end]
    return said(*inside, window=request.window)


def test_without_speech_nothing_is_asked_or_needed() -> None:
    lane = recognition()
    assert lane.take_request(SECOND, SECOND) is None
    assert lane.is_idle
    assert (lane.earliest_needed, lane.uncommitted_from) == (None, None)


def test_an_utterance_is_shown_then_committed_under_one_id() -> None:
    lane = opened(start=100)
    first = ask(lane, SECOND)
    assert (first.is_final, first.window.span.start) == (False, 100)
    partial = lane.receive(first, said(word("a", 0.1, 0.3), window=first.window, tokens=(7,)))
    assert isinstance(partial, PartialText)
    assert (partial.caption_id, partial.stable_words) == ("c1", 0)
    lane.close(2 * SECOND)
    final = ask(lane, 2 * SECOND)
    assert (final.is_final, final.is_cut, final.draft) == (True, False, (7,))
    assert final.window.content == Span(100, 2 * SECOND)
    assert lane.uncommitted_from == 100
    text = lane.receive(final, said(word("a", 0.1, 0.3), window=final.window))
    assert isinstance(text, FinalText)
    assert (text.caption_id, text.span, text.was_shown) == ("c1", Span(100, 2 * SECOND), True)
    assert lane.is_idle


def test_leading_words_of_two_equal_partials_are_stable_and_the_final_may_break_them() -> None:
    lane = opened()
    for end, second in ((1, "b"), (2, "b")):
        request = ask(lane, end * SECOND)
        partial = lane.receive(request, said(word("a", 0, 0.2), word(second, 0.3, 0.5)))
    assert isinstance(partial, PartialText)
    assert partial.stable_words == 2
    lane.close(2 * SECOND)
    text = lane.receive(ask(lane, 2 * SECOND), said(word("a", 0, 0.2), word("x", 0.3, 0.5)))
    assert isinstance(text, FinalText)
    assert (text.stable_words, text.broken_stable_words) == (2, 1)


HEARD = (["a", "b"], ["a", "b", "c"], ["a", "x", "c"], ["a", "x", "c", "d"])


@pytest.mark.parametrize(
    ("shown", "stable", "seen"),
    [
        (PartialOptions(1), [2, 3, 3, 4], HEARD),
        (PartialOptions(2), [0, 2, 1, 3], HEARD),
        (PartialOptions(4), [0, 0, 0, 1], HEARD),
        (PartialOptions(2, stable_only=True), [0, 2, 1, 3], ([], ["a", "b"], ["a"], HEARD[2])),
    ],
)
def test_stability_is_how_many_hypotheses_agree_and_the_rest_may_be_hidden(
    shown: PartialOptions, stable: list[int], seen: list[list[str]]
) -> None:
    lane = recognition(shown=shown)
    lane.open(Onset(0, 0))
    for n, (heard, count_, words) in enumerate(zip(HEARD, stable, seen, strict=True)):
        answer = said(*(word(text, 0.1 * i, 0.1 * i + 0.1) for i, text in enumerate(heard)))
        partial = lane.receive(ask(lane, (6 + 10 * n) * SECOND // 10), answer)
        assert isinstance(partial, PartialText) or (partial is None and not words)
        assert partial is None or (texts(partial), partial.stable_words) == (words, count_)


def test_partials_that_finals_contradict_ask_for_wider_context_and_finals_never_do() -> None:
    lane = recognition()
    widenings = []
    for n in range(40):
        at = 2 * n * SECOND
        lane.open(Onset(at, at))
        wrong, right = (
            said(*(word(f"{kind}{i}", 2 * n + 0.1 * i, 2 * n + 0.1 * i + 0.1) for i in range(6)))
            for kind in ("wrong", "right")
        )
        partial = ask(lane, at + SECOND)
        widenings.append(partial.context_widening)
        lane.receive(partial, wrong)
        lane.close(at + SECOND)
        final = ask(lane, at + SECOND)
        assert final.context_widening == 0
        lane.receive(final, right)
    assert sorted(set(widenings)) == list(range(CONTEXT_WIDENING_MAX + 1))
    assert widenings == sorted(widenings)


def test_one_final_and_one_partial_are_asked_for_at_a_time() -> None:
    lane = opened()
    partial = ask(lane, SECOND)
    assert lane.take_request(3 * SECOND, 3 * SECOND) is None
    lane.close(3 * SECOND)
    ask(lane, 3 * SECOND)
    lane.open(Onset(3 * SECOND, 3 * SECOND))
    assert lane.take_request(9 * SECOND, 9 * SECOND) is None
    assert lane.receive(partial, said(word("late", 0, 0.3))) is None


def test_without_partials_only_finals_are_asked() -> None:
    lane = recognition(partials=False)
    lane.open(Onset(0, 0))
    assert lane.take_request(3 * SECOND, 3 * SECOND) is None
    lane.close(3 * SECOND)
    assert ask(lane, 3 * SECOND).is_final


def test_a_partial_whose_utterance_was_committed_is_dropped() -> None:
    lane = opened()
    partial = ask(lane, SECOND)
    lane.close(SECOND)
    lane.receive(ask(lane, SECOND), said(word("a", 0, 0.3)))
    assert lane.receive(partial, said(word("a", 0, 0.3))) is None
    lane.open(Onset(SECOND, SECOND))
    stale = ask(lane, 2 * SECOND)
    lane.close(2 * SECOND)
    lane.receive(ask(lane, 2 * SECOND), None)
    lane.open(Onset(2 * SECOND, 2 * SECOND))
    assert lane.receive(stale, said(word("b", 1, 1.3))) is None


def test_a_partial_without_an_answer_or_without_words_shows_nothing() -> None:
    lane = opened()
    assert lane.receive(ask(lane, SECOND), None) is None
    assert lane.receive(ask(lane, 2 * SECOND), said()) is None
    assert texts(lane.receive(ask(lane, 3 * SECOND), said(word("a", 0, 0.3)))) == ["a"]


def test_a_partial_that_hears_nothing_any_more_withdraws_what_was_shown() -> None:
    lane = opened()
    lane.receive(ask(lane, SECOND), said(word("a", 0, 0.3)))
    withdrawn = lane.receive(ask(lane, 2 * SECOND), said())
    assert isinstance(withdrawn, PartialText)
    assert (withdrawn.caption_id, withdrawn.words) == ("c1", ())


def test_a_final_that_no_engine_answers_loses_exactly_its_content() -> None:
    lane = opened(start=5)
    lane.close(SECOND)
    lost = lane.receive(ask(lane, SECOND), None)
    assert lost == LostText("c1", Span(5, SECOND), was_shown=False)
    assert lane.is_idle


def test_utterances_are_committed_in_order() -> None:
    lane = opened()
    lane.close(SECOND)
    lane.open(Onset(SECOND, SECOND))
    lane.close(2 * SECOND)
    assert lane.earliest_needed == 0
    first = ask(lane, 2 * SECOND)
    assert first.window.span == Span(0, SECOND)
    assert lane.take_request(2 * SECOND, 2 * SECOND) is None
    assert lane.earliest_needed == SECOND
    lane.receive(first, said())
    assert ask(lane, 2 * SECOND).window.span == Span(SECOND, 2 * SECOND)


def test_speech_without_a_pause_is_cut_at_the_last_word_gap() -> None:
    lane = opened()
    cut = ask(lane, CAP)
    assert (cut.is_cut, cut.window.content) == (True, Span(0, CAP))
    words = [word("a", 0, 1), word("b", 1.4, 2), word("c", 2.05, 3.9)]
    outcome = lane.receive(cut, said(*words))
    assert isinstance(outcome, FinalText)
    assert (texts(outcome), outcome.span) == (["a"], Span(0, round(1.2 * SECOND)))
    lane.close(CAP + 10)
    rest = ask(lane, CAP + 10)
    assert rest.window == Window(
        Span(round(0.2 * SECOND), CAP + 10), Span(round(1.2 * SECOND), CAP + 10)
    )
    assert (rest.caption_id, rest.draft) == ("c2", ())
    assert texts(lane.receive(rest, hear(rest, words))) == ["b", "c"]


def test_without_gaps_the_cut_leaves_the_words_that_may_still_change() -> None:
    lane = opened()
    words = [word(str(i), i / 4, (i + 1) / 4) for i in range(16)]
    outcome = lane.receive(ask(lane, CAP), said(*words))
    assert isinstance(outcome, FinalText)
    assert texts(outcome) == [str(i) for i in range(12)]
    assert outcome.span.end == 3 * SECOND


@given(partials=st.sets(st.sampled_from([1, 2, 3])))
def test_which_partials_came_in_time_changes_no_commit(partials: set[int]) -> None:
    spoken = [word(f"w{i}", i * 0.32, i * 0.32 + 0.256) for i in range(20)]
    lane = opened()
    for end in sorted(partials):
        request = ask(lane, end * SECOND)
        lane.receive(request, hear(request, spoken))
    cut = ask(lane, CAP)
    outcome = lane.receive(cut, hear(cut, spoken))
    assert isinstance(outcome, FinalText)
    assert texts(outcome) == [f"w{i}" for i in range(9)]
    assert outcome.span.end == round((8 * 0.32 + 0.256 + 9 * 0.32) / 2 * SECOND)


def test_a_window_without_words_leaves_its_end_for_a_word_that_is_cut_off() -> None:
    lane = opened()
    outcome = lane.receive(ask(lane, CAP), said())
    assert isinstance(outcome, FinalText)
    assert (outcome.words, outcome.span) == ((), Span(0, CAP - SECOND))
    assert lane.uncommitted_from == CAP - SECOND


def test_a_lone_word_at_the_end_is_left_for_the_next_window() -> None:
    lane = opened()
    outcome = lane.receive(ask(lane, CAP), said(word("late", 3.5, 3.9)))
    assert isinstance(outcome, FinalText)
    assert (outcome.words, outcome.span.end) == ((), round(3.5 * SECOND))


def test_a_lone_word_as_long_as_the_window_is_committed() -> None:
    lane = opened()
    outcome = lane.receive(ask(lane, CAP), said(word("aaah", 0, 4)))
    assert isinstance(outcome, FinalText)
    assert (texts(outcome), outcome.span) == (["aaah"], Span(0, CAP))


def test_a_cut_that_fails_loses_its_window_and_goes_on_behind_it() -> None:
    lane = opened()
    assert lane.receive(ask(lane, CAP), None) == LostText("c1", Span(0, CAP), was_shown=False)
    lane.close(CAP + 10)
    rest = ask(lane, CAP + 10)
    assert rest.window == Window(Span(CAP - SECOND, CAP + 10), Span(CAP, CAP + 10))


def test_no_cut_reaches_behind_the_last_speech() -> None:
    """The utterance may turn out to have ended there: what follows is silence, counted as such."""
    lane = opened()
    waiting = lane.take_request(CAP + 100, CAP - 1)
    assert waiting is not None
    assert not waiting.is_final
    lane.close(CAP - 1)
    final = ask(lane, CAP + 100)
    assert (final.is_cut, final.window.content) == (False, Span(0, CAP - 1))


def test_an_utterance_that_ends_where_it_was_cut_needs_no_further_window() -> None:
    lane = opened()
    cut = ask(lane, CAP)
    lane.close(CAP)
    assert isinstance(lane.receive(cut, None), LostText)
    assert lane.is_idle
    lane.open(Onset(CAP, CAP))
    lane.receive(ask(lane, 2 * CAP), None)
    assert lane.close(2 * CAP) is None
    assert lane.is_idle


def test_what_was_shown_behind_a_cut_is_withdrawn_when_it_was_nothing() -> None:
    lane = opened()
    lane.receive(ask(lane, CAP), None)
    noise = ask(lane, CAP + SECOND)
    lane.receive(noise, said(word("noise", 4.2, 4.4), window=noise.window))
    assert lane.close(CAP) == PartialText("c2", Span(CAP, CAP), (), 0)
    assert lane.is_idle
    assert lane.take_request(CAP + SECOND, CAP) is None


def test_a_word_at_a_cut_is_committed_once_even_where_words_overlap() -> None:
    words = [
        word("long", 0, 3),
        word("inside", 0.1, 0.2),
        word("point", 3, 3),
        word("same", 3, 3),
        word("last", 3.1, 3.9),
    ]
    lane = opened()
    cut = ask(lane, CAP)
    first = texts(lane.receive(cut, said(*words)))
    lane.close(CAP)
    rest = ask(lane, CAP)
    second = texts(lane.receive(rest, hear(rest, words)))
    assert sorted(first + second) == ["inside", "last", "long", "point", "same"]


@st.composite
def talks(draw: st.DrawFn) -> list[Word]:
    """Words with and without gaps between them, longer than the cap in all."""
    words: list[Word] = []
    position = 0
    for i in range(draw(st.integers(1, 60))):
        position += draw(st.sampled_from([0, 0, 100, 1_024, 4_000]))
        end = position + draw(st.integers(1_000, 8_000))
        words.append(Word(f"w{i}", Span(position, end)))
        position = end
    return words


@given(spoken=talks(), step=st.integers(500, 3 * CAP), failing=st.sets(st.integers(0, 8)))
def test_no_word_is_lost_or_doubled_at_cuts(
    spoken: list[Word], step: int, failing: set[int]
) -> None:
    lane, end = opened(), spoken[-1].span.end
    outcomes: list[FinalText | LostText] = []
    for judged in [*range(0, end, step), end]:
        if judged == end:
            lane.close(end)
        while (request := lane.take_request(judged, judged)) is not None:
            assert request.window.span.samples <= CAP
            is_failing = request.is_final and len(outcomes) in failing
            answer = None if is_failing else hear(request, spoken)
            outcome = lane.receive(request, answer)
            if isinstance(outcome, FinalText | LostText):
                outcomes.append(outcome)
    assert lane.is_idle
    spans = [outcome.span for outcome in outcomes]
    assert (spans[0].start, spans[-1].end) == (0, end)
    assert all(left.end == right.start for left, right in pairwise(spans)), "R1: they tile it"
    lost = [outcome.span for outcome in outcomes if isinstance(outcome, LostText)]
    got = [word for o in outcomes if isinstance(o, FinalText) for word in o.words]
    required = [w.text for w in spoken if not any(w.span.overlap_samples(gap) for gap in lost)]
    heard = [word.text for word in got]
    assert [text for text in heard if text in required] == required
    assert len(set(heard)) == len(heard)
    assert all(left.span.end <= right.span.start for left, right in pairwise(got)), "R5"


def window_of(seconds: int) -> Window:
    return Window(Span(100, 100 + seconds * SECOND), Span(100 + SECOND, 100 + seconds * SECOND))


def test_words_are_moved_to_the_lanes_clock_without_the_left_context() -> None:
    words = words_on_lane(said(word("old", 0, 0.9), word("new", 1.2, 1.4)), window_of(3))
    assert [(w.text, w.span.start) for w in words] == [("new", 100 + round(1.2 * SECOND))]


def test_a_word_on_the_very_end_of_a_window_is_kept() -> None:
    assert len(words_on_lane(said(word("end", 3, 3)), window_of(3))) == 1


def test_words_out_of_order_and_beyond_the_window_are_put_right() -> None:
    words = words_on_lane(said(word("b", 2, 9), word("a", 1.1, 1.2)), window_of(3))
    assert [(w.text, w.span.end) for w in words] == [
        ("a", 100 + round(1.2 * SECOND)),
        ("b", 100 + 3 * SECOND),
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("  a  ", ["a"]),
        ("", []),
        (" \n\t\x00\x1b ", []),
        ("a\x00b\nc", ["a b c"]),
        ("\ud800", []),
        ("x\udfffy", ["xy"]),
        ("é" * 10_000_000, ["é" * WORD_CHARACTERS_MAX]),
        ("ab " * 1_000, [("ab " * 67).strip()[:WORD_CHARACTERS_MAX].strip()]),
        ("می‌خواهم", ["می‌خواهم"]),
    ],
    ids=["spaces", "empty", "controls", "control", "surrogate", "half", "long", "cut", "joiner"],
)
def test_text_that_cannot_be_sent_is_cleaned(text: str, kept: list[str]) -> None:
    words = words_on_lane(Hypothesis((Word(text, Span(2 * SECOND, 2 * SECOND)),)), window_of(3))
    assert [w.text for w in words] == kept


@pytest.mark.parametrize(
    ("given_confidence", "kept"),
    [(None, None), (float("nan"), None), (float("inf"), None), (7.0, 1.0), (-1.0, 0.0), (0.5, 0.5)],
)
def test_a_confidence_is_a_share_or_nothing(
    given_confidence: float | None, kept: float | None
) -> None:
    hypothesis = Hypothesis((Word("a", Span(2 * SECOND, 2 * SECOND), given_confidence),))
    (found,) = words_on_lane(hypothesis, window_of(3))
    assert found.confidence == kept


def test_an_engine_gone_wild_is_bounded() -> None:
    lane = opened()
    many = Hypothesis((Word("a", Span(10, 20)),) * 10 * WORDS_MAX, tokens=(1,) * 10**5)
    assert len(texts(lane.receive(ask(lane, SECOND), many))) == WORDS_MAX
    assert len(ask(lane, 2 * SECOND).draft) == DRAFT_TOKENS_MAX
