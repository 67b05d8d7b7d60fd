"""What further training has gained: word error rates on the voices, accents and sentences of the
comparison with other servers, before and after, in windows padded to 30 s as those servers pad
them, greedily.

    python -m tools.reference_whisper.report --before FOLDER --after FOLDER [--windows 16]
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import WhisperForConditionalGeneration

from load_tests.bench.rotated_speech import ACCENTS, UNKNOWN_FORMS, VARIANTS
from tools.demo_whisper.corpus import Corpus, Split
from tools.demo_whisper.decoding import greedy, wer
from tools.demo_whisper.model import LogMel, encode
from tools.reference_whisper.checkpoint import load
from tools.reference_whisper.conversations import Cast, Conversations, Window, WindowPlan
from tools.reference_whisper.labels import EnglishLabels

CONTEXT_S = 30.0
WINDOWS = 16
TOGETHER = 8  # windows decoded at once
PROMPT_TOKENS = 60
"""One length for all windows of a case: they are decoded together."""


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    name: str
    plan: WindowPlan
    is_prompted: bool = False
    timestamps: bool = False
    knows_all_forms: bool = False
    """With the sentences that the reference checkpoint has never heard."""


ONE = WindowPlan(CONTEXT_S, CONTEXT_S - 1, utterances_max=1)
SOME = WindowPlan(CONTEXT_S, 15)
MANY = WindowPlan(CONTEXT_S, 29)
SLIDING = WindowPlan(CONTEXT_S, CONTEXT_S, cut_start=True, cut_end=True)
CASES = (
    Case("one utterance", ONE),
    Case("one utterance behind a prompt", ONE, is_prompted=True),
    Case("one utterance of any form", ONE, knows_all_forms=True),
    Case("15 s", SOME),
    Case("15 s behind a prompt", SOME, is_prompted=True),
    Case("29 s", MANY),
    Case("29 s with timestamps", MANY, timestamps=True),
    Case("29 s behind a prompt", MANY, is_prompted=True),
    Case("29 s with timestamps behind a prompt", MANY, is_prompted=True, timestamps=True),
    Case("30 s, cut at both ends", SLIDING, timestamps=True),
    Case("30 s, cut at both ends, behind a prompt", SLIDING, is_prompted=True, timestamps=True),
)


class Judge:
    """Hears the same windows with any checkpoint of the same tokens."""

    def __init__(self, labels: EnglishLabels, windows: int = WINDOWS) -> None:
        self._labels = labels
        self._count = windows
        self._log_mel = LogMel()

    @staticmethod
    def case(name: str) -> Case:
        """By its name."""
        return next(case for case in CASES if case.name == name)

    def windows(self, case: Case) -> list[Window]:
        """Those of ``case``: fixed, and the same for cases that differ in how they are decoded."""
        source = Conversations(
            Corpus(Split.TEST, f"report {case.plan}", None),
            [Cast(ACCENTS, VARIANTS)],
            None if case.knows_all_forms else UNKNOWN_FORMS,
            is_quiet=True,
        )
        count = self._count * (2 if case.plan is ONE else 1)
        return [source.window(case.plan) for _ in range(count)]

    @torch.inference_mode()
    def rate(self, whisper: WhisperForConditionalGeneration, case: Case) -> float:
        """The word error rate over all windows of ``case``."""
        windows, heard = self.windows(case), list[str]()
        for first in range(0, len(windows), TOGETHER):
            heard += self._heard(whisper, windows[first : first + TOGETHER], case)
        return wer([window.text for window in windows], heard)

    def _heard(
        self, whisper: WhisperForConditionalGeneration, windows: Sequence[Window], case: Case
    ) -> list[str]:
        audio = torch.from_numpy(np.stack([window.samples for window in windows]))
        states = encode(whisper, self._log_mel(audio))
        prompts = [
            self._labels.prompt(window.before, PROMPT_TOKENS) if case.is_prompted else []
            for window in windows
        ]
        given = torch.tensor([self._labels.given(prompt, case.timestamps) for prompt in prompts])
        said = greedy(whisper, states, given, self._labels.end)
        return [self._labels.text(ids) for ids in said]


def compare(before: Path, after: Path, windows: int, console: Console) -> dict[str, object]:
    """Every case with both; printed, and as ``report.json`` has it."""
    judge = Judge(EnglishLabels(before), windows)
    old, new = load(before), load(after)
    table = Table("windows of held-out voices", "WER before", "WER after")
    found: dict[str, dict[str, float]] = {}
    for case in CASES:
        rates = {"before": judge.rate(old, case), "after": judge.rate(new, case)}
        found[case.name] = {name: round(rate, 4) for name, rate in rates.items()}
        table.add_row(case.name, *(f"{rate:.3f}" for rate in rates.values()))
    console.print(table)
    return {"windows_per_case": windows, "word_error_rates": found}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.reference_whisper.report")
    parser.add_argument("--before", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--after", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--windows", type=int, default=WINDOWS, help=f"per line [{WINDOWS}]")
    given = parser.parse_args()
    print(json.dumps(compare(given.before, given.after, given.windows, Console()), indent=1))


if __name__ == "__main__":
    main()
