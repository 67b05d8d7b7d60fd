"""Windows of conversations: many utterances of several voices, cut as sliding windows are, and the
text of what was said before.

Owns what training hears and how often. Everything is drawn anew: sentences, voices, pauses, rooms.
Invariants: 1. a training voice is none of the held-out ones; 2. every word of a window is heard
whole inside it, and an utterance that the window's end cuts has no end.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from tools.demo_whisper import noise
from tools.demo_whisper.corpus import (
    ACCENTS,
    MIN_CUT_S,
    TRAIN_VARIANTS,
    Corpus,
    Split,
    Utterance,
    placed,
    stretched,
    variants,
    without_start,
)
from tools.demo_whisper.sentences import draw, words_of
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, Speech, Voice

SENTENCES_BEFORE = 24  # more than 200 tokens
NO_SPEECH_SHARE = 0.05
DIGITS_WINDOWS_SHARE = 0.12
"""Windows in which some utterances are recorded strings of digits."""
DIGITS_SHARE = 0.5  # of the utterances there
CUT_SHARE = 0.8  # of a sliding window's ends
ROOM_BEHIND_SHARE = 0.25  # windows whose padding has the room's noise; others are padded with zeros
STRETCHED_SHARE = 0.3
FAINT_NOISE_RMS = 1e-3


@dataclass(frozen=True, slots=True)
class Cast:
    """Who speaks: every accent with every variant."""

    accents: tuple[str, ...]
    variants: tuple[str, ...]

    def voice(self, rng: Random) -> Voice:
        """A random one, at a random rate and pitch."""
        return Voice(
            language=rng.choice(self.accents),
            variant=rng.choice(self.variants),
            rate_wpm=rng.randint(130, 210),
            pitch=rng.randint(25, 75),
            pitch_range=rng.randint(30, 70),
        )


TRAINING_CASTS = (
    # Those that the checkpoint knows: long windows and prompts are enough to learn.
    Cast(
        ("en-us", "en", "en-gb-scotland", "en-us-nyc"),
        tuple(words_of("m1 m2 m4 m5 m6 f1 f2 f3 f4 klatt klatt2")),
    ),
    Cast(ACCENTS["en"], tuple(TRAIN_VARIANTS)),
)


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What a window shall be like; nothing is heard in it where ``utterances_max`` is 0."""

    context_s: float
    content_s: float  # speech ends before; the rest of the context is padding
    utterances_max: int = 99
    cut_start: bool = False
    cut_end: bool = False
    digits_share: float = 0.0  # of the utterances


@dataclass(frozen=True, slots=True)
class Window:
    """Samples at 16 kHz, what is said in them, and what was said before them."""

    samples: Samples
    utterances: tuple[Utterance, ...]
    before: str

    @property
    def text(self) -> str:
        return " ".join(utterance.text for utterance in self.utterances)


def plan(rng: Random, context_s: float) -> WindowPlan:
    """A random plan for a context: many utterances, a sliding window, one or two, or none."""
    digits_share = DIGITS_SHARE if rng.random() < DIGITS_WINDOWS_SHARE else 0.0
    few_share = 0.2 if context_s > 10 else 0.6
    if (kind := rng.random()) < NO_SPEECH_SHARE:
        return WindowPlan(context_s, rng.uniform(1, context_s), utterances_max=0)
    if kind < NO_SPEECH_SHARE + few_share:
        cut_end = rng.random() < 0.25
        return WindowPlan(
            context_s,
            rng.uniform(1.5, min(6.0, context_s)) if cut_end else context_s - 0.1,
            utterances_max=rng.randint(1, 2),
            cut_start=rng.random() < 0.1,
            cut_end=cut_end,
            digits_share=digits_share,
        )
    is_sliding = kind < NO_SPEECH_SHARE + few_share + 0.35
    is_full = is_sliding and rng.random() < 0.5
    return WindowPlan(
        context_s,
        context_s if is_full else rng.uniform(context_s / 3, context_s - 1),
        cut_start=is_sliding and rng.random() < CUT_SHARE,
        cut_end=rng.random() < (CUT_SHARE if is_sliding else 0.3),
        digits_share=digits_share,
    )


class Conversations:
    """Windows on demand; the corpus' seed decides every choice.

    ``unsaid`` are sentences that shall not be drawn. Where ``is_quiet``, nothing but a faint noise
    is added to what is said.
    """

    def __init__(
        self,
        corpus: Corpus,
        casts: Sequence[Cast] = TRAINING_CASTS,
        unsaid: re.Pattern[str] | None = None,
        *,
        is_quiet: bool = False,
    ) -> None:
        allowed = set(variants(corpus.split))
        assert all(allowed.issuperset(cast.variants) for cast in casts), "held-out voices"
        self.corpus = corpus
        self.rng = corpus.rng
        self._casts = casts
        self._unsaid = unsaid
        self._is_quiet = is_quiet

    def sentence(self) -> str:
        """A random one."""
        while True:
            text = draw(self.rng, "en").text
            if self._unsaid is None or not self._unsaid.search(text):
                return text

    def earlier(self) -> list[str]:
        """What might have been said before, the latest last."""
        return [self.sentence() for _ in range(SENTENCES_BEFORE)]

    def window(self, plan: WindowPlan) -> Window:
        """A random window as planned."""
        before = self.earlier()
        samples = np.zeros(round(plan.context_s * SAMPLE_RATE_HZ), np.float32)
        utterances: list[Utterance] = []
        if plan.utterances_max == 0:
            quiet_from_s = plan.content_s
        else:
            cut, quiet_from_s = self._talk(plan, samples, utterances)
            before += [cut] if cut else []
        heard = self._in_a_room(samples, round(quiet_from_s * SAMPLE_RATE_HZ), bool(utterances))
        return Window(heard, tuple(utterances), " ".join(before))

    def _talk(
        self, plan: WindowPlan, samples: Samples, utterances: list[Utterance]
    ) -> tuple[str, float]:
        """Fills both; the words that the window's beginning cuts off, and when all is over."""
        rng, cut = self.rng, ""
        voices = [rng.choice(self._casts).voice(rng) for _ in range(rng.randint(1, 4))]
        at_s = 0.0 if plan.cut_start else rng.uniform(0, 0.6)
        while at_s < plan.content_s - MIN_CUT_S and len(utterances) < plan.utterances_max:
            speech = self._spoken(voices, plan.digits_share)
            if plan.cut_start and at_s == 0:
                speech, cut = cut_off(speech, rng.uniform(0.2, speech.duration_s))
            fits = at_s + speech.duration_s <= plan.content_s
            if not fits and utterances and not plan.cut_end:
                break
            utterances += placed(samples, speech, at_s, plan.content_s, None, rng.uniform(-8, 0))
            if not fits:
                return cut, plan.content_s
            at_s += speech.duration_s + pause_s(rng)
        return cut, min(at_s, plan.content_s)

    def _spoken(self, voices: Sequence[Voice], digits_share: float) -> Speech:
        rng, recordings = self.rng, self.corpus.recordings
        if recordings and rng.random() < digits_share:
            digits = [rng.randrange(10) for _ in range(rng.randint(1, 8))]
            return recordings.say(rng, self.corpus.split, digits)
        speech = self.corpus.synthesizer.say(self.sentence(), rng.choice(voices))
        if self.corpus.split is Split.TRAIN and rng.random() < STRETCHED_SHARE:
            speech = stretched(speech, rng.uniform(0.92, 1.09))
        return speech

    def _in_a_room(self, samples: Samples, quiet_from: int, is_speech: bool) -> Samples:
        """Noise, echo and levels up to ``quiet_from``; behind it mostly the zeros of padding."""
        if self._is_quiet:
            faint = self.corpus.noise_rng.standard_normal(len(samples), np.float32)
            heard = samples + faint * np.float32(FAINT_NOISE_RMS)
        elif is_speech:
            heard = noise.recorded(self.corpus.noise_rng, samples)
        else:
            sound = self.rng.choice((noise.silence, noise.coloured))
            heard = noise.level(
                sound(self.corpus.noise_rng, len(samples)), self.rng.uniform(-85, -40)
            )
        if self.rng.random() >= ROOM_BEHIND_SHARE:
            heard[quiet_from:] = 0
        return heard


def cut_off(speech: Speech, cut_s: float) -> tuple[Speech, str]:
    """``speech`` from ``cut_s`` on, and its words before; all of it where no whole word is left."""
    rest = without_start(speech, cut_s)
    lost = speech.words[: len(speech.words) - len(rest.words)]
    return rest, " ".join(word.text for word in lost)


def pause_s(rng: Random) -> float:
    """Between two utterances, mostly under a second."""
    return rng.uniform(0.2, 0.9) if rng.random() < 0.65 else rng.uniform(0.9, 2.0)
