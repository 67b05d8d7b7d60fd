"""``captiond config``: effective settings with their sources, in three forms, without secrets."""

import json
import tomllib
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from server.commands import app
from server.commands.config import as_table
from server.config import Settings, flag_of, variable_of
from server.settings_sources import load_settings, load_sourced_settings

KEY = "0123456789abcdef-of-alice"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable_of(field), raising=False)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["config", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_each_setting_has_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "captiond.toml"
    path.write_text('log_format = "json"\n')
    monkeypatch.setenv("CAPTIOND_PORT", "2")
    rows = json.loads(run("--json", "--config", str(path), "--preset", "fast", "--hop-ms", "300"))
    assert set(rows) == set(Settings.model_fields)
    said = {name: (row["value"], row["source"]) for name, row in rows.items()}
    assert said["hop_ms"] == (300, "flag")
    assert said["port"] == (2, "environment")
    assert said["log_format"] == ("json", "file")
    assert said["endpointing_ms"] == (400, "preset")
    assert said["host"] == ("127.0.0.1", "default")
    assert (rows["store_url"]["flag"], rows["port"]["variable"]) == ("--store", "CAPTIOND_PORT")


def test_the_toml_is_a_file_that_says_the_same(tmp_path: Path) -> None:
    options = ["--preset", "accurate", "--asr-options", 'a=1,b="x"', "--allowed-hosts", "a.example"]
    text = run(*options)
    path = tmp_path / "captiond.toml"
    path.write_text(text)
    again = load_settings(path, {})
    assert again.model_dump() == {
        **Settings().model_dump(),
        "preset": "accurate",
        "endpointing_ms": 1000,
        "window_cap_s": 28.0,
        "stability": 3,
        "asr_options": {"a": 1, "b": "x"},
        "allowed_hosts": ("a.example",),
    }
    assert "endpointing_ms = 1000  # preset" in text
    assert 'preset = "accurate"  # flag --preset' in text
    assert "# asr_model is unset" in text


@pytest.mark.parametrize(
    "rest", ["u:of/mine@host/db", "u:of@mine@host/db", "u@host/db?password=of/mine&a=1"]
)
def test_a_password_in_a_url_is_hidden(rest: str) -> None:
    lines = run("--store", f"postgresql://{rest}").splitlines()
    (line,) = (line for line in lines if "store_url" in line)
    assert "mine" not in line
    assert "(hidden)" in line
    assert "host/db" in line


def test_secrets_are_hidden_in_every_form() -> None:
    secrets = ["--api-keys", f"alice:{KEY}", "--asr-options", "hf_token=of_mine,beams=2"]
    text = run(*secrets)
    as_json = run("--json", *secrets)
    flags = {"api_keys": [f"alice:{KEY}"], "asr_options": "hf_token=of_mine,beams=2"}
    console = Console(width=200)
    with console.capture() as capture:
        console.print(as_table(load_sourced_settings(None, flags)))
    for output in (text, as_json, capture.get()):
        assert KEY not in output
        assert "of_mine" not in output
        assert "alice" in output
    tomllib.loads(text)


def test_the_table_names_each_option_and_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAPTIOND_PORT", "2")
    console = Console(width=200)
    with console.capture() as capture:
        console.print(as_table(load_sourced_settings(None, {"hop_ms": 300})))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["port", "2", "environment", "CAPTIOND_PORT"] in lines
    assert ["hop_ms", "300", "flag", flag_of("hop_ms")] in lines
    assert {line[0] for line in lines[1:]} == set(Settings.model_fields)


def test_what_cannot_be_used_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, ["config", "--port", "many"])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    monkeypatch.setenv("CAPTIOND_PRT", "1")
    assert "no such option: CAPTIOND_PRT" in run()
