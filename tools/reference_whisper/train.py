"""The loss, and the loop: a fine-tune by the clock, in one process per core.

Writes ``checkpoint.pt`` as it goes and the finished folder, ``model``, at the end, also when it is
ended by SIGTERM or Ctrl-C. Minutes are those of work: time that other programs take does not count.
"""

import itertools
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional

from tools.demo_whisper.batches import IGNORED
from tools.demo_whisper.corpus import Corpus, Split, find_recordings
from tools.demo_whisper.model import LogMel, encode
from tools.processes import average_gradients, joined, of_first
from tools.reference_whisper.checkpoint import export, load
from tools.reference_whisper.conversations import Conversations, Window, plan
from tools.reference_whisper.labels import PROMPT_TOKENS_MAX, EnglishLabels, Rows
from tools.reference_whisper.report import Judge

PEAK_LEARNING_RATE = 3e-4
WARM_UP_STEPS = 50
LATE_POSITIONS_RATE = 4.0
"""Of the decoder's positions, most of which a checkpoint without prompts has never used."""
GRADIENT_NORM_MAX = 1.0
GUIDE_WEIGHT = 0.3
PROMPTED = (True, False)
"""Each window is heard once and written so often: hearing costs more, and prompts are the
decoder's to learn."""
TIMESTAMPS_SHARE = 0.7
OTHER_CONVERSATION_SHARE = 0.15  # of the prompts
CONTEXTS = ((30, 2, 0.5), (16, 4, 0.35), (8, 5, 0.15))
"""Seconds, windows per process and step, and share of the steps."""
CHECKPOINT_EVERY_S = 300.0
REPORT_EVERY_STEPS = 20
CHECKED_WINDOWS = 4

console = Console()


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    whisper: Path
    minutes: float
    out: Path
    resume: bool
    processes: int
    seed: int
    learning_rate: float = PEAK_LEARNING_RATE
    decoder_only: bool = False


@dataclass(slots=True)
class State:
    """Where the run stands; a checkpoint holds it beside the weights."""

    step: int = 0
    windows: int = 0
    elapsed_s: float = 0.0
    losses: list[list[float]] = field(default_factory=list)


def learning_rate(step: int, progress: float, peak: float) -> float:
    """Linear warm-up over steps, then linear decay to 0 over the time that is left."""
    return peak * min(1.0, (step + 1) / WARM_UP_STEPS) * max(0.0, 1 - progress)


class Trainee:
    """A checkpoint and its loss."""

    def __init__(self, folder: Path) -> None:
        self.labels = EnglishLabels(folder)
        self.whisper = load(folder)
        self.log_mel = LogMel()
        self._attentions: list[Tensor] = []
        for layer in self.whisper.model.decoder.layers:
            layer.encoder_attn.register_forward_hook(
                lambda _m, _i, out: self._attentions.append(out[1])
            )

    def encode(self, windows: Sequence[Window]) -> Tensor:
        """(B, T, d_model) of windows of one length."""
        audio = torch.from_numpy(np.stack([window.samples for window in windows]))
        return encode(self.whisper, self.log_mel(audio))

    def losses(self, states: Tensor, rows: Rows) -> tuple[Tensor, Tensor]:
        """Of the next token, and of where the alignment heads look for it; each of the states is
        that of equally many rows."""
        self._attentions.clear()
        states = states.repeat_interleave(len(rows.ids) // len(states), dim=0)
        hidden = self.whisper.model.decoder(
            input_ids=rows.ids, encoder_hidden_states=states, use_cache=False
        ).last_hidden_state
        learned = rows.targets != IGNORED
        logits = self.whisper.proj_out(hidden[learned]).float()
        text = functional.cross_entropy(logits, rows.targets[learned])
        seen = [self._attentions[layer][:, head] for layer, head in self.labels.heads]
        self._attentions.clear()
        return text, guide_loss(seen, rows.spans)

    def forget_attentions(self) -> None:
        """Drop what the hooks have gathered outside of ``losses``."""
        self._attentions.clear()


def guide_loss(seen: Sequence[Tensor], spans: Tensor) -> Tensor:
    """Cross-entropy between attention (B, L, T) of some heads and the frames of the next token.

    Many utterances in a window teach a decoder slowly where it is among them; synthetic speech
    knows the times of its words.
    """
    at = torch.arange(seen[0].shape[-1])
    inside = (at >= spans[..., :1]) & (at < spans[..., 1:])  # (B, L, T)
    known = inside.any(-1)
    if not bool(known.any()):
        return torch.zeros(())
    target = inside[known] / inside[known].sum(-1, keepdim=True)
    looks = torch.stack([weights[known].float() for weights in seen])
    return -(target * looks.clamp(min=1e-6).log()).sum(-1).mean()


class Trainer:
    """One process of the run; rank 0 keeps time, reports and saves."""

    def __init__(self, options: Options, rank: int) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.rank = rank
        self.trainee = Trainee(options.whisper)
        positions = self.trainee.whisper.model.decoder.embed_positions.weight
        learned = [p for p in self.trainee.whisper.parameters() if p.requires_grad]
        self.parameters: list[nn.Parameter] = learned
        others = [p for p in learned if p is not positions]
        groups: list[dict[str, Any]] = [
            {"params": others, "rate": 1.0},
            {"params": [positions], "rate": LATE_POSITIONS_RATE},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=0.0, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        if options.decoder_only:
            # What is said is heard as before, in two thirds of the time per step.
            self.trainee.whisper.model.encoder.requires_grad_(False)
        self.state = State()
        if options.resume and self.checkpoint_file.exists():
            self.load()
        recordings = find_recordings()
        if recordings is None and rank == 0:
            console.print("No recorded digits found: training on synthetic voices only.")
        seed = f"{options.seed} {rank} {self.state.step}"
        self.conversations = Conversations(Corpus(Split.TRAIN, seed, recordings))
        self.has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self.wants_end = False

    @property
    def checkpoint_file(self) -> Path:
        return self.options.out / "checkpoint.pt"

    @property
    def progress(self) -> float:
        return self.state.elapsed_s / (self.options.minutes * 60)

    def drawn(self, windows: Sequence[Window]) -> Rows:
        """The rows of ``windows``, each behind a prompt and without, some with timestamps."""
        rng, labels = self.conversations.rng, self.trainee.labels
        rows = []
        for window, is_prompted in itertools.product(windows, PROMPTED):
            prompt = self.prompt(window) if is_prompted else []
            timestamps = rng.random() < TIMESTAMPS_SHARE
            rows.append(labels.row(window, prompt, timestamps=timestamps))
        return labels.collate(rows, len(windows[0].samples) // 320)

    def prompt(self, window: Window) -> list[int]:
        """What was said before ``window``, or something else; more often short than long."""
        rng = self.conversations.rng
        is_other = rng.random() < OTHER_CONVERSATION_SHARE
        before = " ".join(self.conversations.earlier()) if is_other else window.before
        tokens_max = 1 + int(PROMPT_TOKENS_MAX * rng.random() ** 1.5)
        return self.trainee.labels.prompt(before, tokens_max)

    def step(self, progress: float) -> tuple[float, float]:
        """One optimiser step on windows of one length per process, the same in all."""
        rng = Random(f"{self.options.seed} {self.state.step}")
        shares = [share for _, _, share in CONTEXTS]
        context_s, count, _ = rng.choices(CONTEXTS, shares)[0]
        source = self.conversations
        windows = [source.window(plan(source.rng, context_s)) for _ in range(count)]
        rows = self.drawn(windows)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.has_bfloat16):
            text, guide = self.trainee.losses(self.trainee.encode(windows), rows)
        self.optimizer.zero_grad()
        (text + GUIDE_WEIGHT * guide).backward()  # type: ignore[no-untyped-call]
        average_gradients(self.parameters, self.options.processes)
        nn.utils.clip_grad_norm_(self.parameters, GRADIENT_NORM_MAX)
        rate = learning_rate(self.state.step, progress, self.options.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.step()
        self.state.step += 1
        self.state.windows += count * self.options.processes
        return float(text.detach()), float(guide.detach())

    def run(self) -> None:
        """Train until the time is up or the process is asked to end."""
        started_s = time.thread_time() - self.state.elapsed_s
        saved_s = time.monotonic()
        while True:
            progress = of_first(2.0 if self.wants_end else self.progress, self.options.processes)
            if progress >= 1:
                return
            self.state.losses.append(list(self.step(progress)))
            self.state.elapsed_s = time.thread_time() - started_s
            if self.rank == 0 and self.state.step % REPORT_EVERY_STEPS == 0:
                self.say("")
            if self.rank == 0 and time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                self.save()
                self.check()
                saved_s = time.monotonic()

    def say(self, more: str) -> None:
        """Where the run stands; the losses are means of the last steps."""
        text, guide = np.mean(self.state.losses[-REPORT_EVERY_STEPS:] or [[0.0, 0.0]], axis=0)
        state = self.state
        console.print(
            f"{state.elapsed_s:6.0f} s  step {state.step:5d}  {state.windows:6d} windows  "
            f"text {text:.3f}  guide {guide:.3f}{more}",
            highlight=False,
        )

    def check(self) -> None:
        """A few held-out windows of many utterances, behind prompts."""
        judge = Judge(self.trainee.labels, CHECKED_WINDOWS)
        rate = judge.rate(self.trainee.whisper, judge.case("29 s behind a prompt"))
        self.trainee.forget_attentions()
        self.say(f"  held-out WER at 29 s behind prompts {rate:.3f}")

    def save(self) -> None:
        """What ``--resume`` goes on from."""
        held = {
            "whisper": self.trainee.whisper.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.state.step,
            "windows": self.state.windows,
            "elapsed_s": self.state.elapsed_s,
            "losses": self.state.losses,
        }
        unfinished = self.checkpoint_file.with_suffix(".new")
        torch.save(held, unfinished)
        unfinished.replace(self.checkpoint_file)

    def load(self) -> None:
        """Go on from the last checkpoint of the same output folder."""
        held: dict[str, Any] = torch.load(self.checkpoint_file, weights_only=True)
        self.trainee.whisper.load_state_dict(held["whisper"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.state = State(held["step"], held["windows"], held["elapsed_s"], held["losses"])


def work(rank: int, options: Options) -> None:
    """One process of the run."""
    with joined(rank, options.processes, options.out):
        trainer = Trainer(options, rank)
        asked = (signal.SIGTERM, signal.SIGINT)
        usual = [
            signal.signal(number, lambda *_: setattr(trainer, "wants_end", True))
            for number in asked
        ]
        trainer.run()
        if rank == 0:
            trainer.save()
            export(trainer.trainee.whisper, options.whisper, options.out / "model")
            trainer.say(f"  exported to {options.out / 'model'}")
        for number, handler in zip(asked, usual, strict=True):
            signal.signal(number, handler)
