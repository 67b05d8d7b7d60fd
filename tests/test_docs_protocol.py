"""``docs/protocol.md`` says what the code does: examples parse, nothing is left out."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from streaming import errors, wire
from streaming.errors import CaptiondError
from streaming.exports import FORMATS

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")


def examples(arrow: str) -> list[str]:
    blocks = re.findall(r"```messages\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    found = [line[2:] for line in lines if line.startswith(arrow)]
    return [line for line in found if not line.startswith("(")]


def _error_classes(base: type[CaptiondError] = CaptiondError) -> Iterator[type[CaptiondError]]:
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from ([child] if "code" in vars(child) else [])
            yield from _error_classes(child)


ERRORS = list(_error_classes())
CLIENT_TYPES = {
    get_args(m.model_fields["type"].annotation)[0] for m in get_args(wire.ClientMessage)
}
SERVER_TYPES = set(wire._PARSERS)


def test_every_line_of_an_example_has_a_direction() -> None:
    for block in re.findall(r"```messages\n(.*?)```", PAGE, re.DOTALL):
        assert all(line[:2] in {"→ ", "← "} for line in block.splitlines())


@pytest.mark.parametrize("example", examples("→"))
def test_client_examples_parse(example: str) -> None:
    wire.parse_client_message(example)


@pytest.mark.parametrize("example", examples("←"))
def test_server_examples_parse_and_encode_to_themselves(example: str) -> None:
    message = wire.parse_server_message(example)
    encoded = (
        wire.encode_notice(message)
        if isinstance(message, get_args(wire.ServerNotice))
        else wire.encode_event(message)  # type: ignore[arg-type]
    )
    assert json.loads(encoded) == json.loads(example)


@pytest.mark.parametrize("kind", sorted(CLIENT_TYPES))
def test_every_client_message_has_a_heading_an_example_and_all_fields(kind: str) -> None:
    assert re.search(rf"^### `{kind}`$", PAGE, re.MULTILINE)
    assert kind in {wire.parse_client_message(example).type for example in examples("→")}
    [model] = [m for m in get_args(wire.ClientMessage) if m.model_fields["type"].default == kind]
    section = PAGE.split(f"### `{kind}`\n")[1].split("\n### ")[0]
    names = set(model.model_fields) - {"type", "audio"}
    if "audio" in model.model_fields:
        names |= {f"audio.{name}" for name in wire.AudioFormat.model_fields}
    for name in names:
        assert f"`{name}`" in section, f"{kind}.{name} is not documented"


@pytest.mark.parametrize("kind", sorted(SERVER_TYPES))
def test_every_server_message_has_a_heading_and_an_example(kind: str) -> None:
    assert re.search(rf"^### .*`{kind}`", PAGE, re.MULTILINE)
    assert any(f'"type":"{kind}"' in example for example in examples("←"))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_every_error_is_in_the_table_with_its_codes(error: type[CaptiondError]) -> None:
    fault = "client" if issubclass(error, errors.ClientError) else "server"
    row = rf"^\| `{error.code}` \| {error.close_code} \| {error.http_status} \| {fault} \|"
    assert re.search(row, PAGE, re.MULTILINE)


def test_the_table_has_no_error_that_is_none() -> None:
    documented = re.findall(r"^\| `(\w+)` \| \d+ \| \d+ \|", PAGE, re.MULTILINE)
    assert sorted(documented) == sorted(error.code for error in ERRORS)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ("text message", wire.CONTROL_MESSAGE_BYTES_MAX),
        ("binary message", wire.AUDIO_MESSAGE_BYTES_MAX),
        ("sample rate", wire.SAMPLE_RATE_HZ_MIN),
        ("sample rate", wire.SAMPLE_RATE_HZ_MAX),
        ("channels", wire.CHANNELS_MAX),
        ("prompt", wire.PROMPT_CHARACTERS_MAX),
        ("keywords", wire.KEYWORDS_MAX),
        ("a keyword, or a name", wire.NAME_CHARACTERS_MAX),
    ],
)
def test_limits_are_those_of_the_code(row: str, value: int) -> None:
    line = re.search(rf"^\| {row} \| (.*) \|$", PAGE, re.MULTILINE)
    assert line is not None
    assert f"{value:,}" in line[1]


def test_names_of_the_protocol_are_those_of_the_code() -> None:
    assert f"`{wire.STREAM_PATH}`" in PAGE
    assert f"`{wire.SUBPROTOCOL}`" in PAGE


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_export_format_is_listed(name: str) -> None:
    [row] = [line for line in PAGE.splitlines() if "/transcript?format" in line]
    assert f"`{name}`" in row
