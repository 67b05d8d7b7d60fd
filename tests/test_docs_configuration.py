"""``docs/configuration.md`` lists every option as the program has it, and no other."""

import re
from pathlib import Path
from typing import Any

import pytest

from server.config import Settings, flag_of, variable_of
from server.engines import whisper_options
from server.presets import PRESETS
from server.settings_sources import load_settings

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


@pytest.mark.parametrize("preset", PRESETS)
def test_the_table_of_presets_is_what_they_set(preset: str) -> None:
    lines = PAGE.read_text().splitlines()
    (header,) = [line for line in lines if line.startswith("| Preset |")]
    (row,) = [line for line in lines if line.startswith(f"| `{preset}` |")]
    fields, values = ([cell.strip() for cell in line.split("|")[2:-2]] for line in (header, row))
    shown = dict(zip(fields, values, strict=True))
    assert shown == {f"`{field}`": f"{value:g}" for field, value in PRESETS[preset].items()}  # type: ignore[index]


def test_the_example_file_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable_of(field), raising=False)
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    keys = tmp_path / "keys"
    keys.write_text("newsroom:0123456789abcdef\n")
    path = tmp_path / "captiond.toml"
    path.write_text(example.replace("/etc/captiond/keys", str(keys)))
    settings = load_settings(path, {})
    assert settings.api_keys_file == keys
    assert settings.asr_options.keys() <= set(whisper_options.NAMES), "no engine would start"
