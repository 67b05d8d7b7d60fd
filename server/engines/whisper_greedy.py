"""The decoding loop: all rows of one encoder context, from their drafts to their last token.

Each call of the decoder feeds every row its last token and what a draft says comes next, and keeps
the longest prefix that the rules would have chosen themselves. So a draft that is wholly right
costs one pass, and a wrong one changes nothing. Rows that have ended leave the batch.
Knows nothing of audio, text or guards.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.engines.whisper_alignment import attention_of
from server.engines.whisper_decoder import Cache, LeanDecoder
from server.engines.whisper_drafts import realigned
from server.engines.whisper_rules import Choice, Rules, Sampler

STAMP_SLACK = 10
"""0.2 s: so far a drafted timestamp may be off where it need not be exact."""
POSITIONS_PER_CALL = 64
"""Logits are as long as the vocabulary: so many positions at once keep them under 16 MB."""
MISSES_MAX = 2
"""So often in a row nothing of a realigned draft may be right before it is given up."""


@dataclass(frozen=True, slots=True)
class Task:
    """One row to decode."""

    prefix: tuple[int, ...]
    """Everything before the transcript, the prompt included."""
    start: int
    """Where in ``prefix`` the transcript's start mark stands."""
    tokens_max: int
    positions: int
    """Encoder positions that hold audio."""
    draft: tuple[int, ...] = ()
    closing_stamp: int | None = None
    """Given for a row that need not be exact: a phrase that ends at this timestamp or later is
    taken for the last without a further pass, and a drafted timestamp near the right one stays."""
    onsets: tuple[int, ...] = ()
    """Timestamps at which sound begins, ascending: where a phrase may begin."""
    sampler: Sampler | None = None


@dataclass(slots=True)
class Transcript:
    """What a row became. Arrays have one entry per token."""

    tokens: list[int] = field(default_factory=list)
    """Without the end mark."""
    log_probabilities: list[float] = field(default_factory=list)
    end_log_probability: float | None = None
    """Of the end mark; None where decoding was stopped before it."""
    is_cut: bool = False
    """Stopped at its token limit."""
    no_speech_probability: float = 0.0
    margin: float = math.inf
    """Of its closest decision, in logits; see ``Choice``."""
    attention: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))
    """Of the alignment heads, shape (heads, fed tokens, positions): of the last token of the
    prefix, then of every token that was fed."""
    passes: int = 0


@dataclass(slots=True)
class Timing:
    """Seconds in the first call of a batch, which verifies, and in the calls after it."""

    verify_s: float = 0.0
    step_s: float = 0.0

    def reset(self) -> None:
        self.verify_s = self.step_s = 0.0


@dataclass(slots=True)
class _Row:
    """A task under way: ``pending`` and ``guess`` are what the next call feeds."""

    task: Task
    transcript: Transcript
    pending: list[int]
    guess: list[int]
    misses: int = 0

    @property
    def fed(self) -> list[int]:
        return self.pending + self.guess

    @property
    def room(self) -> int:
        return self.task.tokens_max - len(self.transcript.tokens)


class Loop:
    """Decodes rows with one model's decoder and rules."""

    def __init__(
        self, decoder: LeanDecoder, rules: Rules, no_speech: int, timing: Timing | None = None
    ) -> None:
        """``timing`` is added to."""
        self._decoder = decoder
        self._rules = rules
        self._no_speech = no_speech
        self._timing = timing or Timing()

    def decode(self, cross: list[tuple[Tensor, Tensor]], tasks: Sequence[Task]) -> list[Transcript]:
        """One transcript per task; ``cross`` has a row for each, and is used up."""
        transcripts = [Transcript() for _ in tasks]
        rows = [
            _Row(
                task, transcript, list(task.prefix), list(task.draft[: max(0, task.tokens_max - 1)])
            )
            for task, transcript in zip(tasks, transcripts, strict=True)
        ]
        length = max(len(task.prefix) + task.tokens_max for task in tasks)
        cache = self._decoder.cache(cross, length)
        started = time.perf_counter()
        self._advance(rows, cache)
        verified = time.perf_counter()
        while rows:
            self._advance(rows, cache)
        self._timing.verify_s += verified - started
        self._timing.step_s += time.perf_counter() - verified
        return transcripts

    def _advance(self, rows: list[_Row], cache: Cache) -> None:
        """One call of the decoder; rows that have ended leave ``rows`` and ``cache``."""
        is_first = cache.lengths[0] == 0
        hidden = self._decoder.forward([row.fed for row in rows], cache)
        choices = self._choices(rows, hidden, hears_silence=is_first)
        ended = [
            index
            for index, (row, found) in enumerate(zip(rows, choices, strict=True))
            if self._accept(row, found, cache, index)
        ]
        # From the back: the row that takes a place has been looked at.
        for index in reversed(ended):
            row = rows[index]
            first = len(row.task.prefix) - 1
            row.transcript.attention = attention_of(cache, index, first, row.task.positions)
            cache.drop(index)
            rows[index] = rows[-1]
            rows.pop()

    def _choices(
        self, rows: list[_Row], hidden: Tensor, *, hears_silence: bool
    ) -> list[list[Choice]]:
        """What follows each row's pending tokens, and each token of its guess."""
        asked = [(row, offset) for row in rows for offset in range(len(row.guess) + 1)]
        places = [self._rules.place(row.transcript.tokens + row.guess[:n]) for row, n in asked]
        samplers = [row.task.sampler for row, _ in asked]
        if hears_silence:
            self._hear_silence(rows, hidden)
        picked = hidden[
            [index for index, row in enumerate(rows) for _ in range(len(row.guess) + 1)],
            [len(row.pending) - 1 + offset for row, offset in asked],
        ]
        found: list[Choice] = []
        for start in range(0, len(asked), POSITIONS_PER_CALL):
            part = slice(start, start + POSITIONS_PER_CALL)
            logits = self._decoder.logits(picked[part])
            found += self._rules.choose(logits, places[part], samplers[part])
        flat = iter(found)
        return [[next(flat) for _ in range(len(row.guess) + 1)] for row in rows]

    def _hear_silence(self, rows: list[_Row], hidden: Tensor) -> None:
        """The no-speech probability, of the place where the start mark was fed."""
        starts = hidden[list(range(len(rows))), [row.task.start for row in rows]]
        shares = self._decoder.logits(starts).softmax(dim=1)[:, self._no_speech].tolist()
        for row, share in zip(rows, shares, strict=True):
            row.transcript.no_speech_probability = share

    def _accept(self, row: _Row, choices: list[Choice], cache: Cache, index: int) -> bool:
        """Take what the rules chose as far as the guess was right, and one token more.

        Returns whether the row has ended.
        """
        row.transcript.passes += 1
        guess, kept = row.guess, 0
        cache.lengths[index] += len(row.pending)
        for offset, choice in enumerate(choices):
            if self._take(row, choice):
                cache.lengths[index] += kept
                return True
            if offset == len(guess) or not self._is_kept(row, guess[offset], choice.token):
                break
            kept += 1
        cache.lengths[index] += kept
        row.pending = row.transcript.tokens[-1:]
        row.guess = self._next_guess(row, guess[kept:], kept)
        return False

    def _is_kept(self, row: _Row, drafted: int, chosen: int) -> bool:
        """Whether what was fed as ``drafted`` may stand for what the rules chose."""
        if drafted == chosen or row.task.closing_stamp is None:
            return drafted == chosen
        are_stamps = self._rules.is_stamp(drafted) and self._rules.is_stamp(chosen)
        return are_stamps and abs(drafted - chosen) <= STAMP_SLACK

    def _take(self, row: _Row, choice: Choice) -> bool:
        """Append a token. Returns whether it was the last."""
        transcript = row.transcript
        transcript.margin = min(transcript.margin, choice.margin)
        if choice.token == self._rules.text_end:
            transcript.end_log_probability = choice.log_probability
            return True
        transcript.tokens.append(choice.token)
        transcript.log_probabilities.append(choice.log_probability)
        closing = row.task.closing_stamp
        if closing is not None and choice.token >= closing and self._closes(transcript.tokens):
            return True
        transcript.is_cut = row.room <= 0
        return transcript.is_cut

    def _closes(self, tokens: list[int]) -> bool:
        """Whether the last token is a timestamp that ends a phrase."""
        is_stamp = self._rules.is_stamp
        return len(tokens) > 1 and is_stamp(tokens[-1]) and not is_stamp(tokens[-2])

    def _next_guess(self, row: _Row, rest: list[int], kept: int) -> list[int]:
        latest = row.pending[0]
        if not rest:
            is_open = self._closes(row.transcript.tokens) and row.room > 1
            # The next phrase begins with the next sound, or at once.
            onset = next((stamp for stamp in row.task.onsets if stamp >= latest), latest)
            return [onset] if is_open else []
        row.misses = 0 if kept else row.misses + 1
        if row.misses > MISSES_MAX:
            return []
        guess = realigned(rest, latest, self._rules.is_stamp)
        return guess[: max(0, row.room - 1)]
