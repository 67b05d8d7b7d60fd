"""Trains the speaker segmentation model.

    python -m tools.segmentation.train --minutes 80 --out /tmp/segmentation [--resume]

Uses one thread, so that it may run beside other work. Minutes are those of the clock, resumed runs
included. Every ``CHECKPOINT_EVERY_S``, at the end, and when it is asked to end (SIGTERM, Ctrl-C) it
writes ``checkpoint.pt`` and ``loss.csv`` and exports ``model/`` from a running average of the
weights, which is fit for use at any time.
"""

import argparse
import csv
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tools.demo_whisper.synthesis import SynthesisError
from tools.segmentation.examples import Examples
from tools.segmentation.export import export
from tools.segmentation.judging import Tally, judge
from tools.segmentation.meetings import train_excerpts
from tools.segmentation.model import build, frame_centres, permuted_loss, powerset_mapping
from tools.segmentation.people import DATA_DIR, PoolSize, pool

BATCH_CHUNKS = 16
PEAK_LEARNING_RATE, LAST_LEARNING_RATE = 1.5e-3, 2e-5
WARM_UP_STEPS = 100
WEIGHT_DECAY = 1e-3
GRADIENT_NORM_MAX = 1.0
AVERAGE_KEEP = 0.998
CHECKPOINT_EVERY_S = 300.0
PARTS_AT_FIRST, FIRST_SHARE = 2, 0.6
"""Half chunks in the first part of the time: twice the steps, while steps count for most."""
REPORT_EVERY_STEPS = 25
VALIDATION_CHUNKS = 96
LOSS_COLUMNS = ("seconds", "step", "loss")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    minutes: float
    out: Path
    resume: bool = False
    seed: int = 1
    data: Path = DATA_DIR
    batch_chunks: int = BATCH_CHUNKS
    validation_chunks: int = VALIDATION_CHUNKS


@dataclass(slots=True)
class State:
    """Where the run stands; a checkpoint holds it beside the weights."""

    step: int = 0
    elapsed_s: float = 0.0
    rows: list[list[float]] = field(default_factory=list)


def learning_rate(step: int, progress: float) -> float:
    """Linear warm-up over steps, then half a cosine over the time that is left."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    falling = 0.5 * (1 + float(np.cos(np.pi * min(max(progress, 0.0), 1.0))))
    return LAST_LEARNING_RATE + (PEAK_LEARNING_RATE - LAST_LEARNING_RATE) * warm_up * falling


def trainable() -> Any:
    """A fresh model whose filter bank stays on the mel scale.

    Learned in Hz, the filters hardly move; without their gradients a step costs half.
    """
    model = build().train()
    model.sincnet.wav_norm1d.requires_grad_(False)
    bank = model.sincnet.conv1d[0].requires_grad_(False).filterbank
    # Phases of hundreds of radians: in half precision the filters would be others.
    bank.filters = torch.autocast("cpu", enabled=False)(bank.filters)
    return model


class Trainer:
    """The run: weights, their running average, optimiser, examples."""

    def __init__(self, options: Options, size: PoolSize | None = None) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(options.seed)
        self.options = options
        self.model = trainable()
        self.mapping = powerset_mapping()
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            [value for value in self.model.parameters() if value.requires_grad],
            PEAK_LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
        )
        self.state = State()
        if options.resume and self.checkpoint_file.exists():
            self.load()
        people = pool(Random(f"{options.seed}"), size or PoolSize(), options.data)
        meetings = train_excerpts(options.data / "ami")
        centres = frame_centres(self.model)
        self.examples = Examples(f"{options.seed} {self.state.step}", people, meetings, centres)
        fixed = Examples("validation", people, meetings, centres)
        self.validation = fixed.batch(options.validation_chunks)
        self.wants_end = False
        # bfloat16 halves the time where the processor has it; weights stay float32.
        self.has_bfloat16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    @property
    def checkpoint_file(self) -> Path:
        return self.options.out / "checkpoint.pt"

    @property
    def progress(self) -> float:
        return self.state.elapsed_s / (self.options.minutes * 60)

    def step(self) -> float:
        """One optimiser step on fresh examples; the loss before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.state.step, self.progress)
        parts = PARTS_AT_FIRST if self.progress < FIRST_SHARE else 1
        samples, activity = self.examples.batch(self.options.batch_chunks, parts)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.has_bfloat16):
            scores = self.model(torch.from_numpy(samples))
        loss = permuted_loss(scores.float(), torch.from_numpy(activity), self.mapping)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM_MAX)
        self.optimizer.step()
        self.state.step += 1
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        """Early on the average is short: the first weights are worth nothing."""
        keep = min(AVERAGE_KEEP, (1 + self.state.step) / (10 + self.state.step))
        for name, value in self.model.state_dict().items():
            self.average[name].lerp_(value, 1 - keep)

    def run(self) -> None:
        """Train until the time is up or the process is asked to end."""
        started_s = time.monotonic() - self.state.elapsed_s
        saved_s = self.state.elapsed_s
        while self.progress < 1 and not self.wants_end:
            loss = self.step()
            self.state.elapsed_s = time.monotonic() - started_s
            self.state.rows.append([self.state.elapsed_s, self.state.step, loss])
            if self.state.step % REPORT_EVERY_STEPS == 0:
                recent = [row[2] for row in self.state.rows[-REPORT_EVERY_STEPS:]]
                self.say(f"step {self.state.step:5d}  loss {np.mean(recent):.3f}")
            if self.state.elapsed_s - saved_s > CHECKPOINT_EVERY_S:
                self.save()
                saved_s = self.state.elapsed_s
        self.save()

    def say(self, what: str) -> None:
        print(f"{self.state.elapsed_s:6.0f} s  {what}", flush=True)

    def save(self) -> None:
        """Checkpoint, loss table, exported folder, and the errors on fixed training chunks."""
        held = {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.state.step,
            "elapsed_s": self.state.elapsed_s,
            "rows": self.state.rows,
        }
        self.options.out.mkdir(parents=True, exist_ok=True)
        unfinished = self.checkpoint_file.with_suffix(".new")
        torch.save(held, unfinished)
        unfinished.replace(self.checkpoint_file)
        with (self.options.out / "loss.csv").open("w", newline="") as file:
            csv.writer(file).writerows([LOSS_COLUMNS, *self.state.rows])
        export(self.average, self.options.out / "model")
        tally = self.validate()
        self.say(
            f"step {self.state.step:5d}  saved; on training people: detection error "
            f"{tally.detection_error:.3f}, local speaker error {tally.local_error:.3f}, overlap "
            f"precision {tally.overlap_precision:.2f} recall {tally.overlap_recall:.2f}"
        )

    def load(self) -> None:
        """Go on from the last checkpoint of the same output folder."""
        held: dict[str, Any] = torch.load(self.checkpoint_file, weights_only=True)
        self.model.load_state_dict(held["model"])
        self.average = held["average"]
        self.optimizer.load_state_dict(held["optimizer"])
        self.state = State(held["step"], held["elapsed_s"], held["rows"])

    @torch.no_grad()
    def validate(self) -> Tally:
        """Of the running average, on chunks that are the same every time."""
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        samples, activity = self.validation
        parts = (samples[at : at + BATCH_CHUNKS] for at in range(0, len(samples), BATCH_CHUNKS))
        classes = torch.cat([self.model(torch.from_numpy(part)).argmax(2) for part in parts])
        self.model.load_state_dict(own)
        found = self.mapping[classes].bool().transpose(1, 2).numpy()
        return sum((judge(t, f) for t, f in zip(activity, found, strict=True)), Tally())


def parse(arguments: list[str] | None = None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.segmentation.train")
    parser.add_argument("--minutes", type=float, default=80, help="resumed runs included [80]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA_DIR, help="with ami, fsdd, librispeech")
    return Options(**vars(parser.parse_args(arguments)))


def main() -> int:
    options = parse()
    try:
        trainer = Trainer(options)
    except SynthesisError as error:
        print(f"segmentation: {error}")
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(trainer, "wants_end", True))
    trainer.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
