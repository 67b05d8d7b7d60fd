"""``python -m tools.reference_whisper``: train further, export, and say what was gained."""

import argparse
import json
import os
import sys
from pathlib import Path

import torch

from tools.processes import run_together
from tools.reference_whisper.labels import UnfitCheckpoint
from tools.reference_whisper.report import WINDOWS, compare
from tools.reference_whisper.train import PEAK_LEARNING_RATE, Options, console, work

ROOT = Path(__file__).resolve().parents[2]
WHISPER = ROOT.parent / "shared" / "models" / "whisper-tiny-ref"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.reference_whisper", description=__doc__)
    parser.add_argument(
        "--whisper", type=Path, default=WHISPER, metavar="FOLDER", help="what to go on from"
    )
    parser.add_argument(
        "--minutes", type=float, default=60, help="time of work, resumed runs included [60]"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the result is in FOLDER/model"
    )
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--learning-rate", type=float, default=PEAK_LEARNING_RATE, help="the highest [%(default)s]"
    )
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="leave the encoder as it is: two thirds of the cost",
    )
    parser.add_argument(
        "--report-windows",
        type=int,
        default=WINDOWS,
        help=f"per line of the report; 0 for none [{WINDOWS}]",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    told = vars(parse(arguments))
    report_windows = told.pop("report_windows")
    options = Options(**told)
    try:
        run_together(work, options, options.processes, options.out)
    except UnfitCheckpoint as unfit:
        print(unfit, file=sys.stderr)
        return 1
    if report_windows:
        torch.set_num_threads(os.cpu_count() or 1)
        found = compare(options.whisper, options.out / "model", report_windows, console)
        (options.out / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
