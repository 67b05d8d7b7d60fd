"""Settings: order of sources, ranges, refusals that name the option, and keys that stay secret."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from server.config import (
    KEY_CHARACTERS_MIN,
    ConfigError,
    Settings,
    name_and_key,
    variable_of,
)
from server.presets import PRESETS
from server.settings_sources import (
    Source,
    load_settings,
    load_sourced_settings,
    settings_of_command_line,
    unknown_variables,
)

KEY = "0123456789abcdef-of-alice"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(variable_of(field), raising=False)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "captiond.toml"
    path.write_text(
        'port = 1\nhop_ms = 500\nlog_level = "error"\nallowed_hosts = ["a.example"]\n'
        "[asr_options]\nbeams = 2\n"
    )
    return path


def test_flags_beat_environment_beats_file_beats_defaults(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIOND_PORT", "2")
    monkeypatch.setenv("CAPTIOND_HOP_MS", "700")
    settings = load_settings(toml, {"port": 3})
    assert (settings.port, settings.hop_ms, settings.log_level) == (3, 700, "error")
    assert settings.endpointing_ms == Settings().endpointing_ms
    assert settings.allowed_hosts == ("a.example",)
    assert settings.asr_options == {"beams": 2}


def test_an_empty_variable_is_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIOND_PORT", "")
    assert load_settings(None, {}).port == Settings().port


def test_making_settings_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIOND_PORT", "2")
    assert Settings().port == 8710


@pytest.mark.parametrize(
    "text", ["https://a.example, https://b.example", '["https://a.example","https://b.example"]']
)
def test_lists_in_the_environment_are_json_or_between_commas(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIOND_ALLOWED_ORIGINS", text)
    assert load_settings(None, {}).allowed_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    "given",
    [
        *('{"beams":2,"mode":"fast"}', "beams=2,mode=fast", ["beams=2", "mode=fast"]),
        *(["beams=2,mode=fast"], ['{"beams":2,"mode":"fast"}']),
    ],
)
def test_engine_options_are_json_or_pairs(given: Any) -> None:
    assert load_settings(None, {"asr_options": given}).asr_options == {"beams": 2, "mode": "fast"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"port": 70_000}, ["port", "--port", "CAPTIOND_PORT", "65535"]),
        ({"store_synchronous": "off"}, ["store_synchronous", "full"]),
        ({"idle_timeout_s": "inf"}, ["idle_timeout_s"]),
        ({"log_level": "loud"}, ["log_level", "debug"]),
        ({"asr_options": "beams"}, ["asr_options", "name=value"]),
        ({"asr_options": "{beams"}, ["asr_options", "not JSON"]),
        ({"asr_options": 5}, ["asr_options", "dictionary"]),
        ({"allowed_hosts": "[1"}, ["allowed_hosts", "not JSON"]),
        ({"prot": 8710}, ["unknown option prot"]),
        ({"store_url": "mysql://db/x"}, ["--store", "SQLite"]),
        ({"api_keys": "alice"}, ["api_keys", "name:key"]),
        ({"api_keys": [f"alice:{KEY}", f"bob:{KEY}"]}, ["api_keys", "twice"]),
        ({"api_keys": ["alice:short"]}, ["alice", str(KEY_CHARACTERS_MIN), "openssl"]),
        ({"host": "0.0.0.0"}, ["host 0.0.0.0", "api_keys", "127.0.0.1", "insecure"]),
        ({"host": "captions.example"}, ["api_keys"]),
        ({"preset": "quick"}, ["preset", "--preset", "balanced"]),
        ({"tls_cert": "cert.pem"}, ["tls_key", "both"]),
        ({"final_context": "calibrated"}, ["calibration_file"]),
        ({"hop_ms": 9_000, "window_cap_s": 10}, ["hop_ms", "window_cap_s", "more than 10"]),
    ],
)
def test_a_bad_value_gets_one_line_that_names_the_option(
    flags: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(None, flags)
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in said if part not in message] == []


def test_two_bad_values_are_both_named() -> None:
    with pytest.raises(ConfigError, match=r"port.*; hop_ms"):
        load_settings(None, {"port": -1, "hop_ms": 1})


@pytest.mark.parametrize(
    "flags",
    [
        {"host": "0.0.0.0", "insecure": True},
        {"host": "0.0.0.0", "api_keys": f"alice:{KEY}"},
        {"host": "127.0.0.9"},
        {"host": "::1"},
        {"host": "localhost"},
    ],
)
def test_safe_or_accepted_listening_addresses(flags: dict[str, Any]) -> None:
    assert load_settings(None, flags).host == flags["host"]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("captions.db", "sqlite+aiosqlite:///captions.db"),
        ("/var/lib/captiond/c.db", "sqlite+aiosqlite:////var/lib/captiond/c.db"),
        ("sqlite:///c.db", "sqlite+aiosqlite:///c.db"),
        ("sqlite+aiosqlite:///c.db", "sqlite+aiosqlite:///c.db"),
    ],
)
def test_a_store_is_a_path_or_a_url(given: str, url: str) -> None:
    assert load_settings(None, {"store_url": given}).store_url == url


def test_keys_of_the_file_are_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# who: key\n\nbob:{KEY}-of-bob\nbob:{KEY}-new\n")
    monkeypatch.setenv("CAPTIOND_API_KEYS", f"alice:{KEY}")
    settings = load_settings(None, {"api_keys_file": path})
    assert [name_and_key(key)[0] for key in settings.api_keys] == ["alice", "bob", "bob"]


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "no key"), (b"\xff\xfe\xfa", "UTF-8"), (None, "No such file")]
)
def test_a_key_file_that_cannot_be_used(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load_settings(None, {"api_keys_file": str(path)})


@pytest.mark.parametrize("keys", [5, "[1"])
def test_keys_that_are_no_list_beside_a_key_file(tmp_path: Path, keys: Any) -> None:
    path = tmp_path / "keys"
    path.write_text(f"bob:{KEY}\n")
    with pytest.raises(ConfigError, match="api_keys: give a list"):
        load_settings(None, {"api_keys": keys, "api_keys_file": path})


@pytest.mark.parametrize(("content", "said"), [("port 1", "not TOML"), (None, "cannot read")])
def test_a_config_file_that_cannot_be_used(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "captiond.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load_settings(path, {})


def test_keys_never_show(tmp_path: Path) -> None:
    settings = load_settings(None, {"api_keys": [f"alice:{KEY}"]})
    assert KEY not in repr(settings) + str(settings) + settings.model_dump_json()
    for keys in ([f"alice:{KEY}", f"bob:{KEY}"], [KEY], {"alice": KEY}):
        with pytest.raises(ConfigError) as caught:
            load_settings(None, {"api_keys": keys})
        assert KEY not in str(caught.value)
        assert caught.value.__cause__ is None


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_misspelt_variables_are_found() -> None:
    environment = {"CAPTIOND_PRT": "1", "CAPTIOND_PORT": "1", "CAPTIOND_URL": "x", "HOME": "/"}
    assert unknown_variables(environment) == ["CAPTIOND_PRT"]


def test_the_buffer_must_hold_the_longest_window() -> None:
    with pytest.raises(ConfigError, match=r"buffer_s 20 cannot hold a window of 20 s.*30"):
        load_settings(None, {"buffer_s": 20})
    assert load_settings(None, {"buffer_s": 20, "window_cap_s": 10}).buffer_s == 20


def test_the_balanced_preset_is_the_defaults() -> None:
    defaults = {name: getattr(Settings(), name) for name in PRESETS["balanced"]}
    assert PRESETS["balanced"] == defaults
    assert len({frozenset(values) for values in PRESETS.values()}) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_gives_way_to_every_other_source(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "captiond.toml"
    path.write_text(f'preset = "{preset}"\nhop_ms = 901\n')
    monkeypatch.setenv("CAPTIOND_ENDPOINTING_MS", "902")
    sourced = load_sourced_settings(path, {"window_cap_s": 9.5})
    settings = sourced.settings
    assert (settings.hop_ms, settings.endpointing_ms, settings.window_cap_s) == (901, 902, 9.5)
    assert settings.stability == PRESETS[settings.preset]["stability"]
    fields = ("window_cap_s", "endpointing_ms", "hop_ms", "stability", "port")
    assert [sourced.sources[field] for field in fields] == list(Source)


def test_a_preset_may_come_from_any_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPTIOND_PRESET", "fast")
    assert load_settings(None, {}).hop_ms == PRESETS["fast"]["hop_ms"]
    assert load_settings(None, {"preset": "accurate"}).stability == 3


def test_a_command_line_means_what_serve_would_make_of_it(toml: Path) -> None:
    words = ["--config", str(toml), "--store", "x.db", "--port=9", "--stable-only"]
    words += ["--asr-options", "beams=4", "--asr-options", "mode=fast", "--no-insecure"]
    settings = settings_of_command_line(words)
    assert settings.store_url.endswith("/x.db")
    assert (settings.port, settings.hop_ms, settings.stable_only) == (9, 500, True)
    assert settings.asr_options == {"beams": 4, "mode": "fast"}
    assert not settings.insecure


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stor", "x"], "--stor; did you mean --store"),
        (["x"], "no such option of captiond serve: x"),
        (["--port"], "--port needs a value"),
        (["--no-insecure=true"], "--no-insecure takes no value"),
    ],
)
def test_words_that_serve_does_not_have_are_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_of_command_line(words)
