"""The special tokens of a Whisper checkpoint, and what stands before a transcript.

Owns the difference between English-only and multilingual vocabularies, and a client's text as
tokens in which nothing special can hide. Knows nothing of audio or tensors.
"""

import re
from dataclasses import dataclass
from typing import Any, Self

from server.engines.whisper_checkpoint import Checkpoint
from streaming.engines import SpeechWindow

PROMPT_TOKENS_MAX = 223
"""With the mark before it, half of the decoder's 448 positions, as in openai/whisper."""
KEYWORD_TOKENS_MAX = 100
"""Leaves more than half of the prompt to what was said before."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids that differ between the English-only and the multilingual vocabulary."""

    start: int
    previous: int
    no_speech: int
    no_timestamps: int
    """All ids above it are timestamps, 20 ms apart."""
    text_end: int
    """The end mark; all ids below it are text."""
    tasks: dict[str, int]
    languages: dict[str, int]
    """By ISO code; empty for an English-only checkpoint."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Self:
        vocabulary: dict[str, int] = checkpoint.tokenizer.get_vocab()
        # Older vocabularies have the first name for it.
        no_speech = vocabulary.get("<|nocaptions|>", vocabulary.get("<|nospeech|>"))
        return cls(
            start=vocabulary["<|startoftranscript|>"],
            previous=vocabulary["<|startofprev|>"],
            no_speech=vocabulary["<|startoflm|>"] + 2 if no_speech is None else no_speech,
            no_timestamps=vocabulary["<|notimestamps|>"],
            text_end=vocabulary["<|endoftext|>"],
            tasks={task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")},
            languages=_language_ids(vocabulary) if _is_multilingual(checkpoint) else {},
        )

    @property
    def first_timestamp(self) -> int:
        return self.no_timestamps + 1

    def prefix(self, language: str | None, task: str, *, timestamps: bool) -> list[int]:
        """From the start mark to where the transcript begins."""
        control = [self.start]
        if self.languages and language is not None:
            control += [self.languages[language], self.tasks[task]]
        return control if timestamps else [*control, self.no_timestamps]

    def is_text(self, token: int) -> bool:
        return token < self.text_end

    def complete(self, generation_config: Any) -> None:
        """Fine-tuned checkpoints often come without what ``generate`` needs to be told."""
        generation_config.is_multilingual = bool(self.languages)
        generation_config.no_timestamps_token_id = self.no_timestamps
        generation_config.prev_sot_token_id = self.previous
        generation_config.forced_decoder_ids = None
        # Length is bounded per call; both at once would only warn.
        generation_config.max_length = None
        if self.languages:
            ids = {f"<|{code}|>": id_ for code, id_ in self.languages.items()}
            generation_config.lang_to_id, generation_config.task_to_id = ids, dict(self.tasks)


def prompt_tokens(window: SpeechWindow, tokenizer: Any, ids: SpecialTokens) -> list[int]:
    """Keywords, then the end of the prompt; behind their mark, or empty."""
    keywords = _literal(", ".join(window.keywords), tokenizer)[:KEYWORD_TOKENS_MAX]
    text = _literal(window.prompt or "", tokenizer)
    tokens = [*keywords, *text[len(keywords) - PROMPT_TOKENS_MAX :]]
    return [ids.previous, *tokens] if tokens else []


def _literal(text: str, tokenizer: Any) -> list[int]:
    """Tokens of a client's text, in which ``<|endoftext|>`` is thirteen characters."""
    text = text.strip()
    # Cut inside every "<|": no part of the text can then be read as a special token.
    parts = re.split(r"(?<=<)(?=\|)", f" {text}") if text else []
    encoded = (tokenizer.encode(part, add_special_tokens=False) for part in parts)
    return [token for part in encoded for token in part]


def _is_multilingual(checkpoint: Checkpoint) -> bool:
    """The vocabulary's size tells, as in openai/whisper (51,864 entries are English only)."""
    declared = checkpoint.model.generation_config.to_dict().get("is_multilingual")
    return bool(checkpoint.model.config.vocab_size >= 51_865 if declared is None else declared)


def _language_ids(vocabulary: dict[str, int]) -> dict[str, int]:
    """All language tokens stand between the start of a transcript and the tasks."""
    first, end = vocabulary["<|startoftranscript|>"], vocabulary["<|translate|>"]
    end = min(end, vocabulary["<|transcribe|>"])
    codes = {token.strip("<|>"): id_ for token, id_ in vocabulary.items() if first < id_ < end}
    return dict(sorted(codes.items(), key=lambda item: item[1]))
