"""The section of whole sessions: what a session holds at the end, and how it is scored."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from server.engines.scripted import ScriptedDiarizer, ScriptedVoiceActivity
from streaming.attribution import attribute_by_overlap, attribute_by_segment
from streaming.engines import Observation, SpeakerChunk, SpeechWindow
from streaming.scripted_audio import decode_words
from streaming.timeline import Span
from streaming.turns import Turn
from tests.fakes import silence, speech
from tools.diarization_report.recordings import Kind, Known, SaidWord
from tools.diarization_report.sessions import (
    RULES,
    SEED,
    Desk,
    KnowsTheWords,
    Told,
    scored,
    section,
)

PEOPLE = ("alice", "bob")


def conversation() -> Known:
    """Two people by turns, with pauses that end their utterances."""
    parts = [
        np.concatenate([speech(range(8 * n, 8 * n + 8), speaker=n % 2), silence(1.5)])
        for n in range(4)
    ]
    samples = np.concatenate(parts)
    words = tuple(
        SaidWord(word.span, PEOPLE[word.speaker], f"word{word.number}")
        for word in decode_words(samples)
    )
    turns = tuple(Turn(word.span, word.speaker) for word in words)
    return Known("scripted", Kind.DIGITS, samples, turns, words)


class ScriptedVoices:
    """Takes the place of embeddings that are kept: whose words a chunk holds."""

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        return ScriptedDiarizer().observe(chunks)


@pytest.fixture(scope="module")
def told() -> Told:
    known = conversation()
    desk = Desk(ScriptedVoiceActivity(), KnowsTheWords(known), ScriptedVoices())
    return desk.caption(known)


def test_a_session_that_hears_everything_has_no_errors(told: Told) -> None:
    assert [word.text for word in told.words] == [word.text for word in told.reference]
    assert told.unclamped == tuple(word.span for word in told.reference)
    scores = scored("all words", [told])
    assert (scores.words, scores.wer, scores.cpwer, scores.attributed) == (32, 0, 0, 1)
    assert list(scores.by_rule) == list(RULES)
    assert scores.by_rule["overlap"] == 1


def test_words_that_go_to_somebody_else_are_no_word_errors(told: Told) -> None:
    first, *others = told.words
    stolen = replace(told, words=(replace(first, speaker=others[-1].speaker), *others))
    scores = scored("one stolen", [stolen])
    assert (scores.wer, scores.cpwer, scores.attributed) == (0, 2 / 32, 31 / 32)


def test_rules_are_given_the_words_as_they_were_placed(told: Told) -> None:
    """As if one word had been placed where the first one is, and trimmed by the session."""
    elsewhere = told.words[0].span
    placed = replace(told, unclamped=(*told.unclamped[:8], elsewhere, *told.unclamped[9:]))
    assert placed.said_by(attribute_by_overlap, is_clamped=True)[8].speaker == "S2"
    assert placed.said_by(attribute_by_overlap, is_clamped=False)[8].speaker == "S1"
    assert placed.said_by(attribute_by_segment, is_clamped=True)[9].speaker == "S2"


def test_a_word_belongs_to_the_window_that_holds_its_middle() -> None:
    known = conversation()
    word = known.words[0].span
    middle = (word.start + word.end) // 2
    before, after = (
        SpeechWindow(known.samples[part.start : part.end], seed=SEED + part.start)
        for part in (Span(0, middle), Span(middle, word.end))
    )
    heard = KnowsTheWords(known).recognize([before, after])
    assert [len(hypothesis.words) for hypothesis in heard] == [0, 1]
    assert heard[1].words[0].span == Span(0, word.end - middle)


def test_what_must_be_reached_is_judged(told: Told) -> None:
    good = scored("good", [told])
    text, promises = section([good, replace(good, recognizer="bad", cpwer=0.03, attributed=0.9)])
    assert "| good | 32 | 0.000 | 0.000 |" in text
    assert [promise.is_met for promise in promises] == [True, True, False, False]
