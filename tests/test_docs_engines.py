"""``docs/engines.md`` knows every engine and every option, and no other."""

import re
from dataclasses import fields
from pathlib import Path

from server.engines import ctc_checkpoint, pyannote_loading, whisper_options
from server.engines.registry import names, takes_guidance
from server.engines.whisper_words import UNSPACED_LANGUAGES
from streaming.events import SessionStage

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "engines.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables' rows whose first cell is code."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def codes(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_every_engine_has_a_row() -> None:
    told = [row[0].strip("`") for row in rows(PAGE.split("\n## ", 1)[0])]
    known = {name for stage in SessionStage for name in names(stage)}
    assert sorted(told) == sorted(known)


def test_every_option_has_a_row_and_no_other() -> None:
    options: dict[str, set[str]] = {}
    for name, engines, *_ in rows(section("Options")):
        for engine in codes(engines):
            options.setdefault(engine, set()).update(codes(name))
    whisper = {field.name for field in fields(whisper_options.WhisperOptions)}
    assert options == {
        "whisper": whisper,
        "demo": whisper,
        "ctc": set(ctc_checkpoint.OPTIONS),
        "pyannote": set(pyannote_loading.OPTIONS),
    }


def test_the_families_of_ctc_are_named() -> None:
    told = section("ctc\n").lower()
    for family in ctc_checkpoint.FAMILIES:
        assert family in told, family
    for language in UNSPACED_LANGUAGES:
        assert f"`{language}`" in told


def test_guidance_is_refused_where_the_page_says_so() -> None:
    table = section("What a client may ask").splitlines()
    (heading,) = [line for line in table if "`whisper`" in line]
    (prompts,) = [line for line in table if line.startswith("| `prompt`")]
    columns = zip(heading.strip("|").split("|"), prompts.strip("|").split("|"), strict=True)
    told = {engine: "unsupported" not in cell for head, cell in columns for engine in codes(head)}
    assert told == {engine: takes_guidance(engine) for engine in told}
    assert set(told) | {"scripted"} == set(names(SessionStage.RECOGNITION))


def test_it_can_be_found() -> None:
    assert "(engines.md)" in (DOCS / "README.md").read_text()
