"""Whisper by transformers: batched greedy ``generate``, then one pass for times and confidences.

Windows of many lengths are padded to the model's 30 s and encoded as one batch; those with equal
prompts and tasks are decoded together. A second, single decoder pass over the finished tokens
gives their probabilities, the no-speech probability and the cross-attention that word times come
from, so decoding itself needs neither scores nor eager attention.
Stateless and greedy: no sampling, so ``SpeechWindow.seed`` has nothing to seed, and drafts are
not used.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from server.engines.registry import EngineSpec
from server.engines.whisper_checkpoint import Checkpoint, load_checkpoint
from server.engines.whisper_words import POSITION_SAMPLES, place_words, split_words, token_starts
from streaming.engines import Hypothesis, SpeechWindow, Word
from streaming.timeline import SAMPLE_RATE_HZ

WINDOW_SAMPLES_MAX = 30 * SAMPLE_RATE_HZ
WINDOW_SAMPLES_MIN = SAMPLE_RATE_HZ // 10
"""In less there is no word, but Whisper would invent one."""
NO_SPEECH_PROBABILITY_MIN, LOG_PROBABILITY_MAX = 0.6, -1.0
"""Both must hold for a window to count as silent; the defaults of openai/whisper."""
PROMPT_TOKENS_MAX = 223
"""With the mark before it, half of the decoder's 448 positions, as in openai/whisper."""
KEYWORD_TOKENS_MAX = 100
"""Leaves more than half of the prompt to what was said before."""
TOKENS_PER_SECOND_MAX, TOKENS_EXTRA = 20, 20
"""Twice the fastest speech; ends a decoder that repeats itself before it fills its context."""

_Group = tuple[str | None, str, tuple[int, ...]]
"""Language, task and prompt tokens: what one ``generate`` call has in common."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One window on its way through the decoder."""

    window: SpeechWindow
    states: Any
    """Encoder output, shape (1, positions, width)."""
    language: str | None
    language_probability: float | None

    @property
    def tokens_max(self) -> int:
        return TOKENS_EXTRA + len(self.window.samples) * TOKENS_PER_SECOND_MAX // SAMPLE_RATE_HZ


class WhisperRecognizer:
    """One checkpoint of the Whisper family, English-only or multilingual."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        import torch

        self._torch = torch
        self._model = checkpoint.model
        self._features = checkpoint.features
        self._tokenizer = checkpoint.tokenizer
        self._ids = _SpecialTokens.of(checkpoint)
        self._heads = _alignment_heads(checkpoint.model)
        self._row_shift = _alignment_row_shift(checkpoint.model)
        self._complete_generation_config()
        dtype = str(checkpoint.model.dtype).removeprefix("torch.")
        self.description = f"whisper {checkpoint.name} {dtype}"
        self.languages: tuple[str, ...] = tuple(self._ids.languages) or ("en",)

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        return cls(load_checkpoint(spec))

    def warm_up(self) -> None:
        noise = np.random.default_rng(0).integers(-500, 500, SAMPLE_RATE_HZ).astype(np.int16)
        self.recognize([SpeechWindow(noise)])

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        """Raises: ValueError for a window over 30 s or a language that the model lacks."""
        for window in windows:
            self._check(window)
        answers = [Hypothesis((), language=self._known_language(window)) for window in windows]
        spoken = [i for i, window in enumerate(windows) if _is_long_enough(window)]
        with self._torch.inference_mode():
            rows = self._encode([windows[index] for index in spoken])
            for group, members in self._grouped(rows).items():
                hypotheses = self._decode(group, [rows[member] for member in members])
                for member, hypothesis in zip(members, hypotheses, strict=True):
                    answers[spoken[member]] = hypothesis
        return answers

    def _check(self, window: SpeechWindow) -> None:
        if len(window.samples) > WINDOW_SAMPLES_MAX:
            seconds = len(window.samples) / SAMPLE_RATE_HZ
            raise ValueError(f"a window of {seconds:.1f} s; Whisper reads 30 s at most")
        if self._ids.languages and window.language not in (None, *self._ids.languages):
            raise ValueError(f"this checkpoint does not know the language {window.language}")

    def _encode(self, windows: list[SpeechWindow]) -> list[_Row]:
        if not windows:
            return []
        audio = [window.samples.astype(np.float32) / 32768 for window in windows]
        features = self._features(audio, sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        inputs = features.input_features.to(self._model.device, self._model.dtype)
        states = self._model.get_encoder()(inputs).last_hidden_state
        languages = self._languages(windows, states)
        return [
            _Row(window, states[index : index + 1], *languages[index])
            for index, window in enumerate(windows)
        ]

    def _languages(
        self, windows: list[SpeechWindow], states: Any
    ) -> list[tuple[str | None, float | None]]:
        """Known, or detected with its probability."""
        answers: list[tuple[str | None, float | None]]
        answers = [(self._known_language(window), None) for window in windows]
        unknown = [index for index, (language, _) in enumerate(answers) if language is None]
        if unknown:
            start = self._torch.full((len(unknown), 1), self._ids.start, device=states.device)
            logits = self._logits(self._hidden(start, states[unknown]))[:, 0]
            ids = list(self._ids.languages.values())
            best = logits[:, ids].float().softmax(dim=-1).max(dim=-1)
            for index, which, probability in zip(unknown, best.indices, best.values, strict=True):
                answers[index] = (list(self._ids.languages)[int(which)], float(probability))
        return answers

    def _known_language(self, window: SpeechWindow) -> str | None:
        """As given; an English-only checkpoint knows no other, whatever is asked."""
        return window.language if self._ids.languages else "en"

    def _grouped(self, rows: list[_Row]) -> dict[_Group, list[int]]:
        groups: dict[_Group, list[int]] = {}
        for index, row in enumerate(rows):
            key = (row.language, row.window.task, self._prompt(row.window))
            groups.setdefault(key, []).append(index)
        return groups

    def _prompt(self, window: SpeechWindow) -> tuple[int, ...]:
        """Keywords, then the end of the prompt; with its mark, or empty."""
        keywords = self._literal(", ".join(window.keywords))[:KEYWORD_TOKENS_MAX]
        text = self._literal(window.prompt or "")
        tokens = [*keywords, *text[len(keywords) - PROMPT_TOKENS_MAX :]]
        return (self._ids.previous, *tokens) if tokens else ()

    def _literal(self, text: str) -> list[int]:
        """Tokens of a client's text, in which ``<|endoftext|>`` is thirteen characters."""
        text = text.strip()
        # Cut inside every "<|": no part of the text can then be read as a special token.
        parts = re.split(r"(?<=<)(?=\|)", f" {text}") if text else []
        encoded = (self._tokenizer.encode(part, add_special_tokens=False) for part in parts)
        return [token for part in encoded for token in part]

    def _decode(self, group: _Group, rows: list[_Row]) -> list[Hypothesis]:
        language, task, prompt = group
        states = self._torch.cat([row.states for row in rows])
        decoded = self._generate(group, rows, states)
        prefix = [*prompt, *self._ids.prefix(language, task)]
        start_at = len(prompt)
        measured = self._measure(prefix, start_at, decoded, rows, states)
        return [
            self._hypothesis(row, tokens, measure)
            for row, tokens, measure in zip(rows, decoded, measured, strict=True)
        ]

    def _generate(self, group: _Group, rows: list[_Row], states: Any) -> list[list[int]]:
        """Text tokens of each row, greedily."""
        from transformers.modeling_outputs import BaseModelOutput

        language, task, prompt = group
        options: dict[str, Any] = {}
        if self._ids.languages:
            options |= {"language": language, "task": task}
        if prompt:
            options["prompt_ids"] = self._torch.tensor(prompt, device=states.device)
        room = self._model.config.max_target_positions - len(prompt)
        room -= len(self._ids.prefix(language, task))
        sequences = self._model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            return_timestamps=False,
            do_sample=False,
            num_beams=1,
            max_new_tokens=min(room, max(row.tokens_max for row in rows)),
            **options,
        )
        return [
            self._text_tokens(sequence)[: row.tokens_max]
            for row, sequence in zip(rows, sequences.tolist(), strict=True)
        ]

    def _text_tokens(self, sequence: list[int]) -> list[int]:
        """Without the prompt and all that is no text."""
        if self._ids.start in sequence:
            sequence = sequence[sequence.index(self._ids.start) + 1 :]
        return [token for token in sequence if token < self._ids.text_end]

    def _measure(
        self,
        prefix: list[int],
        start_at: int,
        decoded: list[list[int]],
        rows: list[_Row],
        states: Any,
    ) -> "list[_Measure]":
        """One decoder pass over the finished tokens; padding at the end changes no row."""
        longest = max(map(len, decoded))
        padded = [[*prefix, *t, *[self._ids.text_end] * (longest - len(t) + 1)] for t in decoded]
        tokens = self._torch.tensor(padded, device=states.device)
        with self._recorded_attention() as queries:
            hidden = self._hidden(tokens, states)
        measures = []
        for index, (row, own) in enumerate(zip(rows, decoded, strict=True)):
            first, last = len(prefix) - 1, len(prefix) + len(own)
            logits = self._logits(hidden[index : index + 1, start_at:last])[0].float()
            positions = max(1, len(row.window.samples) // POSITION_SAMPLES)
            aligned = (first + self._row_shift, last + self._row_shift)
            attention = self._attention(queries, index, aligned, states, positions)
            scores = logits[first - start_at :].log_softmax(dim=-1)
            chosen = scores.gather(1, tokens[index, first + 1 : last + 1, None])[:, 0]
            silent = float(logits[0].softmax(dim=-1)[self._ids.no_speech])
            measures.append(_Measure(silent, chosen.cpu().numpy(), token_starts(attention)))
        return measures

    def _attention(
        self, queries: dict[int, Any], index: int, rows: tuple[int, int], states: Any, columns: int
    ) -> NDArray[np.float32]:
        """Of the alignment heads over the window's own positions, shape (heads, rows, columns)."""
        found = []
        for layer, heads in self._heads.items():
            attention = self._model.get_decoder().layers[layer].encoder_attn
            shape = (-1, attention.num_heads, attention.head_dim)
            query = attention.q_proj(queries[layer][index, slice(*rows)]) * attention.scaling
            key = attention.k_proj(states[index, :columns])
            query, key = query.view(shape)[:, heads], key.view(shape)[:, heads]
            scores = self._torch.einsum("thd,phd->htp", query.float(), key.float())
            found.append(scores.softmax(dim=-1))
        weights: NDArray[np.float32] = self._torch.cat(found).cpu().numpy()
        return weights

    @contextmanager
    def _recorded_attention(self) -> Iterator[dict[int, Any]]:
        """What enters the cross-attention of each layer that has alignment heads."""
        inputs: dict[int, Any] = {}

        def record(layer: int) -> Any:
            def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                inputs[layer] = args[0] if args else kwargs["hidden_states"]

            return keep

        layers = self._model.get_decoder().layers
        hooks = [
            layers[layer].encoder_attn.register_forward_pre_hook(record(layer), with_kwargs=True)
            for layer in self._heads
        ]
        try:
            yield inputs
        finally:
            for hook in hooks:
                hook.remove()

    def _hidden(self, tokens: Any, states: Any) -> Any:
        decoder = self._model.get_decoder()
        output = decoder(input_ids=tokens, encoder_hidden_states=states, use_cache=False)
        return output.last_hidden_state

    def _logits(self, hidden: Any) -> Any:
        return self._model.proj_out(hidden)

    def _hypothesis(self, row: _Row, tokens: list[int], measure: "_Measure") -> Hypothesis:
        words: tuple[Word, ...] = ()
        if tokens and not measure.is_silent:
            pieces = split_words(tokens, self._decode_text, row.language)
            samples = len(row.window.samples)
            words = place_words(
                pieces, measure.starts, measure.log_probabilities[:-1], samples, row.language
            )
        # A translation is English whatever was spoken; the language is that of the speech.
        return Hypothesis(
            words, row.language, row.language_probability, tuple(tokens) if words else ()
        )

    def _decode_text(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
        return text

    def _complete_generation_config(self) -> None:
        """Fine-tuned checkpoints often come without what ``generate`` needs to be told."""
        config = self._model.generation_config
        config.is_multilingual = bool(self._ids.languages)
        config.no_timestamps_token_id = self._ids.no_timestamps
        config.prev_sot_token_id = self._ids.previous
        config.forced_decoder_ids = None
        # Length is bounded per call; both at once would only warn.
        config.max_length = None
        if self._ids.languages:
            config.lang_to_id = {f"<|{code}|>": id_ for code, id_ in self._ids.languages.items()}
            config.task_to_id = dict(self._ids.tasks)


@dataclass(frozen=True, slots=True)
class _Measure:
    """What the pass over finished tokens says of one window."""

    no_speech_probability: float
    log_probabilities: NDArray[np.float32]
    """Of each text token and of the end, shape (tokens + 1,)."""
    starts: NDArray[np.int64]
    """Encoder positions of the same."""

    @property
    def is_silent(self) -> bool:
        is_improbable = float(self.log_probabilities.mean()) < LOG_PROBABILITY_MAX
        return self.no_speech_probability > NO_SPEECH_PROBABILITY_MIN and is_improbable


@dataclass(frozen=True, slots=True)
class _SpecialTokens:
    """Ids that differ between the English-only and the multilingual vocabulary."""

    start: int
    previous: int
    no_speech: int
    no_timestamps: int
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
        text_end = vocabulary["<|endoftext|>"]
        return cls(
            start=vocabulary["<|startoftranscript|>"],
            previous=vocabulary["<|startofprev|>"],
            no_speech=vocabulary["<|startoflm|>"] + 2 if no_speech is None else no_speech,
            no_timestamps=vocabulary["<|notimestamps|>"],
            text_end=text_end,
            tasks={task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")},
            languages=_language_ids(vocabulary) if _is_multilingual(checkpoint) else {},
        )

    def prefix(self, language: str | None, task: str) -> list[int]:
        """What stands before the text of a transcript without timestamps."""
        if not self.languages or language is None:
            return [self.start, self.no_timestamps]
        return [self.start, self.languages[language], self.tasks[task], self.no_timestamps]


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


def _alignment_heads(model: Any) -> dict[int, list[int]]:
    """Heads by decoder layer; all of the last half where the checkpoint names none.

    The default is that of openai/whisper.
    """
    named = model.generation_config.to_dict().get("alignment_heads")
    if not named:
        layers, heads = model.config.decoder_layers, model.config.decoder_attention_heads
        named = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    by_layer: dict[int, list[int]] = {}
    for layer, head in named:
        by_layer.setdefault(int(layer), []).append(int(head))
    return by_layer


def _alignment_row_shift(model: Any) -> int:
    """Which row of the decoder looks at where a token is spoken.

    The heads of openai/whisper's checkpoints look there while the token is being predicted: the
    row before its own. A checkpoint whose heads look at the token that was just fed, as
    ``generate(return_token_timestamps=True)`` reads them, says so in its generation config.
    """
    return int(model.generation_config.to_dict().get("alignment_rows") == "fed")


def _is_long_enough(window: SpeechWindow) -> bool:
    return len(window.samples) >= WINDOW_SAMPLES_MIN
