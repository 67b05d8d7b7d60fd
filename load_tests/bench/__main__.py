"""Run sections, print a table, write ``docs/benchmarks/``, judge by the bounds.

The exit status is 1 where a figure is above its bound or a section failed. With ``--only``, the
figures of the other sections stay in the file as they were.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from load_tests.bench import pages
from load_tests.bench.section import Effort, Figures, Section, SectionSkipped, all_sections
from load_tests.report import provenance

OUTPUT = Path(__file__).parents[2] / "docs" / "benchmarks" / "latest.json"
PROVENANCE = "sections"
"""Key of where each section's figures come from; every other key is a figure."""


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Exits with a usage message where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.bench", description=__doc__)
    parser.add_argument("--only", action="append", metavar="SECTION", help="may be repeated")
    parser.add_argument("--pages", action="store_true", help="write page and plots anew; leave")
    parser.add_argument("--list", action="store_true", help="name the sections and leave")
    parser.add_argument("--quick", action="store_true", help="see that it works; writes no file")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option of a section"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="FILE", help=f"[{OUTPUT}]")
    given = parser.parse_args(words)
    given.options = dict(item.partition("=")[::2] for item in given.set)
    if unknown := sorted(set(given.only or ()) - set(all_sections())):
        parser.error(f"no section {', '.join(unknown)}; --list names them")
    return given


def run_section(section: Section, effort: Effort) -> tuple[Figures, dict[str, Any]]:
    """Its figures, and where they come from. Raises: whatever it raises."""
    began_s = time.monotonic()
    figures = section.measure(effort)
    if missing := sorted(set(section.bounds) - set(figures)):
        raise ValueError(f"section {section.name} gave no {', '.join(missing)}")
    told = {
        "figures": sorted(figures),
        "command": f'python -m load_tests.bench --only "{section.name}"',
        "options": dict(effort.options),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began_s, 1),
        **provenance(),
    }
    return figures, told


def merged(old: Figures, name: str, figures: Figures, told: dict[str, Any]) -> Figures:
    """``old`` with a section's figures in the place of its earlier ones."""
    sections = dict(old.get(PROVENANCE, {}))
    gone = set(sections.get(name, {}).get("figures", ()))
    kept = {key: value for key, value in old.items() if key not in gone and key != PROVENANCE}
    return {**kept, **figures, PROVENANCE: {**sections, name: told}}


def rows(section: Section, figures: Figures) -> Iterable[tuple[str, str, str, str]]:
    """Figure, value, bound and verdict, for a table."""
    for name, value in figures.items():
        if isinstance(value, dict):
            parts = ", ".join(f"{part} {share}" for part, share in value.items())
            yield name, parts, "", ""
        else:
            bound = section.bounds.get(name)
            verdict = "" if bound is None else "ok" if value <= bound else "ABOVE"
            yield name, str(value), "" if bound is None else f"<= {bound:g}", verdict


def is_above(section: Section, figures: Figures) -> bool:
    """Some figure breaks its bound."""
    return any(verdict == "ABOVE" for *_, verdict in rows(section, figures))


def main(words: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    given = parse_arguments(sys.argv[1:] if words is None else words)
    chosen = [s for name, s in all_sections().items() if not given.only or name in given.only]
    if given.list:
        print("\n".join(section.name for section in chosen))
        return 0
    if given.pages:
        pages.write(given.output.parent, orjson.loads(given.output.read_bytes()), all_sections())
        return 0
    effort, is_bad = Effort(given.quick, given.options), False
    print("| figure | value | bound | |\n| --- | --- | --- | --- |")
    for section in chosen:
        try:
            figures, told = run_section(section, effort)
        except SectionSkipped as skipped:
            print(f"section {section.name} is left out: {skipped}", file=sys.stderr)
            continue
        except Exception as error:  # noqa: BLE001  task boundary: the other sections go on
            print(f"section {section.name} failed: {error!r}", file=sys.stderr)
            traceback.print_exception(error)
            is_bad = True
            continue
        for row in rows(section, figures):
            print(f"| {' | '.join(row)} |", flush=True)
        if not given.quick:
            is_bad = is_bad or is_above(section, figures)
            _write(given.output, section.name, figures, told)
    return int(is_bad)


def _write(path: Path, name: str, figures: Figures, told: dict[str, Any]) -> None:
    """After each section: one that fails later costs none before it."""
    old: Figures = orjson.loads(path.read_bytes()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    found = merged(old, name, figures, told)
    path.write_bytes(orjson.dumps(found, option=options) + b"\n")
    pages.write(path.parent, found, all_sections())


if __name__ == "__main__":
    sys.exit(main())
