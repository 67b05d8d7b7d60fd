"""``docs/clients.md`` shows lines of the programs that ``make test-clients`` runs."""

import re
import textwrap
from pathlib import Path

import pytest

from server.protocols.deepgram import BAD_REQUEST, ERROR_CODES
from server.protocols.deepgram_query import (
    ACCEPTED_AND_IGNORED,
    CODED_ENCODINGS,
    RAW_ENCODINGS,
    UNDECODED_ENCODINGS,
)
from server.protocols.deepgram_socket import close_of
from streaming.errors import CaptiondError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- (tests/clients_foreign/\S+) -->\n```\w+\n(.*?)\n```", PAGE, re.DOTALL)
MARKED = re.compile(r"(?:#|//) \[three lines\]\n(.*?)\n *(?:#|//) \[end\]", re.DOTALL)
PROGRAMS = sorted(
    path
    for path in (ROOT / "tests" / "clients_foreign").glob("*/*/client.*")
    if MARKED.search(path.read_text(encoding="utf-8"))
)


@pytest.mark.parametrize(("path", "shown"), SHOWN)
def test_the_lines_are_those_of_the_program(path: str, shown: str) -> None:
    found = MARKED.search((ROOT / path).read_text(encoding="utf-8"))
    assert found is not None
    assert textwrap.dedent(found[1]) == shown


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.parent.name)
def test_every_client_is_shown(program: Path) -> None:
    assert program.relative_to(ROOT).as_posix() in {path for path, _ in SHOWN}


def test_what_deepgrams_clients_may_ask_is_listed() -> None:
    encodings = (*RAW_ENCODINGS, *CODED_ENCODINGS, *UNDECODED_ENCODINGS)
    for name in (*ACCEPTED_AND_IGNORED, *encodings):
        assert f"`{name}`" in PAGE or f"={name}`" in PAGE, name


def test_how_deepgrams_clients_are_refused_is_listed() -> None:
    for code in (BAD_REQUEST, *(code for _, code in ERROR_CODES)):
        assert f"`{code}`" in PAGE, code
    families = [CaptiondError]
    while families:
        family = families.pop()
        families += family.__subclasses__()
        if "close_code" in vars(family) and family.__module__ == "streaming.errors":
            number, _ = close_of(family("it went wrong"))
            assert f"| {number} |" in PAGE, family
