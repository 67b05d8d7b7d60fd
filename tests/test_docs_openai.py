"""The OpenAI part of ``docs/clients.md`` names every format, code and limit."""

import re
from pathlib import Path

import pytest

from server import recordings
from server.protocols import openai_form, openai_rest
from server.protocols.openai_rest import error_fields
from streaming.errors import CaptiondError

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
PART = PAGE.partition("## OpenAI, recordings")[2].partition("\n## ")[0]
NEVER_OVER_HTTP = {"superseded", "session_expired", "out_of_order"}
"""They are for sessions that somebody comes back to."""


def families() -> list[type[CaptiondError]]:
    found, rest = [], [CaptiondError]
    while rest:
        family = rest.pop()
        rest += family.__subclasses__()
        if "code" in vars(family) and family.__module__ == "streaming.errors":
            found.append(family)
    return found


@pytest.mark.parametrize("name", openai_form.RESPONSE_FORMATS)
def test_every_format_is_named(name: str) -> None:
    assert f"`{name}`" in PART


@pytest.mark.parametrize("family", families(), ids=lambda family: family.code)
def test_every_error_stands_beside_its_status(family: type[CaptiondError]) -> None:
    if family.code in NEVER_OVER_HTTP:
        return
    error = openai_rest.UnknownModel("m") if family.code == "unknown_session" else family("m")
    code = error_fields(error)["error"]["code"]
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", PART, re.MULTILINE)
    assert any(int(status) == error.http_status and f"`{code}`" in codes for status, codes in rows)


@pytest.mark.parametrize(
    "header",
    [
        *(openai_rest.REQUEST_ID_HEADER, openai_rest.IGNORED_HEADER),
        *(openai_rest.MISSING_HEADER, openai_rest.DAMAGED_HEADER),
    ],
)
def test_every_header_is_named(header: str) -> None:
    assert f"`{header}`" in PART


def test_limits_are_those_of_the_code() -> None:
    assert f"{openai_form.FILE_BYTES_MAX // openai_form.MIB} MB" in PART
    assert f"{recordings.UPLOADS_MAX} uploads" in PART
    assert f"for {openai_form.PART_SECONDS_MAX:.0f} s" in PART
