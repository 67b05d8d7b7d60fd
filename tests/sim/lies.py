"""Answers that no sane engine gives: not a number, impossible times, the wrong shape or kind.

A lie never claims silence where somebody speaks: such an engine is believed, and rightly so.
"""

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from streaming.engines import Activity, Clusters, Hypothesis, Observation, Word
from streaming.jobs import Answer, JobKind
from streaming.timeline import Span

Lie = Callable[[random.Random, Answer], Answer]
"""Another answer in its place."""


def absurd(lots: random.Random, answers: list[Answer]) -> list[Answer]:
    """The right kinds, but values that cannot be."""
    return [_absurd(lots, answer) for answer in answers]


def _absurd(lots: random.Random, answer: Answer) -> Answer:
    match answer:
        case Activity():
            bad = lots.choice([np.nan, np.nan, np.inf, -np.inf, 1e30])
            return Activity(np.full_like(answer.probabilities, bad), answer.state)
        case Hypothesis():
            return lots.choice(_HYPOTHESES)(lots, answer)
        case Observation():
            return lots.choice(_OBSERVATIONS)(lots, answer)
        case Clusters():
            labels = lots.choice([-answer.labels - 1, answer.labels + 2**40, answer.labels * 1_000])
            return Clusters(labels)


def misshapen(lots: random.Random, kind: JobKind, answers: list[Answer]) -> list[Answer]:
    """The wrong kind, number or shape: as good as no answer."""
    if kind is JobKind.DETECT:
        return lots.choice([[], [Hypothesis(())], [_resized(answer) for answer in answers]])
    if kind is JobKind.RECOGNIZE:
        return lots.choice([[], [Clusters(np.zeros(1, np.int64))]])
    if kind is JobKind.OBSERVE:
        return lots.choice([[], answers[1:], [*answers, *answers], [Hypothesis(())]])
    floats = Clusters(np.full(1, np.nan))
    return lots.choice([[], [Hypothesis(())], [floats], [Clusters(np.zeros((1, 7), np.int64))]])


def _resized(answer: Answer) -> Answer:
    assert isinstance(answer, Activity)
    return Activity(np.zeros(len(answer.probabilities) + 1, np.float32), answer.state)


def _with_bad_confidence(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Hypothesis)
    bad = lots.choice([float("nan"), float("inf"), -float("inf"), -3.0, 7.0])
    return replace(answer, words=tuple(replace(word, confidence=bad) for word in answer.words))


def _with_bad_times(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Hypothesis)
    spans = [Span(0, 2**40), Span(2**40, 2**41), Span(0, 0), Span(9_000, 9_000)]
    words = tuple(replace(word, span=lots.choice(spans)) for word in reversed(answer.words))
    return replace(answer, words=words)


def _with_bad_text(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Hypothesis)
    text = lots.choice(["", " \t\n", "\x00\x1b[31m", "\ud800", "é" * 5_000, "a\nb", "\u2028"])
    return replace(answer, words=(*answer.words, Word(text, Span(0, 100))))


def _with_many_words(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Hypothesis)
    words = (Word("wild", Span(i, i + 5), is_glued=lots.random() < 0.5) for i in range(1_100))
    return replace(answer, words=tuple(words), tokens=(1,) * 5_000)


def _with_bad_language(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Hypothesis)
    language = lots.choice(["", "EN", "en\n", "x" * 50, "\ud800"])
    return replace(answer, language=language, language_probability=float("nan"))


def _with_bad_activity(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Observation)
    return replace(answer, activity=np.full_like(answer.activity, lots.choice([np.nan, np.inf])))


def _with_bad_embeddings(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Observation)
    bad = lots.choice([np.nan, np.inf, 0.0, 1e38])
    return replace(answer, embeddings=np.full_like(answer.embeddings, bad))


def _with_other_dimension(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Observation)
    size = lots.choice([0, 1, 7])
    return replace(answer, embeddings=answer.embeddings[:, :size])


def _with_too_many_speakers(lots: random.Random, answer: Answer) -> Answer:
    assert isinstance(answer, Observation)
    count = lots.choice([5, 17])
    return Observation(np.ones((3, count), np.float32), np.eye(count, 256, dtype=np.float32))


_HYPOTHESES: list[Lie] = [
    *(_with_bad_confidence, _with_bad_times, _with_bad_text, _with_many_words, _with_bad_language)
]
_OBSERVATIONS: list[Lie] = [
    *(_with_bad_activity, _with_bad_embeddings, _with_other_dimension, _with_too_many_speakers)
]
