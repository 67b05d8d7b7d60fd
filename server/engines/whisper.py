"""Whisper, streaming: windows in, hypotheses out; cheap drafts for partials, exact finals.

A final is heard with the full 30 s context and is token for token what transformers' ``generate``
gives greedily, unless a guard fired and it was decoded again. A partial is heard with as little
context as the checkpoint bears, and stops at the mark that closes its last phrase. Both take the
previous hypothesis as a draft, which changes the number of passes and nothing else.
A word's confidence is the geometric mean of its tokens' probabilities among all tokens, before any
rule, from the pass that chose them.
Stateless: what a window needs comes with it. Neighbours in a batch change nothing.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from server.engines.registry import EngineSpec
from server.engines.whisper_calibration import read_calibration
from server.engines.whisper_checkpoint import Checkpoint, load_checkpoint
from server.engines.whisper_context import Contexts
from server.engines.whisper_counters import Counters
from server.engines.whisper_encoder import LogMel
from server.engines.whisper_greedy import Task, Transcript
from server.engines.whisper_mixed import is_sure
from server.engines.whisper_network import Network, Networks
from server.engines.whisper_options import WhisperOptions
from server.engines.whisper_rules import Rules, Sampler
from server.engines.whisper_tokens import SpecialTokens, prompt_tokens
from server.engines.whisper_wording import Decoded, Wording, best_of, wants_retry
from server.engines.whisper_words import POSITION_SAMPLES
from streaming.engines import Hypothesis, RecognizerProfile, SpeechWindow
from streaming.guards import Guard, loud_spans
from streaming.timeline import SAMPLE_RATE_HZ, Span

WINDOW_SAMPLES_MAX = 30 * SAMPLE_RATE_HZ
WINDOW_SAMPLES_MIN = SAMPLE_RATE_HZ // 10
"""In less there is no word, but Whisper would invent one."""
TOKENS_PER_SECOND_MAX, TOKENS_EXTRA = 20, 20
"""Twice the fastest speech; ends a decoder that repeats itself before it fills its context."""
CLOSING_SAMPLES = SAMPLE_RATE_HZ // 2
"""A partial's phrase that closes so near to the end of all sound is its last."""
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Of openai/whisper, for finals that a guard does not believe."""
TIMESTAMPS_KEY = "captiond_timestamps"
"""In a generation config: false for a checkpoint that was tuned without timestamp tokens."""
WORTHLESS = frozenset({Guard.REPETITION, Guard.PROMPT_ECHO, Guard.NO_SPEECH})
"""A partial that fires one of them is not shown."""


class WhisperRecognizer:
    """One checkpoint of the Whisper family, English-only or multilingual."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        options: WhisperOptions | None = None,
        *,
        final_margin_s: float | None = None,
    ) -> None:
        """``final_margin_s`` hears finals with a short context that nobody has measured yet: for
        the measurement itself. Raises: EngineUnavailable for a calibration of other weights."""
        options = options or WhisperOptions(dtype="float32")
        model = checkpoint.model
        self._tokenizer = checkpoint.tokenizer
        self._ids = SpecialTokens.of(checkpoint)
        declared = model.generation_config.to_dict()
        self.timestamps = bool(declared.get(TIMESTAMPS_KEY, True))
        if options.timestamps is not None:
            self.timestamps = options.timestamps
        self._tokens_max = options.tokens_max
        self._wording = Wording(
            self._tokenizer,
            self._ids,
            row_shift=int(declared.get("alignment_rows") == "fed"),
            is_guarded=options.guards,
        )
        self._features = LogMel(checkpoint.features, model.device)
        rules = Rules.of(model, self._ids, timestamps=self.timestamps)
        self._networks = Networks.of(model, options, rules, self._ids.no_speech)
        measured_margin_s = _calibrated_margin_s(checkpoint, options)
        if options.final_context == "calibrated":
            final_margin_s = measured_margin_s
        self._contexts = Contexts.of(
            model.generation_config,
            self._networks.final.encoder.positions_max,
            fast=options.encoder_context == "fast",
            margin_s=options.context_margin_s,
            final_margin_s=final_margin_s,
            measured_margin_s=measured_margin_s,
        )
        self.counters = Counters()
        self.description = f"whisper {checkpoint.name} {self._networks.dtype_names}"
        self.languages: tuple[str, ...] = tuple(self._ids.languages) or ("en",)

    @classmethod
    def from_spec(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        options = WhisperOptions.of(spec)
        return cls(load_checkpoint(spec), options)

    @property
    def profile(self) -> RecognizerProfile:
        """What windows cost in encoder input, for a scheduler's budget."""
        return self._contexts.profile

    def warm_up(self) -> None:
        noise = np.random.default_rng(0).integers(-500, 500, SAMPLE_RATE_HZ).astype(np.int16)
        self.recognize([SpeechWindow(noise, is_final=False), SpeechWindow(noise)])
        self.counters = Counters()
        self._networks.timing.reset()

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        """Raises: ValueError for a window over 30 s or a language that the model lacks."""
        for window in windows:
            self._check(window)
        answers = [Hypothesis((), language=self._known_language(window)) for window in windows]
        groups: dict[tuple[Network, int], list[int]] = {}
        for index, window in enumerate(windows):
            if len(window.samples) >= WINDOW_SAMPLES_MIN:
                network = self._networks.final if window.is_final else self._networks.partial
                groups.setdefault((network, self._contexts.positions(window)), []).append(index)
        with torch.inference_mode():
            for (network, positions), members in groups.items():
                found = self._group(network, [windows[index] for index in members], positions)
                for index, decoded in zip(members, found, strict=True):
                    answers[index] = self._hypothesis(decoded)
        return answers

    def _check(self, window: SpeechWindow) -> None:
        if len(window.samples) > WINDOW_SAMPLES_MAX:
            seconds = len(window.samples) / SAMPLE_RATE_HZ
            raise ValueError(f"a window of {seconds:.1f} s; Whisper reads 30 s at most")
        if self._ids.languages and window.language not in (None, *self._ids.languages):
            raise ValueError(f"this checkpoint does not know the language {window.language}")

    def _known_language(self, window: SpeechWindow) -> str | None:
        """As given; an English-only checkpoint knows no other, whatever is asked."""
        return window.language if self._ids.languages else "en"

    def _group(
        self, network: Network, windows: list[SpeechWindow], positions: int
    ) -> list[Decoded]:
        """Windows that share an encoder context, from samples to words."""
        mixed: dict[int, Decoded] = {}
        if network is self._networks.final and positions == network.encoder.positions_max:
            mixed = self._mixed(network, windows)
        found = {index: one for index, one in mixed.items() if is_believed(one)}
        self.counters.mixed_finals += len(found)
        rest = [index for index in range(len(windows)) if index not in found]
        if rest:
            # What was doubted is a good draft, and changes nothing.
            again = [drafted(windows[index], mixed.get(index)) for index in rest]
            found |= zip(rest, self._heard(network, again, positions), strict=True)
        decoded = [found[index] for index in range(len(windows))]
        self._count(decoded)
        return decoded

    def _mixed(self, network: Network, windows: list[SpeechWindow]) -> dict[int, Decoded]:
        """By index, those that leave the mixed encoder enough silence."""
        encoder = self._networks.mixed
        # A language is a decision too, and one that nobody looks at twice.
        chosen = {
            index: window
            for index, window in enumerate(windows)
            if encoder is not None and encoder.pays(len(window.samples))
            if self._known_language(window) is not None
        }
        if encoder is None or not chosen:
            return {}
        positions = network.encoder.positions_max
        states = torch.cat(
            [
                self._timed(
                    partial(encoder, samples=len(window.samples)),
                    self._heard_features([window], positions),
                )
                for window in chosen.values()
            ]
        )
        decoded, _ = self._decoded(network, list(chosen.values()), states)
        return dict(zip(chosen, decoded, strict=True))

    def _heard(
        self, network: Network, windows: list[SpeechWindow], positions: int
    ) -> list[Decoded]:
        """In one number format throughout; what a guard doubts is decoded again."""
        states = self._timed(network.encoder, self._heard_features(windows, positions))
        decoded, tasks = self._decoded(network, windows, states)
        return self._believed(network, decoded, states, tasks)

    def _decoded(
        self, network: Network, windows: list[SpeechWindow], states: Tensor
    ) -> tuple[list[Decoded], list[Task]]:
        """Greedy, in words."""
        languages = self._languages(network, windows, states)
        tasks = [
            self.task(window, language)
            for window, (language, _) in zip(windows, languages, strict=True)
        ]
        transcripts = self._decode(network, states, tasks)
        started = time.perf_counter()
        decoded = [
            self._wording.worded(window, transcript, *language)
            for window, transcript, language in zip(windows, transcripts, languages, strict=True)
        ]
        self.counters.words_s += time.perf_counter() - started
        return decoded, tasks

    def _heard_features(self, windows: list[SpeechWindow], positions: int) -> Tensor:
        started = time.perf_counter()
        features = self._features([window.samples for window in windows], 2 * positions)
        self.counters.features_s += time.perf_counter() - started
        return features

    def _timed(self, encode: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
        started = time.perf_counter()
        states = encode(features)
        self.counters.encoder_s += time.perf_counter() - started
        return states

    def _languages(
        self, network: Network, windows: list[SpeechWindow], states: Tensor
    ) -> list[tuple[str | None, float | None]]:
        """Known, or detected with its probability."""
        answers: list[tuple[str | None, float | None]]
        answers = [(self._known_language(window), None) for window in windows]
        unknown = [index for index, (language, _) in enumerate(answers) if language is None]
        if unknown:
            decoder = network.decoder
            cache = decoder.cache(decoder.cross(states[unknown]), 1)
            hidden = decoder.forward([[self._ids.start]] * len(unknown), cache)
            self.counters.decoder_passes += len(unknown)
            codes = list(self._ids.languages)
            logits = decoder.logits(hidden[:, 0])[:, list(self._ids.languages.values())]
            best = logits.softmax(dim=1).max(dim=1)
            for index, which, share in zip(unknown, best.indices, best.values, strict=True):
                answers[index] = (codes[int(which)], float(share))
        return answers

    def task(self, window: SpeechWindow, language: str | None) -> Task:
        """What the decoding loop is asked for this window, spoken in ``language``."""
        prompt = prompt_tokens(window, self._tokenizer, self._ids)
        control = self._ids.prefix(language, window.task, timestamps=self.timestamps)
        samples = len(window.samples)
        budget = TOKENS_EXTRA + samples * TOKENS_PER_SECOND_MAX // SAMPLE_RATE_HZ
        room = self._networks.final.decoder.positions_max - len(prompt) - len(control)
        speech = loud_spans(window.samples)
        onsets = self._onsets(speech)
        return Task(
            prefix=(*prompt, *control),
            start=len(prompt),
            tokens_max=min(room, budget, self._tokens_max or budget),
            positions=max(1, samples // POSITION_SAMPLES),
            draft=self._draft(window, onsets),
            closing_stamp=self._closing_stamp(window, speech),
            onsets=onsets,
        )

    def _closing_stamp(self, window: SpeechWindow, speech: tuple[Span, ...]) -> int | None:
        if window.is_final:
            return None
        end = speech[-1].end if speech else 0
        return self._ids.first_timestamp + max(0, end - CLOSING_SAMPLES) // POSITION_SAMPLES

    def _draft(self, window: SpeechWindow, onsets: tuple[int, ...]) -> tuple[int, ...]:
        """Without what this checkpoint's transcripts cannot hold: a draft is only a guess."""
        first = self._ids.first_timestamp
        end = self._vocabulary if self.timestamps else first
        found = tuple(
            token
            for token in window.draft
            if 0 <= token < self._ids.text_end or first <= token < end
        )
        return found or onsets[:1]

    def _onsets(self, speech: tuple[Span, ...]) -> tuple[int, ...]:
        """Where sound begins, as timestamps."""
        if not self.timestamps:
            return ()
        stamps = (self._ids.first_timestamp + span.start // POSITION_SAMPLES for span in speech)
        return tuple(stamp for stamp in stamps if stamp < self._vocabulary)

    @property
    def _vocabulary(self) -> int:
        return self._networks.final.decoder.vocabulary

    def _decode(self, network: Network, states: Tensor, tasks: list[Task]) -> list[Transcript]:
        started = time.perf_counter()
        cross = network.decoder.cross(states)
        self.counters.encoder_s += time.perf_counter() - started
        transcripts = network.loop.decode(cross, tasks)
        self.counters.decoder_passes += sum(transcript.passes for transcript in transcripts)
        return transcripts

    def _believed(
        self, network: Network, decoded: list[Decoded], states: Tensor, tasks: list[Task]
    ) -> list[Decoded]:
        """Finals that a guard doubts are decoded again; the best attempt wins."""
        attempts = [[first] for first in decoded]
        for number, temperature in enumerate((0.0, *TEMPERATURES)):
            doubted = [
                index
                for index, tried in enumerate(attempts)
                if decoded[index].window.is_final and wants_retry(tried, is_first=number == 0)
            ]
            if doubted:
                again = [self._hotter(tasks[i], decoded[i], temperature, number) for i in doubted]
                transcripts = self._decode(network, states[doubted], again)
                for index, transcript in zip(doubted, transcripts, strict=True):
                    again_decoded = self._again(decoded[index], transcript)
                    attempts[index].append(replace(again_decoded, temperature=temperature))
        return [best_of(tried) for tried in attempts]

    def _hotter(self, task: Task, first: Decoded, temperature: float, number: int) -> Task:
        """The same without draft; without prompt, if that is what was written down."""
        prefix, start = task.prefix, task.start
        if Guard.PROMPT_ECHO in first.guards:
            prefix, start = prefix[start:], 0
        seed = f"{first.window.seed}/{number}"
        sampler = Sampler(temperature, random.Random(seed)) if temperature else None
        return replace(task, prefix=prefix, start=start, draft=(), sampler=sampler)

    def _again(self, first: Decoded, transcript: Transcript) -> Decoded:
        return self._wording.worded(
            first.window,
            transcript,
            first.language,
            first.language_probability,
            prompted=Guard.PROMPT_ECHO not in first.guards,
        )

    def _count(self, decoded: list[Decoded]) -> None:
        finals = [one for one in decoded if one.window.is_final]
        self.counters.finals += len(finals)
        self.counters.partials += len(decoded) - len(finals)
        self.counters.guarded_finals += sum(bool(one.guards) for one in finals)
        self.counters.final_text_tokens += sum(
            self._ids.is_text(token) for one in finals for token in one.transcript.tokens
        )
        timing = self._networks.timing
        self.counters.verify_s, self.counters.step_s = timing.verify_s, timing.step_s

    def _hypothesis(self, decoded: Decoded) -> Hypothesis:
        # A translation is English whatever was spoken; the language is that of the speech.
        language = (decoded.language, decoded.language_probability)
        guards = tuple(guard.value for guard in decoded.guards)
        is_worthless = bool(WORTHLESS.intersection(decoded.guards))
        if Guard.NO_SPEECH in decoded.guards or (is_worthless and not decoded.window.is_final):
            return Hypothesis((), *language, guards=guards)
        tokens = tuple(decoded.transcript.tokens)
        return Hypothesis(decoded.words, *language, tokens, guards, decoded.figures)


def is_believed(decoded: Decoded) -> bool:
    """A final by the mixed encoder that float32 throughout would not change."""
    return is_sure(decoded.transcript) and not decoded.guards


def drafted(window: SpeechWindow, heard: Decoded | None) -> SpeechWindow:
    """The window, with what was heard of it already for a draft."""
    return window if heard is None else replace(window, draft=tuple(heard.transcript.tokens))


def _calibrated_margin_s(checkpoint: Checkpoint, options: WhisperOptions) -> float | None:
    """None without a calibration. Raises: EngineUnavailable for one that is of other weights."""
    if options.calibration is None:
        return None
    path = Path(options.calibration).expanduser()
    return read_calibration(path, checkpoint.folder).context_margin_s
