"""``docs/configuration.md`` lists every option as the program has it, and no other."""

import re
from pathlib import Path
from typing import Any

import pytest

from server.config import Settings, flag_of, load_settings, variable_of

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def table_rows() -> list[str]:
    """Lines of the option tables: those that start with a flag."""
    return [line for line in PAGE.read_text().splitlines() if line.startswith("| `--")]


def shown_default(value: Any) -> str:
    match value:
        case None | () | {}:
            return "unset"
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:g}`"
        case _:
            return f"`{value}`"


def documented_row(field: str) -> str:
    info = Settings.model_fields[field]
    default = shown_default(info.default)
    return f"| `{flag_of(field)}` | `{variable_of(field)}` | {default} | {info.description} |"


def test_the_tables_are_the_settings() -> None:
    wanted = {documented_row(field) for field in Settings.model_fields}
    found = table_rows()
    assert sorted(wanted - set(found)) == [], "add these rows"
    assert sorted(set(found) - wanted) == [], "remove these rows"
    assert len(found) == len(wanted), "an option stands there twice"


def test_the_example_file_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable_of(field), raising=False)
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    keys = tmp_path / "keys"
    keys.write_text("newsroom:0123456789abcdef\n")
    path = tmp_path / "captiond.toml"
    path.write_text(example.replace("/etc/captiond/keys", str(keys)))
    assert load_settings(path, {}).api_keys_file == keys
