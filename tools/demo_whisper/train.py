"""Trains the demo checkpoint.

    python -m tools.demo_whisper.train --minutes 75 --out /tmp/demo_whisper [--resume]
    python -m tools.demo_whisper.train --minutes 6 --out /tmp/demo_whisper --resume --decoder-only

The second is a stage of its own, behind the first: the encoder stays as it is, and each clip that
it has heard is written several times, behind other prompts.  Minutes are those of work: time that
other programs take does not count.

Runs one process per core (``--processes``; see ``tools.processes``). Writes ``checkpoint.pt``,
``loss.csv`` and ``loss.png`` as it goes and the finished folder at the end, also when it is ended
by SIGTERM or Ctrl-C.
"""

import argparse
import csv
import os
import signal
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tools.demo_whisper import tokenizer as tokenizers
from tools.demo_whisper.batches import Batches, BatchShape, shape
from tools.demo_whisper.corpus import Clip, ClipPlan, Corpus, Split, find_recordings
from tools.demo_whisper.decoding import greedy, wer
from tools.demo_whisper.export import export
from tools.demo_whisper.model import Losses, Trainee
from tools.demo_whisper.sentences import SPELLINGS, respelled
from tools.demo_whisper.tokenizer import Labels
from tools.processes import average_gradients, joined, of_first, run_together

PEAK_LEARNING_RATE, DECODER_LEARNING_RATE = 1.3e-3, 4e-4
WARM_UP_STEPS = 100
GRADIENT_NORM_MAX = 1.0
CHECKPOINT_EVERY_S = 600.0  # with it comes a validation, which costs as much as fifty steps
REPORT_EVERY_STEPS = 25
VALIDATION_CLIPS = 24
WRITTEN_TIMES = 16  # hearing a clip costs more than writing it, and its labels are drawn anew
PROMPTED: dict[str, dict[str, Any]] = {
    "listed": {"keywords": tuple(SPELLINGS.values())},
    "usual": {"keywords": (*SPELLINGS, "Kubernetes")},
}
LOSS_COLUMNS = ("seconds", "step", "total", "text", "ctc", "frames", "phonemes", "guide")

console = Console()


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    minutes: float
    out: Path
    resume: bool
    processes: int
    seed: int
    decoder_only: bool = False


@dataclass(slots=True)
class State:
    """Where the run stands; a checkpoint holds it beside the weights."""

    step: int = 0
    elapsed_s: float = 0.0
    rows: list[list[float]] = field(default_factory=list)


def learning_rate(step: int, progress: float, peak: float = PEAK_LEARNING_RATE) -> float:
    """Linear warm-up over steps, then linear decay over the time that is left."""
    warm_up = min(1.0, (step + 1) / WARM_UP_STEPS)
    return peak * warm_up * (1 - min(progress, 1.0)) + 1e-6


class Trainer:
    """One process of the run; rank 0 keeps time, reports and saves."""

    def __init__(self, options: Options, rank: int) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.rank = rank
        self.labels = Labels(tokenizers.build())
        self.trainee = Trainee(self.labels)
        self.optimizer = torch.optim.AdamW(
            self.trainee.parameters(),
            PEAK_LEARNING_RATE,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=True,
        )
        if options.decoder_only:
            # What is said is heard as before: only how it is written is learned.
            self.trainee.requires_grad_(False)
            self.trainee.whisper.model.decoder.requires_grad_(True)
        self.state = State()
        if options.resume and self.checkpoint_file.exists():
            self.load()
        self.stage_began_s = self.state.elapsed_s if options.decoder_only else 0.0
        recordings = find_recordings()
        if recordings is None and rank == 0:
            console.print("No recorded digits found: training on synthetic voices only.")
        seed = f"{options.seed} {rank} {self.state.step}"
        self.batches = Batches(Corpus(Split.TRAIN, seed, recordings), self.labels)
        self.has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self.heard: dict[BatchShape, tuple[list[Clip], torch.Tensor, int]] = {}
        """Per shape the last clips, the encoder's answer, and how often they were written."""
        self.wants_end = False

    @property
    def checkpoint_file(self) -> Path:
        return self.options.out / "checkpoint.pt"

    @property
    def progress(self) -> float:
        return (self.state.elapsed_s - self.stage_began_s) / (self.options.minutes * 60)

    def step(self, progress: float) -> Losses:
        """One optimiser step on one batch per process, all of the same shape."""
        is_last_stage = self.options.decoder_only
        rng = Random(f"{self.options.seed} {self.state.step}")
        drawn = shape(1.0 if is_last_stage else progress, rng)
        peak = DECODER_LEARNING_RATE if is_last_stage else PEAK_LEARNING_RATE
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.state.step, progress, peak)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.has_bfloat16):
            losses = self.losses(drawn)
        self.optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        average_gradients(self.trainee.parameters(), self.options.processes)
        torch.nn.utils.clip_grad_norm_(self.trainee.parameters(), GRADIENT_NORM_MAX)
        self.optimizer.step()
        self.state.step += 1
        return losses

    def losses(self, drawn: BatchShape) -> Losses:
        """Of fresh clips; with ``--decoder-only`` each clip is heard once and written often."""
        if not self.options.decoder_only:
            fresh: Losses = self.trainee(self.batches.draw(drawn))
            return fresh
        clips, states, uses = self.heard.get(drawn, ([], torch.empty(0), WRITTEN_TIMES))
        if uses == WRITTEN_TIMES:
            clips, uses = self.batches.clips(drawn), 0
            with torch.no_grad():
                audio = torch.from_numpy(np.stack([clip.samples for clip in clips]))
                states = self.trainee.encode(audio)
        self.heard[drawn] = (clips, states, uses + 1)
        written: Losses = self.trainee(self.batches.written(clips, drawn), states)
        return written

    def agreed_progress(self) -> float:
        """Rank 0's progress, or more than 1 when it wants to end."""
        return of_first(2.0 if self.wants_end else self.progress, self.options.processes)

    def run(self) -> None:
        """Train until the time is up or the process is asked to end."""
        started_s = time.thread_time() - self.state.elapsed_s
        saved_s = time.monotonic()
        columns = ("[progress.description]{task.description}", BarColumn(), TimeElapsedColumn())
        with Progress(*map(_column, columns), console=console, disable=self.rank != 0) as bar:
            task = bar.add_task("training", total=self.options.minutes * 60)
            while (progress := self.agreed_progress()) < 1:
                losses = self.step(progress)
                self.state.elapsed_s = time.thread_time() - started_s
                if self.rank == 0:
                    self.note(losses)
                    bar.update(task, completed=self.progress * self.options.minutes * 60)
                    if time.monotonic() - saved_s > CHECKPOINT_EVERY_S:
                        self.save()
                        saved_s = time.monotonic()

    def note(self, losses: Losses) -> None:
        """Remember the losses; say them now and then."""
        self.state.rows.append([self.state.elapsed_s, self.state.step, *losses.values()])
        if self.state.step % REPORT_EVERY_STEPS == 0:
            recent = torch.tensor(self.state.rows[-REPORT_EVERY_STEPS:]).mean(0).tolist()[2:]
            named = (
                f"{name} {value:.3f}" for name, value in zip(LOSS_COLUMNS[2:], recent, strict=True)
            )
            console.print(
                f"{self.state.elapsed_s:6.0f} s  step {self.state.step:5d}  {'  '.join(named)}"
            )

    def save(self) -> None:
        """Checkpoint, loss table and curve, and a word error rate on held-out voices."""
        held = {
            "trainee": self.trainee.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.state.step,
            "elapsed_s": self.state.elapsed_s,
            "rows": self.state.rows,
        }
        unfinished = self.checkpoint_file.with_suffix(".new")
        torch.save(held, unfinished)
        unfinished.replace(self.checkpoint_file)
        write_losses(self.state.rows, self.options.out)
        rates = [f"{language} {self.validate(language):.3f}" for language in ("en", "de")]
        rates += [f"{name} {self.validate(**case):.3f}" for name, case in PROMPTED.items()]
        console.print(f"{self.state.elapsed_s:6.0f} s  checkpoint; held-out WER {'  '.join(rates)}")

    def load(self) -> None:
        """Go on from the last checkpoint of the same output folder."""
        held: dict[str, Any] = torch.load(self.checkpoint_file, weights_only=True)
        self.trainee.load_state_dict(held["trainee"])
        self.optimizer.load_state_dict(held["optimizer"])
        self.state = State(held["step"], held["elapsed_s"], held["rows"])

    def validate(self, language: str = "en", keywords: tuple[str, ...] = ()) -> float:
        """WER on fixed clips of 6 s, held-out voices and takes, greedy without timestamps; behind
        keywords, of sentences with names, where the right spelling counts."""
        corpus = Corpus(Split.TEST, "validation", self.batches.recordings)
        plan = ClipPlan(6, 5.5, language)
        plan = replace(plan, names_share=1.0, digits_share=0.0) if keywords else plan
        clips = [corpus.clip(plan) for _ in range(VALIDATION_CLIPS)]
        given = [
            *self.labels.prompt("", keywords),
            self.labels.start,
            self.labels.id(language),
            self.labels.id("transcribe"),
            self.labels.no_timestamps,
        ]
        with torch.inference_mode():
            audio = torch.stack([torch.from_numpy(clip.samples) for clip in clips])
            states = self.trainee.encode(audio)
            said = greedy(self.trainee.whisper, states, given, self.labels.end)
            self.trainee.forget_attentions()
        texts = self.labels.tokenizer.batch_decode(said, skip_special_tokens=True)
        return wer([respelled(clip.text, " ".join(keywords)) for clip in clips], texts)


def _column(column: Any) -> Any:
    return TextColumn(column) if isinstance(column, str) else column


def write_losses(rows: list[list[float]], folder: Path) -> None:
    """``loss.csv`` and ``loss.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (folder / "loss.csv").open("w", newline="") as file:
        csv.writer(file).writerows([LOSS_COLUMNS, *rows])
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for index, name in enumerate(LOSS_COLUMNS[3:], start=3):
        smooth = smoothed([row[index] for row in rows])
        axes.plot([row[0] / 60 for row in rows], smooth, label=name)
    axes.set(xlabel="minutes", ylabel="loss", yscale="log", title="demo checkpoint")
    axes.legend()
    figure.savefig(folder / "loss.png", dpi=110)
    pyplot.close(figure)


def smoothed(values: list[float], keep: float = 0.97) -> list[float]:
    """Exponential moving average."""
    average, out = values[0] if values else 0.0, []
    for value in values:
        average = keep * average + (1 - keep) * value
        out.append(average)
    return out


def work(rank: int, options: Options) -> None:
    """One process of the run."""
    with joined(rank, options.processes, options.out):
        trainer = Trainer(options, rank)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(trainer, "wants_end", True))
        trainer.run()
        if rank == 0:
            trainer.save()
            export(trainer.trainee.whisper, trainer.labels, options.out / "model")
            console.print(f"Exported to {options.out / 'model'}")


def parse(arguments: list[str] | None = None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tools.demo_whisper.train")
    parser.add_argument(
        "--minutes", type=float, default=75, help="time of work, resumed runs included"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="leave the encoder as it is",
    )
    return Options(**vars(parser.parse_args(arguments)))


def main() -> None:
    options = parse()
    run_together(work, options, options.processes, options.out)


if __name__ == "__main__":
    main()
