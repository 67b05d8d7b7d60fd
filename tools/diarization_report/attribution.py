"""Whose a word is: both rules of attribution on digit conversations, with the true word times."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from server.engines.embedded_diarizer import EmbeddedDiarizer
from streaming.attribution import attribute_by_overlap, attribute_by_segment
from tools.diarization_report.cached import CachedEmbeddings
from tools.diarization_report.hearing import Speech
from tools.diarization_report.recordings import Kind, Known
from tools.diarization_report.trial import whole

RULES = {"overlap": attribute_by_overlap, "segment": attribute_by_segment}


@dataclass(frozen=True, slots=True)
class Attributed:
    """Words of conversations of one kind, and how many got the right speaker, by rule."""

    kind: Kind
    words: int
    right: dict[str, int]


def attributed(heard: Sequence[tuple[Known, Speech]], cache: CachedEmbeddings) -> list[Attributed]:
    """One for each kind of which words are known."""
    kinds = dict.fromkeys(known.kind for known, _ in heard if known.words)
    return [_attributed(kind, heard, cache) for kind in kinds]


def _attributed(
    kind: Kind, heard: Sequence[tuple[Known, Speech]], cache: CachedEmbeddings
) -> Attributed:
    right, words = dict.fromkeys(RULES, 0), 0
    for known, speech in heard:
        if known.kind is not kind:
            continue
        turns = whole(
            EmbeddedDiarizer.profile,
            known.samples,
            speech,
            cache.observe,
            EmbeddedDiarizer.grouped,
        )
        spans = [word.span for word in known.words]
        truth = [word.speaker for word in known.words]
        words += len(truth)
        for name, rule in RULES.items():
            right[name] += agreements(truth, rule(spans, turns))
    return Attributed(kind, words, right)


def agreements(truth: Sequence[str], said: Sequence[str | None]) -> int:
    """Words with the right speaker, under the best one-to-one mapping of speakers."""
    names = {name: i for i, name in enumerate(dict.fromkeys(truth))}
    others = {name: i for i, name in enumerate(dict.fromkeys(n for n in said if n is not None))}
    shared = np.zeros((len(names), len(others)))
    for true, given in zip(truth, said, strict=True):
        if given is not None:
            shared[names[true], others[given]] += 1
    return int(shared[linear_sum_assignment(shared, maximize=True)].sum())
