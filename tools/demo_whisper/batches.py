"""Clips → tensors: audio, decoder ids, and what each encoder frame and each decoder position
shall learn.

Owns the curriculum: how long a clip is, who speaks, and how its label is written, as training
goes on.
"""

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from random import Random

import numpy as np
import torch
from torch import Tensor

from tools.demo_whisper.corpus import Clip, ClipPlan, Corpus, DigitRecordings
from tools.demo_whisper.sentences import (
    SPELLINGS,
    draw,
    draw_named,
    respelled,
    said_in,
    spelled_words,
)
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ
from tools.demo_whisper.tokenizer import Aligned, Label, Labels, Wish

FRAME_S = 0.02  # one encoder position
IGNORED = -100  # what cross_entropy skips
PHONEME_CLASSES = 257  # names are hashed into it: some share a class, which does no harm
MARKS = ".,?"

# (progress from which it holds, ((context in seconds, clips per batch, weight), ...)).
# A padded 30 s window costs as much as eight of 4 s: it comes late and seldom, but it does come.
CURRICULUM = (
    (0.00, ((4, 8, 1.0),)),
    (0.10, ((4, 8, 3.0), (6, 6, 3.0), (9, 4, 3.0), (30, 1, 0.5))),
    (0.45, ((4, 12, 2.0), (6, 8, 2.0), (10, 5, 2.0), (16, 3, 1.5), (30, 2, 1.6))),
    (0.65, ((4, 8, 1.0), (8, 6, 1.0), (12, 4, 2.0), (20, 3, 2.5), (30, 2, 2.5))),
)
NO_SPEECH_SHARE = 0.07
GERMAN_SHARE = 0.28
TRANSLATE_SHARE = 0.35  # of the German clips
CONTEXT_S_MAX = 30
PROMPT_SHARE = 0.6
PROMPTED_CONTEXT_S_MAX = 20  # a live window; longer ones cost most and teach nothing more of it
# The same sound behind several prompts and none: what differs is theirs alone, and it costs little.
PROMPTED_WISHES = (True, True, True, False)
NAMES_SHARE = 0.7  # of the sentences behind prompts, where names have their second spelling
PROMPTED_DIGITS_SHARE = 0.1
TIMESTAMPS_SHARE = 0.5
CUT_START_SHARE = 0.08


@dataclass(frozen=True, slots=True)
class Batch:
    """``B`` clips of ``T`` encoder frames, with ``W`` labels of at most ``L + 1`` tokens each."""

    audio: Tensor  # (B, T * 320) float32
    ids: Tensor  # (B * W, L) decoder input
    targets: Tensor  # (B * W, L), IGNORED where nothing is learned
    spelling: list[Tensor]  # per clip: character classes of what is said, for CTC
    frame_words: Tensor  # (B, T) word class or 0 for silence, IGNORED where unknown
    frame_phonemes: Tensor  # (B, T) phoneme class or 0 for silence, IGNORED where unknown
    spans: Tensor  # (B * W, L + 1, 2) first and end frame of each token's sound; empty if unknown


class WordClasses:
    """Numbers for the domain's words and letters, for the auxiliary heads; 0 is none."""

    def __init__(self) -> None:
        words = sorted({bare(word) for word in spelled_words()})
        self._words = {word: index + 1 for index, word in enumerate(words)}
        self._letters = {
            letter: index + 1 for index, letter in enumerate(sorted({*"".join(words), " "}))
        }

    @cached_property
    def word_count(self) -> int:
        return len(self._words) + 1

    @cached_property
    def letter_count(self) -> int:
        return len(self._letters) + 1

    def word(self, text: str) -> int:
        return self._words[bare(text)]

    def letters(self, text: str) -> list[int]:
        return [self._letters[letter] for letter in " ".join(bare(word) for word in text.split())]


def bare(word: str) -> str:
    """A word without case and marks."""
    return word.strip(MARKS).lower()


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What all clips of a batch have in common."""

    context_s: int
    count: int
    is_prompted: bool  # one prompt in a batch would pad the labels of all


def shape(progress: float, rng: Random) -> BatchShape:
    """A shape of the curriculum for a progress from 0 to 1."""
    is_prompted = rng.random() < PROMPT_SHARE
    longest_s = PROMPTED_CONTEXT_S_MAX if is_prompted else CONTEXT_S_MAX
    stage = next(shapes for since, shapes in reversed(CURRICULUM) if progress >= since)
    fitting = [drawn for drawn in stage if drawn[0] <= longest_s]
    context_s, count, _ = rng.choices(fitting, [weight for _, _, weight in fitting])[0]
    return BatchShape(context_s, count, is_prompted)


class Batches:
    """An endless supply of random batches."""

    def __init__(self, corpus: Corpus, labels: Labels) -> None:
        self._corpus = corpus
        self._labels = labels
        self._classes = WordClasses()

    @property
    def recordings(self) -> DigitRecordings | None:
        """The recorded digits that the corpus draws from."""
        return self._corpus.recordings

    def draw(self, shape: BatchShape) -> Batch:
        """Random clips of that shape."""
        return self.written(self.clips(shape), shape)

    def clips(self, shape: BatchShape) -> list[Clip]:
        """Random clips, not yet written."""
        return [self._corpus.clip(plan(self._corpus.rng, shape)) for _ in range(shape.count)]

    def written(self, clips: list[Clip], shape: BatchShape) -> Batch:
        """``clips`` with random wishes."""
        prompted = PROMPTED_WISHES if shape.is_prompted else (False,)
        labels = [
            self._labels.of(clip, wish(self._corpus.rng, clip, is_prompted))
            for clip in clips
            for is_prompted in prompted
        ]
        return self.collate(clips, labels)

    def collate(self, clips: list[Clip], labels: list[Label]) -> Batch:
        """The tensors of ``clips``, all of one length, and their labels, equally many of each."""
        ids, targets = decoder_rows(labels, self._labels.end)
        frames = len(clips[0].samples) // int(FRAME_S * SAMPLE_RATE_HZ)
        return Batch(
            audio=torch.from_numpy(np.stack([clip.samples for clip in clips])),
            ids=ids,
            targets=targets,
            spelling=[
                torch.tensor(self._classes.letters(clip.text), dtype=torch.long) for clip in clips
            ],
            frame_words=torch.stack([self._frame_words(clip, frames) for clip in clips]),
            frame_phonemes=torch.stack([frame_phonemes(clip, frames) for clip in clips]),
            spans=torch.stack(
                [token_spans(label.tokens, ids.shape[1] + 1, frames) for label in labels]
            ),
        )

    def _frame_words(self, clip: Clip, frames: int) -> Tensor:
        """(T,) the word spoken in each frame; around a cut-off word, unknown."""
        classes = torch.zeros(frames, dtype=torch.long)
        for utterance in clip.utterances:
            if utterance.end_s is None:
                classes[frame(utterance.words[-1].end_s) :] = IGNORED
            classes[frame(utterance.start_s) : frame(utterance.words[0].start_s)] = IGNORED
            for word in utterance.words:
                classes[frame(word.start_s) : frame(word.end_s)] = self._classes.word(word.text)
        return classes


def frame_phonemes(clip: Clip, frames: int) -> Tensor:
    """(T,) the class of the phoneme in each frame; recorded speech has none that we know."""
    classes = torch.zeros(frames, dtype=torch.long)
    for utterance in clip.utterances:
        if not utterance.phonemes:
            classes[frame(utterance.start_s) : frame(utterance.words[-1].end_s)] = IGNORED
        for phoneme in utterance.phonemes:
            classes[frame(phoneme.start_s) : frame(phoneme.end_s)] = phoneme_class(phoneme.text)
    return classes


def phoneme_class(name: str) -> int:
    """One of ``PHONEME_CLASSES``, the same for the same name; espeak-ng's pauses are silence."""
    return 0 if name.startswith("_") else 1 + zlib.crc32(name.encode()) % (PHONEME_CLASSES - 1)


def plan(rng: Random, shape: BatchShape) -> ClipPlan:
    """A random clip for a context: full of speech, or with much room behind it."""
    context_s = shape.context_s
    content_s = (
        context_s - 0.1 if rng.random() < 0.3 else rng.uniform(min(2.0, context_s / 2), context_s)
    )
    language = "de" if rng.random() < GERMAN_SHARE else "en"
    planned = ClipPlan(
        context_s=context_s,
        content_s=content_s,
        language=None if rng.random() < NO_SPEECH_SHARE else language,
        cut_start=rng.random() < CUT_START_SHARE,
    )
    if not shape.is_prompted:
        return planned
    return replace(planned, digits_share=PROMPTED_DIGITS_SHARE, names_share=NAMES_SHARE)


def wish(rng: Random, clip: Clip, is_prompted: bool) -> Wish:
    """A random way to write ``clip``; translations only where every utterance has one."""
    translatable = clip.language == "de" and all(u.translation for u in clip.utterances)
    language = clip.language or rng.choice(("en", "de"))
    given = hints(rng, clip.text, language) if is_prompted else Hints()
    return Wish(
        language=language,
        timestamps=rng.random() < TIMESTAMPS_SHARE,
        translate=translatable and rng.random() < TRANSLATE_SHARE,
        prompt=given.prompt,
        keywords=given.keywords,
    )


@dataclass(frozen=True, slots=True)
class Hints:
    """What a client may say beside the sound."""

    keywords: tuple[str, ...] = ()
    prompt: str = ""


def hints(rng: Random, said: str, language: str) -> Hints:
    """Random keywords, earlier text, or both: a name that is ``said`` has its second spelling in
    them half of the time, other names more seldom; most of the rest has nothing to do with it."""
    names = [name for name in SPELLINGS if name in said_in(said)]
    listed = [SPELLINGS[name] for name in names if rng.random() < 0.5]
    listed += [second for second in SPELLINGS.values() if rng.random() < 0.12]
    listed += [name for name in names if rng.random() < 0.4]  # as it is: that changes nothing
    if (kind := rng.random()) < 0.45:
        return Hints(keywords=keywords(rng, listed, language))
    prompt = " ".join(
        respelled(sentence, " ".join(listed)) for sentence in earlier(rng, names, language)
    )
    return Hints(keywords(rng, listed, language) if kind < 0.6 else (), prompt)


def keywords(rng: Random, listed: list[str], language: str) -> tuple[str, ...]:
    """``listed`` once each among other words, in any order; at least one."""
    others = [*said_in(draw(rng, language).text), *SPELLINGS, invented_word(rng)]
    mixed = {*listed, *rng.sample(sorted(others), rng.randint(0 if listed else 1, 4))}
    return tuple(rng.sample(sorted(mixed), len(mixed)))


def earlier(rng: Random, names: list[str], language: str) -> list[str]:
    """One to three sentences; the first often holds one of ``names``."""
    first = draw_named(rng, language, names or SPELLINGS) if rng.random() < 0.8 else None
    more = [draw(rng, language) for _ in range(rng.randint(0 if first else 1, 2))]
    sentences = [sentence.text for sentence in ([first] if first else []) + more]
    return rng.sample(sentences, len(sentences))


def invented_word(rng: Random) -> str:
    """A word of no language, as unlike the domain as a client's names are."""
    syllables = (rng.choice("bdfgklmnprstvz") + rng.choice("aeiouy") for _ in range(5))
    return "".join(list(syllables)[: rng.randint(2, 4)]).capitalize()


def decoder_rows(labels: list[Label], end: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets (B, L): the next token behind what is given, and the language."""
    length = max(len(label.tokens) for label in labels)
    ids = torch.full((len(labels), length - 1), end)
    targets = torch.full((len(labels), length - 1), IGNORED)
    for row, label in enumerate(labels):
        tokens = torch.tensor(label.ids)
        ids[row, : len(tokens) - 1] = tokens[:-1]
        targets[row, label.given_count - 1 : len(tokens) - 1] = tokens[label.given_count :]
        targets[row, label.transcript_position] = label.heard_token
    return ids, targets


def frame(time_s: float) -> int:
    """The encoder frame that holds ``time_s``."""
    return round(time_s / FRAME_S)


def token_spans(tokens: tuple[Aligned, ...], length: int, frames: int) -> Tensor:
    """(length, 2) frame spans of at least one frame; (0, 0) where a token has no sound."""
    spans = torch.zeros(length, 2, dtype=torch.long)
    for index, aligned in enumerate(tokens):
        if aligned.span_s is not None:
            first = min(max(frame(aligned.span_s[0]), 0), frames - 1)
            spans[index] = torch.tensor(
                (first, min(max(frame(aligned.span_s[1]), first + 1), frames))
            )
    return spans
