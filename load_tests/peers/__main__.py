"""``python -m load_tests.peers``: captiond and its peers, measured one after the other.

Writes ``docs/benchmarks/peers.json`` and ``peers.md``. The exit status is 1 where captiond could
not be measured; a peer that fails is a row like any other, with its log.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from load_tests.bench.rotated_speech import NoVoices, rotated, speech_seconds
from load_tests.peers import captiond, whisper_live, whisperlivekit
from load_tests.peers.environments import converted, environment, named_for_english
from load_tests.peers.held import LEVELS, STREAMS_MAX
from load_tests.peers.probing import Bench, Conditions
from load_tests.peers.report import Row, as_json, as_markdown, failed_row, row_of
from load_tests.peers.system import PeerFailed, System
from load_tests.report import provenance
from server.engines.errors import EngineUnavailable
from server.engines.whisper_calibration import read_calibration

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "docs" / "benchmarks"
FOLDER = ROOT / "build" / "peers"
WEIGHTS = ROOT.parent / "shared" / "models" / "whisper-tiny-ref"
SECONDS = 60.0
KINDS = ("exact", "calibrated", "whisper-live", "whisperlivekit")
CEILINGS = (
    "exact_finals_ceiling_streams",
    "exact_ceiling_streams",
    "calibrated_ceiling_streams",
)
Prepare = Callable[[], Awaitable[list[System]]]


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.peers", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=KINDS, help="one kind of system; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of speech [{SECONDS:g}]")
    parser.add_argument("--seed", type=int, default=1, help="of what is said [1]")
    parser.add_argument("--streams-max", type=int, default=STREAMS_MAX)
    parser.add_argument(
        "--whisper", type=Path, default=WEIGHTS, metavar="FOLDER", help="checkpoint for all"
    )
    parser.add_argument(
        "--environments", type=Path, default=FOLDER, metavar="FOLDER", help=f"[{FOLDER}]"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"[{OUTPUT}; with --only that of the environments: all rows are of one run]",
    )
    parser.add_argument("--install", action="store_true", help="only make the environments")
    given = parser.parse_args(words)
    given.output = given.output or (given.environments if given.only else OUTPUT)
    return given


def preparations(given: argparse.Namespace) -> dict[str, Prepare]:
    """By kind: installs what it takes, and gives what to measure."""
    parent, model, python = given.environments, given.whisper, Path(sys.executable)

    async def ours() -> Path:
        measured = parent / "calibration.json"
        return measured if is_of(measured, model) else await captiond.calibrate(model, parent)

    async def exact() -> list[System]:
        return [captiond.exact(model, await ours())]

    async def calibrated() -> list[System]:
        return [captiond.calibrated(model, await ours())]

    async def live() -> list[System]:
        alone = [f"whisper-live=={whisper_live.VERSION}"]
        requirements = whisper_live.REQUIREMENTS
        made = await environment("whisper-live", requirements, parent, python, alone=alone)
        return whisper_live.systems(made, await converted(model, parent, python))

    async def kit() -> list[System]:
        requirements = whisperlivekit.REQUIREMENTS
        made = await environment("whisperlivekit", requirements, parent, python)
        english = named_for_english(model, parent)
        return whisperlivekit.systems(made, await converted(model, parent, python), english)

    return dict(zip(KINDS, (exact, calibrated, live, kit), strict=True))


def is_of(calibration: Path, model: Path) -> bool:
    """Whether that file is there, and says how short these weights may hear."""
    try:
        read_calibration(calibration, model)
    except EngineUnavailable:
        return False
    return True


async def rows_of(kind: str, prepare: Prepare, given: argparse.Namespace) -> list[Row]:
    """One kind of system; what fails is a row that says so."""
    try:
        systems = await prepare()
    except (PeerFailed, TimeoutError) as error:
        print(f"{kind} could not be prepared: {error}", file=sys.stderr)
        return [failed_row(kind, str(error))]
    if given.install:
        return []
    return [await measured(system, given) for system in systems]


async def measured(system: System, given: argparse.Namespace) -> Row:
    """All levels of one system; the probes of one serve the next."""
    bench = Bench(system, Conditions(given.seconds, given.seed), {})
    try:
        most = {level.name: await bench.most_held(level, given.streams_max) for level in LEVELS}
    except (PeerFailed, TimeoutError) as error:
        print(f"{system.name} failed: {error}", file=sys.stderr)
        return failed_row(system, str(error), bench)
    return row_of(bench, most)


async def run(given: argparse.Namespace) -> list[Row]:
    """Every kind that was asked for, one after the other."""
    given.environments.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for kind, prepare in preparations(given).items():
        if not given.only or kind in given.only:
            rows += await rows_of(kind, prepare, given)
            if rows:
                write(rows, given)
    return rows


def write(rows: Sequence[Row], given: argparse.Namespace) -> None:
    """After each kind: what comes later may fail."""
    told = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "ceilings": ceilings(OUTPUT / "latest.json"),
        **provenance(),
    }
    found = as_json(rows, described(given), told)
    given.output.mkdir(parents=True, exist_ok=True)
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    (given.output / "peers.json").write_bytes(orjson.dumps(found, option=options) + b"\n")
    (given.output / "peers.md").write_text(as_markdown(found))


def ceilings(path: Path) -> dict[str, float | None]:
    """The ceilings of these weights on this machine, by the bench; None where it has
    not looked yet."""
    found = orjson.loads(path.read_bytes()) if path.exists() else {}
    return {name: found.get(name) for name in CEILINGS}


def described(given: argparse.Namespace) -> dict[str, object]:
    """What everybody hears."""
    recording = rotated(given.seconds, 1, given.seed)[0]
    spoken_s = speech_seconds(given.seconds, given.seed)
    return {
        "description": f"{len(recording.words)} words of held-out synthetic voices in "
        f"{len(recording.samples) / 16_000:.0f} s, {spoken_s:.0f} s of it speech, the same for "
        f"every stream, each beginning with another sentence; seed {given.seed}",
        "weights": given.whisper.name,
    }


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    given = parse_arguments(sys.argv[1:] if words is None else words)
    if not (given.whisper / "model.safetensors").exists():
        print(f"no checkpoint in {given.whisper}; give --whisper FOLDER", file=sys.stderr)
        return 1
    try:
        rows = asyncio.run(run(given))
    except NoVoices as missing:
        print(missing, file=sys.stderr)
        return 1
    if rows:
        print((given.output / "peers.md").read_text())
    return int(any(row["finals"] and row["failure"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
