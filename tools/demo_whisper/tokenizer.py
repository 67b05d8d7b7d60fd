"""The checkpoint's own vocabulary in Whisper's multilingual layout, and the labels made of it.

Ids, in order: byte-pair text tokens, ``<|endoftext|>``, ``<|startoftranscript|>``, 99 languages
(the order that transformers assumes), ``<|translate|>``, ``<|transcribe|>``, ``<|startoflm|>``,
``<|startofprev|>``, ``<|nospeech|>``, ``<|notimestamps|>``, 1,501 timestamps of 20 ms.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from transformers.tokenization_utils_base import AddedToken

from tools.demo_whisper.corpus import Clip
from tools.demo_whisper.sentences import respelled, spelled_words
from tools.demo_whisper.synthesis import TimedWord

TEXT_TOKENS_MAX = 2_000
TOKENS_MAX = 4_000
LANGUAGE_COUNT = 99  # Whisper v1 and v2; v3 appends a hundredth
TIMESTAMP_STEP_S = 0.02
TIMESTAMP_COUNT = 1_501
SPOKEN_LANGUAGES = ("en", "de")
MAX_PROMPT_TOKENS = 223  # Whisper's own bound: half the decoder's positions, less one
assert TEXT_TOKENS_MAX + LANGUAGE_COUNT + TIMESTAMP_COUNT + 8 <= TOKENS_MAX


def build() -> WhisperTokenizer:
    """The tokenizer, made from every written form of the domain; always the same."""
    merged = Tokenizer(models.BPE())
    merged.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS_MAX, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    merged.train_from_iterator((" " + word for word in sorted(set(spelled_words()))), trainer)
    model = json.loads(merged.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = WhisperTokenizer(
        vocab=model["vocab"], merges=merges, model_max_length=448, pad_token="<|endoftext|>"
    )
    _add_control_tokens(tokenizer)
    assert len(tokenizer) <= TOKENS_MAX
    return tokenizer


def _add_control_tokens(tokenizer: WhisperTokenizer) -> None:
    languages = [f"<|{code}|>" for code in list(LANGUAGES)[:LANGUAGE_COUNT]]
    controls = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    names = [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *languages,
        *(f"<|{name}|>" for name in controls),
    ]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": names[1:]}, replace_extra_special_tokens=True
    )
    # Not "special", as in the hub's checkpoints: transformers finds the first timestamp behind
    # the last special id.
    timestamps = [f"<|{index * TIMESTAMP_STEP_S:.2f}|>" for index in range(TIMESTAMP_COUNT)]
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in timestamps])


@dataclass(frozen=True, slots=True)
class Aligned:
    """A token and the span of its sound in seconds, None for a translation or a command."""

    token: int
    span_s: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """A decoder sequence: ``tokens`` begin with the given ones, of which nothing is learned.

    ``heard_token`` is what shall follow ``<|startoftranscript|>``: a language or no speech.
    """

    tokens: tuple[Aligned, ...]
    given_count: int
    transcript_position: int  # of <|startoftranscript|>
    heard_token: int

    @property
    def ids(self) -> list[int]:
        return [aligned.token for aligned in self.tokens]


@dataclass(frozen=True, slots=True)
class Wish:
    """How a clip shall be written."""

    language: str
    timestamps: bool = False
    translate: bool = False
    prompt: str = ""
    keywords: tuple[str, ...] = ()

    @property
    def hints(self) -> str:
        """All that is given beside the sound."""
        return " ".join([*self.keywords, self.prompt])


class Labels:
    """Clips → labels, over one tokenizer."""

    def __init__(self, tokenizer: WhisperTokenizer) -> None:
        self.tokenizer = tokenizer
        self.end = self.id("endoftext")
        self.start = self.id("startoftranscript")
        self.no_speech = self.id("nospeech")
        self.no_timestamps = self.id("notimestamps")
        self.first_timestamp = self.no_timestamps + 1

    def id(self, name: str) -> int:
        """The id of ``<|name|>``."""
        return int(self.tokenizer.convert_tokens_to_ids(f"<|{name}|>"))

    def text(self, text: str) -> list[int]:
        """Text tokens, each word behind a space as Whisper writes it."""
        return list(self.tokenizer.encode(" " + text, add_special_tokens=False)) if text else []

    def timestamp(self, time_s: float) -> int:
        """The timestamp token nearest to ``time_s``."""
        return self.first_timestamp + min(round(time_s / TIMESTAMP_STEP_S), TIMESTAMP_COUNT - 1)

    def of(self, clip: Clip, wish: Wish) -> Label:
        """The label of ``clip`` as wished."""
        prompt = self.prompt(wish.prompt, wish.keywords)
        task = "translate" if wish.translate else "transcribe"
        given = [*prompt, self.start, self.id(wish.language), self.id(task)]
        given += [] if wish.timestamps else [self.no_timestamps]
        heard = self.no_speech if clip.language is None else self.id(clip.language)
        body = [*self._body(clip, wish), Aligned(self.end)]
        return Label((*map(Aligned, given), *body), len(given), len(prompt), heard)

    def prompt(self, text: str, keywords: Sequence[str] = ()) -> list[int]:
        """Keywords, then earlier text, as captiond gives them to Whisper; the text's end is kept
        when it is too long."""
        listed = self.text(", ".join(keywords))[:MAX_PROMPT_TOKENS]
        tokens = [*listed, *self.text(text)[len(listed) - MAX_PROMPT_TOKENS :]]
        return [self.id("startofprev"), *tokens] if tokens else []

    def _body(self, clip: Clip, wish: Wish) -> list[Aligned]:
        if not clip.utterances:
            return [Aligned(self.timestamp(0.0))] if wish.timestamps else []
        starts = [utterance.start_s for utterance in clip.utterances]
        body: list[Aligned] = []
        silent_from_s = 0.0
        for utterance, next_s in zip(clip.utterances, [*starts[1:], None], strict=True):
            if wish.timestamps:
                body.append(
                    Aligned(self.timestamp(utterance.start_s), (silent_from_s, utterance.start_s))
                )
            if wish.translate:
                body += map(Aligned, self.text(respelled(utterance.translation or "", wish.hints)))
            else:
                body += [
                    aligned for word in utterance.words for aligned in self._word(word, wish.hints)
                ]
            if wish.timestamps and utterance.end_s is not None:
                silent_from_s = utterance.end_s + (
                    (next_s - utterance.end_s) / 2 if next_s else 0.3
                )
                body.append(
                    Aligned(self.timestamp(utterance.end_s), (utterance.end_s, silent_from_s))
                )
        return [Aligned(a.token) for a in body] if wish.translate else body

    def _word(self, word: TimedWord, hints: str) -> list[Aligned]:
        """The word's tokens share its span evenly; a mark behind it sounds like its last moment."""
        bare = word.text.rstrip(".,?")
        tokens, marks = (
            self.text(respelled(bare, hints)),
            self.tokenizer.encode(word.text[len(bare) :], add_special_tokens=False),
        )
        share_s = (word.end_s - word.start_s) / max(len(tokens), 1)
        aligned = [
            Aligned(token, (word.start_s + i * share_s, word.start_s + (i + 1) * share_s))
            for i, token in enumerate(tokens)
        ]
        return aligned + [Aligned(mark, (word.end_s - 0.04, word.end_s + 0.06)) for mark in marks]


def save(tokenizer: WhisperTokenizer, folder: Path) -> None:
    """``tokenizer.json``, its configuration, and the two older files some tools still read."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
