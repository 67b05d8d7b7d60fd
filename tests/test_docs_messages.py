"""The pages on protocol and operations name every field and value that clients may meet."""

import json
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import pytest

from clients import reconnect
from server.live import Ending
from server.settings_sources import Source
from streaming import events, wire
from streaming.errors import CaptiondError

ROOT = Path(__file__).parents[1]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text("utf-8")
NORMAL_CLOSE_CODES = {1000, 1006}


def examples() -> list[dict[str, Any]]:
    """Every server message that is shown."""
    blocks = re.findall(r"```messages\n(.*?)```", PROTOCOL, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("← {")]
    return [json.loads(line[2:]) for line in lines]


def keys_of(value: Any) -> Iterator[str]:
    """At every depth."""
    if isinstance(value, dict):
        yield from value
        for item in value.values():
            yield from keys_of(item)
    elif isinstance(value, list):
        for item in value:
            yield from keys_of(item)


def names_in(text: str) -> set[str]:
    """Words in code style, also where several stand together as in ``{p50, p95}``."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", code)}


TYPES = sorted({example["type"] for example in examples()})


@pytest.mark.parametrize("kind", TYPES)
def test_every_field_of_a_server_message_is_explained(kind: str) -> None:
    prose = re.sub(r"```.*?```", "", PROTOCOL, flags=re.DOTALL)
    shown = {key for example in examples() if example["type"] == kind for key in keys_of(example)}
    stages = {stage.value for stage in events.SessionStage}
    assert sorted(shown - names_in(prose) - stages) == []


@pytest.mark.parametrize("kind", [events.GapReason, events.SessionStage, events.ServerPart])
def test_every_value_that_a_field_may_have_is_listed(kind: type[Enum]) -> None:
    assert [item.value for item in kind if f'`"{item.value}"`' not in PROTOCOL] == []


def test_every_encoding_and_task_is_listed() -> None:
    task = wire.Start.model_fields["task"].annotation
    for value in (*get_args(wire.Encoding), *get_args(task)):
        assert f'`"{value}"`' in PROTOCOL


def every_close_code(base: type[CaptiondError] = CaptiondError) -> set[int]:
    own = {base.close_code} if "close_code" in vars(base) else set()
    return own.union(*(every_close_code(child) for child in base.__subclasses__()))


def test_every_close_code_is_documented() -> None:
    codes = every_close_code() | NORMAL_CLOSE_CODES | reconnect.FEW_TRIES_CODES
    assert {1012, 1013, 4401} <= codes
    assert sorted(code for code in codes if not re.search(rf"\b{code}\b", PROTOCOL)) == []


def test_every_outcome_of_a_session_is_documented() -> None:
    (row,) = [line for line in OPERATIONS.splitlines() if "`captiond_sessions_total`" in line]
    assert {*get_args(Ending), "refused"} <= names_in(row)


def test_every_source_of_a_setting_is_documented() -> None:
    assert [source.value for source in Source if source.value not in CONFIGURATION] == []
