"""``captiond serve`` knows every setting and refuses the rest in words."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server.commands import app
from server.commands.serve import WRONG_USAGE
from server.config import Settings, flag_of, variable_of
from server.engines.errors import EngineUnavailable
from server.systemd import SystemdError

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
VALUES = {
    "host": "127.0.0.2",
    "api_keys": "ann:0123456789abcdef",
    "store_synchronous": "normal",
    "log_level": "error",
    "log_format": "json",
    "asr_options": "beams=1",
    "vad_options": "speed=2",
    "diarizer_options": "speed=2",
    "window_cap_s": "25",
    "buffer_s": "90",
    "hop_ms": "500",
    "hop_ms_min": "300",
    "endpointing_ms": "700",
    "preset": "fast",
    "stability": "4",
    "encoder_context": "fast",
}
"""Flags that do not take just any number or text."""


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable_of(field), raising=False)
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings of the servers that would have run."""
    servers: list[Settings] = []
    # The package has the command under the module's name.
    monkeypatch.setattr(sys.modules["server.commands.serve"], "run_server", servers.append)
    return servers


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments], terminal_width=400)
    return result.exit_code, result.output


def plain(text: str) -> str:
    """Without colours and frames."""
    return re.sub(r"\x1b\[[0-9;]*m|[│╭╮╰╯─]", "", text)


def test_help_names_each_option_and_its_default() -> None:
    status, output = run("serve", "--help")
    assert status == 0
    text = " ".join(plain(output).split())
    for name, field in Settings.model_fields.items():
        assert flag_of(name) in text
        default = field.get_default(call_default_factory=True)
        if default not in (None, (), {}, False):
            assert f"(default: {default})" in text, name


def values(field: str, folder: Path) -> list[str]:
    if Settings.model_fields[field].annotation is bool:
        return []
    together = {
        "tls_cert": ["cert.pem", "--tls-key", "key.pem"],
        "tls_key": ["key.pem", "--tls-cert", "cert.pem"],
        "final_context": ["calibrated", "--calibration-file", "measured.json"],
    }
    if field in together:
        return together[field]
    if field == "api_keys_file":
        keys = folder / "keys"
        keys.write_text("ben:fedcba9876543210\n")
        return [str(keys)]
    return [VALUES.get(field, "7")]


@pytest.mark.parametrize("field", Settings.model_fields)
def test_each_documented_flag_is_accepted(
    field: str, started: list[Settings], tmp_path: Path
) -> None:
    flag = flag_of(field)
    assert f"| `{flag}` |" in PAGE.read_text()
    status, output = run("serve", flag, *values(field, tmp_path))
    assert status == 0, output
    (settings,) = started
    assert getattr(settings, field) != Settings.model_fields[field].get_default(
        call_default_factory=True
    )


def test_flags_may_be_repeated(started: list[Settings]) -> None:
    origins = ("https://a.example", "https://b.example")
    given = [part for origin in origins for part in ("--allowed-origins", origin)]
    assert run("serve", *given)[0] == 0
    assert started[0].allowed_origins == origins


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--port", "many"], "port (--port, CAPTIOND_PORT)"),
        (["--sessions-max", "0"], "sessions_max (--sessions-max"),
        (["--host", "0.0.0.0"], "no API key is set"),
        (["--config", "/nowhere/captiond.toml"], "cannot read config file"),
    ],
)
def test_wrong_values_get_one_line(
    arguments: list[str], advice: str, started: list[Settings]
) -> None:
    status, output = run("serve", *arguments)
    assert status == WRONG_USAGE
    assert advice in output
    assert output.count("\n") == 1
    assert started == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--prot", "1"], "no such option: --prot; did you mean --port? (captiond serve"),
        (["stream", "a.wav", "--forma", "srt"], "--forma; did you mean --format?"),
        (["config", "--zzz"], "no such option: --zzz (captiond config --help lists all)"),
        (["srve"], "no such command 'srve'. Did you mean 'serve'"),
        (["--milk"], "no such option: --milk (captiond --help lists all)"),
        (["serve", "--port"], "option '--port' requires an argument"),
        (["stream"], "missing argument"),
    ],
)
def test_a_wrong_command_line_gets_one_line_with_the_nearest_word(
    arguments: list[str], said: str, started: list[Settings]
) -> None:
    status, output = run(*arguments)
    assert status == WRONG_USAGE
    assert said in output
    assert output.startswith("captiond: ")
    assert output.count("\n") == 1
    assert started == []


def test_without_a_command_the_help_is_shown() -> None:
    _, output = run()
    assert all(name in plain(output) for name in ("serve", "stream", "doctor", "config"))


def test_a_certificate_that_cannot_be_used_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.telemetry.configure_logging", lambda *_: None)
    cert = str(tmp_path / "cert.pem")
    status, output = run("serve", "--tls-cert", cert, "--tls-key", cert)
    assert status == 1
    assert output == f"captiond: tls_cert: cannot read {cert}: No such file or directory\n"


def test_version() -> None:
    status, output = run("--version")
    assert status == 0
    assert re.fullmatch(r"captiond \S+\n", output)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (EngineUnavailable("no checkpoint there"), "captiond: no checkpoint there"),
        (SystemdError("no listening TCP socket"), "captiond: no listening TCP socket"),
        (OSError(98, "Address already in use"), "cannot listen on 127.0.0.1:8710: Address"),
    ],
)
def test_a_server_that_cannot_run_says_why(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(coroutine: Any) -> None:
        coroutine.close()
        raise error

    monkeypatch.setattr("uvloop.run", fail)
    monkeypatch.setattr("server.telemetry.configure_logging", lambda *_: None)
    status, output = run("serve")
    assert status == 1
    assert line in output
