"""Publisher: the wording of events, withdrawals, gaps, the language lock."""

from itertools import count

import pytest

from streaming.engines import Hypothesis, Word
from streaming.eventlog import EventLog
from streaming.events import (
    Degraded,
    Event,
    Final,
    Gap,
    GapReason,
    LanguageDetected,
    Partial,
    Revision,
    SessionStage,
    SpeakerRun,
)
from streaming.guards import Guard
from streaming.publishing import Publisher, SessionScope, SpeechSettings
from streaming.recognition import FinalText, LostText, PartialText
from streaming.stats import SessionStats
from streaming.timeline import Span
from streaming.turns import Turn
from streaming.wire import encode_event

WORDS = (Word("a", Span(10, 20), 0.5), Word("b", Span(30, 40), 1.0, is_glued=True))


def scope(language: str | None = "en") -> SessionScope:
    numbers = count(1)
    return SessionScope(
        EventLog(),
        SessionStats(),
        SpeechSettings(language, "transcribe", None, (), 1),
        lambda: f"c{next(numbers)}",
        lambda: "S1",
    )


def events(shared: SessionScope) -> list[Event]:
    shared.log.mark_stored(shared.log.last_seq)
    return shared.log.cursor().read(99)


def final(
    words: tuple[Word, ...] = WORDS,
    *,
    caption: str = "c1",
    was_shown: bool = False,
    hypothesis: Hypothesis | None = None,
) -> FinalText:
    return FinalText(caption, Span(0, 50), words, hypothesis or Hypothesis(words), was_shown, 2, 1)


def test_a_final_spans_its_words_and_is_counted() -> None:
    shared = scope()
    Publisher(3, None, shared).final(final(), [Turn(Span(0, 99), "S1")])
    (event,) = events(shared)
    assert isinstance(event, Final)
    assert (event.seq, event.lane, event.span, event.text) == (1, 3, Span(10, 40), "ab")
    assert (event.language, event.confidence, event.speaker) == ("en", 0.75, "S1")
    stats = shared.stats
    assert (stats.finals, stats.words, stats.decoded_samples) == (1, 2, 50)
    assert (stats.stable_words, stats.broken_stable_words) == (2, 1)


def test_a_partial_says_what_durable_event_it_follows() -> None:
    shared = scope()
    voice = Publisher(0, None, shared)
    voice.final(final(), ())
    voice.partial(PartialText("c2", Span(50, 90), WORDS, 1), ())
    partial = events(shared)[-1]
    assert isinstance(partial, Partial)
    assert (partial.after_seq, partial.stable_words, partial.speaker) == (1, 1, None)
    assert shared.stats.partials == 1


def test_a_final_without_words_is_decoded_audio_and_no_event() -> None:
    shared = scope()
    Publisher(0, None, shared).final(final(()), ())
    assert events(shared) == []
    assert shared.stats.decoded_samples == 50


def test_a_final_without_words_withdraws_what_was_shown() -> None:
    shared = scope()
    Publisher(0, None, shared).final(final((), was_shown=True), ())
    (event,) = events(shared)
    assert isinstance(event, Partial)
    assert (event.caption_id, event.text, event.words) == ("c1", "", ())


@pytest.mark.parametrize("reason", GapReason)
@pytest.mark.parametrize("was_shown", [False, True])
def test_a_loss_is_a_gap_and_withdraws_what_was_shown(was_shown: bool, reason: GapReason) -> None:
    shared = scope()
    Publisher(2, None, shared).gap(LostText("c1", Span(5, 25), was_shown, reason))
    gap, *rest = events(shared)
    assert gap == Gap(1, 2, Span(5, 25), reason)
    assert shared.stats.gap_samples == {reason: 20}
    assert [type(event) for event in rest] == [Partial] * was_shown


def test_speakers_that_change_are_revised_in_the_open() -> None:
    shared = scope()
    voice = Publisher(0, None, shared)
    voice.final(final(), ())
    voice.revise([Turn(Span(0, 99), "S1")], since=0)
    voice.revise([Turn(Span(0, 99), "S2")], since=40)
    assert events(shared)[1:] == [Revision(2, "c1", 1, (SpeakerRun(0, 2, "S1"),))]
    assert (shared.stats.revisions, shared.stats.revised_words) == (1, 2)


def test_only_a_named_lane_knows_its_speaker_and_only_once_it_spoke() -> None:
    shared = scope()
    voice = Publisher(0, "Alice", shared)
    assert voice.named_speakers == set()
    voice.final(final(), ())
    assert voice.named_speakers == {"Alice"}


def test_a_stage_is_called_degraded_once_for_all_lanes() -> None:
    shared = scope()
    for lane in (0, 1):
        Publisher(lane, None, shared).degraded(SessionStage.ACTIVITY, "why")
    assert events(shared) == [Degraded(0, SessionStage.ACTIVITY, "why")]


def test_the_session_is_locked_to_the_language_of_its_first_words() -> None:
    shared = scope(None)
    voice = Publisher(0, None, shared)
    voice.final(final((), hypothesis=Hypothesis((), "fr", 0.9)), ())
    assert shared.speech.language is None, "noise has no language"
    voice.final(final(hypothesis=Hypothesis(WORDS, "de", 0.98765)), ())
    voice.final(final(caption="c2", hypothesis=Hypothesis(WORDS, "it", 0.5)), ())
    found, first, second = events(shared)
    assert found == LanguageDetected(1, "de", 0.988)
    assert isinstance(first, Final)
    assert isinstance(second, Final)
    assert (first.language, second.language) == ("de", "it")
    assert shared.speech.language == "de"


def test_a_language_that_was_given_or_assumed_is_not_announced() -> None:
    given, assumed = scope("en"), scope(None)
    Publisher(0, None, given).final(final(hypothesis=Hypothesis(WORDS, "de", 0.9)), ())
    Publisher(0, None, assumed).final(final(hypothesis=Hypothesis(WORDS, "de")), ())
    assert [type(event) for event in events(given) + events(assumed)] == [Final, Final]


@pytest.mark.parametrize("language", ["", "EN", "english", "\ud800", "x" * 10**6, "d\n"])
def test_a_language_that_is_none_is_not_taken(language: str) -> None:
    shared = scope(None)
    Publisher(0, None, shared).final(final(hypothesis=Hypothesis(WORDS, language, 0.9)), ())
    (event,) = events(shared)
    assert isinstance(event, Final)
    assert event.language is None
    assert encode_event(event)


def test_a_probability_is_a_share() -> None:
    shared = scope(None)
    Publisher(0, None, shared).final(final(hypothesis=Hypothesis(WORDS, "de", 7.0)), ())
    assert events(shared)[0] == LanguageDetected(1, "de", 1.0)


def test_a_guess_does_not_settle_the_language() -> None:
    shared = scope(None)
    voice = Publisher(0, None, shared)
    voice.final(final(hypothesis=Hypothesis(WORDS, "nl", 0.4)), ())
    assert shared.speech.language is None
    voice.final(final(caption="c2", hypothesis=Hypothesis(WORDS, "de", 0.5)), ())
    guessed, found, sure = events(shared)
    assert (guessed.language, sure.language) == ("nl", "de")  # type: ignore[union-attr]
    assert found == LanguageDetected(2, "de", 0.5)


def test_several_guesses_settle_on_the_likeliest_of_all() -> None:
    shared = scope(None)
    voice = Publisher(0, None, shared)
    for language, probability in (("nl", 0.3), ("de", 0.45), ("nl", 0.3)):
        voice.final(final(hypothesis=Hypothesis(WORDS, language, probability)), ())
    found = [event for event in events(shared) if isinstance(event, LanguageDetected)]
    assert found == [LanguageDetected(3, "nl", 0.2)]
    assert shared.speech.language == "nl"


@pytest.mark.parametrize("probability", [float("nan"), -1.0])
def test_a_probability_that_is_none_settles_nothing(probability: float) -> None:
    shared = scope(None)
    Publisher(0, None, shared).final(final(hypothesis=Hypothesis(WORDS, "de", probability)), ())
    assert shared.speech.language is None


def test_a_language_given_later_forgets_the_guesses() -> None:
    shared = scope(None)
    voice = Publisher(0, None, shared)
    voice.final(final(hypothesis=Hypothesis(WORDS, "nl", 0.3)), ())
    shared.speech.language = "fr"
    voice.final(final(hypothesis=Hypothesis(WORDS, "fr")), ())
    shared.speech.language = None
    for _ in range(2):
        voice.final(final(hypothesis=Hypothesis(WORDS, "de", 0.3)), ())
    assert shared.speech.language is None
    voice.final(final(hypothesis=Hypothesis(WORDS, "de", 0.3)), ())
    assert shared.speech.language == "de"


def test_guards_that_fired_are_counted_once_per_final() -> None:
    shared = scope()
    voice = Publisher(0, None, shared)
    fired = ("coverage", "coverage", "repetition", "not a guard")
    voice.final(final(hypothesis=Hypothesis(WORDS, guards=fired)), ())
    voice.final(final((), hypothesis=Hypothesis((), guards=("no_speech",))), ())
    assert shared.stats.guards_fired == {
        Guard.COVERAGE: 1,
        Guard.REPETITION: 1,
        Guard.NO_SPEECH: 1,
    }
