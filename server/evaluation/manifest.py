"""Which recordings are to be evaluated: one JSON object per line.

    {"audio": "a.flac", "text": "a.txt", "stm": "a.stm", "rttm": "a.rttm", "ctm": "a.ctm",
     "language": "en"}

Only ``audio`` is needed; paths are relative to the manifest. A bad line is an entry with a
problem, so that the others still run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

PATH_KEYS = ("audio", "text", "stm", "rttm", "ctm")
KEYS = frozenset({*PATH_KEYS, "language"})


class EvaluationError(Exception):
    """A recording, or its truth, cannot be used; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One line of the manifest."""

    name: str
    """As written there; results carry it."""
    audio: Path
    text: Path | None = None
    stm: Path | None = None
    rttm: Path | None = None
    ctm: Path | None = None
    language: str | None = None


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no recording."""

    name: str
    problem: str


def read_manifest(path: Path) -> list[Recording | BadLine]:
    """Raises: EvaluationError where the file cannot be read or holds nothing."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise EvaluationError(f"cannot read {path}: {error.strerror}") from None
    entries = [
        _entry(line, f"line {number}", path.parent)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not entries:
        raise EvaluationError(f"{path} holds no recording; write one JSON object per line")
    return entries


def _entry(line: bytes, where: str, folder: Path) -> Recording | BadLine:
    try:
        fields: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return BadLine(where, f"not JSON ({error})")
    problem = _problem(fields)
    if problem is not None:
        return BadLine(where, problem)
    paths = {key: folder / fields[key] for key in PATH_KEYS if fields.get(key) is not None}
    return Recording(name=fields["audio"], language=fields.get("language"), **paths)


def _problem(fields: Any) -> str | None:
    if not isinstance(fields, dict) or not fields.get("audio"):
        return 'write a JSON object with an "audio" path'
    if unknown := sorted(fields.keys() - KEYS):
        return f"unknown {', '.join(unknown)}; known are {', '.join(sorted(KEYS))}"
    wrong = [key for key, value in fields.items() if not isinstance(value, str | None)]
    return f"{', '.join(wrong)} must be text" if wrong else None
