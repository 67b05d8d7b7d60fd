"""Windows → decoder rows in the tokens of a Whisper checkpoint that knows English only.

A row is the prompt, ``<|startoftranscript|>``, the text with or without timestamps, and the end.
Nothing is learned of the prompt, and nothing of what a caller gives behind it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from tools.demo_whisper.batches import IGNORED, token_spans
from tools.demo_whisper.corpus import Utterance
from tools.demo_whisper.tokenizer import TIMESTAMP_COUNT, TIMESTAMP_STEP_S, Aligned
from tools.reference_whisper.conversations import Window

POSITIONS_MAX = 448  # of Whisper's decoder
PROMPT_TOKENS_MAX = 200
STAMP_SEEN_S = 0.1


class UnfitCheckpoint(Exception):
    """The folder is not one that can be trained further here; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A decoder sequence: ``tokens`` begin with the given ones, of which nothing is learned."""

    tokens: tuple[Aligned, ...]
    given_count: int

    @property
    def ids(self) -> list[int]:
        return [aligned.token for aligned in self.tokens]


@dataclass(frozen=True, slots=True)
class Rows:
    """``B`` rows, padded to one length."""

    ids: Tensor  # (B, L) decoder input
    targets: Tensor  # (B, L), IGNORED where nothing is learned
    spans: Tensor  # (B, L, 2) first and end frame of the sound of each target; empty if unknown


class EnglishLabels:
    """Reads tokens and their meaning from a checkpoint's folder. Raises: UnfitCheckpoint."""

    def __init__(self, folder: Path) -> None:
        try:
            told = json.loads((folder / "generation_config.json").read_bytes())
            self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            self.end = int(told["eos_token_id"])
            self.start = int(told["decoder_start_token_id"])
            self.no_timestamps = int(told["no_timestamps_token_id"])
            self.previous = int(told["prev_sot_token_id"])
            self.heads = [tuple(map(int, head)) for head in told["alignment_heads"]]
        except (OSError, KeyError) as error:
            raise UnfitCheckpoint(
                f"{folder} is no folder of a Whisper checkpoint: {error}"
            ) from error
        if told.get("is_multilingual"):
            raise UnfitCheckpoint(f"{folder} is multilingual; this recipe writes English labels")

    def words(self, text: str) -> list[int]:
        """Text tokens, each word behind a space as Whisper writes it."""
        return list(self.tokenizer.encode(" " + text, add_special_tokens=False).ids)

    def text(self, ids: Sequence[int]) -> str:
        """Without timestamps and other special tokens."""
        return str(self.tokenizer.decode([i for i in ids if i < self.end]))

    def timestamp(self, time_s: float) -> int:
        """The timestamp token nearest to ``time_s``."""
        step = min(max(round(time_s / TIMESTAMP_STEP_S), 0), TIMESTAMP_COUNT - 1)
        return self.no_timestamps + 1 + step

    def prompt(self, text: str, tokens_max: int = PROMPT_TOKENS_MAX) -> list[int]:
        """``<|startofprev|>`` and the end of ``text``; nothing where that is empty."""
        return [self.previous, *self.words(text)[-tokens_max:]] if text else []

    def given(self, prompt: Sequence[int], timestamps: bool) -> list[int]:
        """What decoding begins with."""
        return [*prompt, self.start, *([] if timestamps else [self.no_timestamps])]

    def row(self, window: Window, prompt: Sequence[int], *, timestamps: bool) -> Row:
        """The label of ``window`` behind ``prompt``, which is shortened where both are too long."""
        body = [*self._body(window, timestamps), Aligned(self.end)]
        room = POSITIONS_MAX + 1 - len(body) - len(self.given([], timestamps))
        kept = [prompt[0], *prompt[1 - room :]] if len(prompt) > room else prompt
        given = self.given(kept, timestamps)
        return Row((*map(Aligned, given), *body), len(given))

    def _body(self, window: Window, timestamps: bool) -> list[Aligned]:
        if not window.utterances:
            return [Aligned(self.timestamp(0.0))] if timestamps else []
        body: list[Aligned] = []
        for utterance in window.utterances:
            said = self._said(utterance)
            if timestamps:
                end_s = utterance.end_s
                closing = [] if end_s is None else [self._stamp(end_s)]
                said = [self._stamp(utterance.start_s), *said, *closing]
            body += said
        return body

    def _stamp(self, time_s: float) -> Aligned:
        """A timestamp is seen in the moments around it."""
        return Aligned(self.timestamp(time_s), (time_s - STAMP_SEEN_S, time_s + STAMP_SEEN_S))

    def _said(self, utterance: Utterance) -> list[Aligned]:
        """Each word's tokens share its span evenly."""
        aligned: list[Aligned] = []
        for word in utterance.words:
            tokens = self.words(word.text)
            share_s = (word.end_s - word.start_s) / len(tokens)
            for index, token in enumerate(tokens):
                start_s = word.start_s + index * share_s
                aligned.append(Aligned(token, (start_s, start_s + share_s)))
        return aligned

    def collate(self, rows: Sequence[Row], frames: int) -> Rows:
        """``frames`` are those of the encoder."""
        length = max(len(row.tokens) for row in rows)
        ids = torch.full((len(rows), length - 1), self.end)
        targets = torch.full((len(rows), length - 1), IGNORED)
        for index, row in enumerate(rows):
            tokens = torch.tensor(row.ids)
            ids[index, : len(tokens) - 1] = tokens[:-1]
            targets[index, row.given_count - 1 : len(tokens) - 1] = tokens[row.given_count :]
        spans = torch.stack([token_spans(row.tokens, length, frames)[1:] for row in rows])
        return Rows(ids, targets, spans)
