"""Where settings come from: flags > environment > file > preset > defaults.

Owns: reading the sources, merging them, remembering for each option which one won, and the one
line for an operator whose settings cannot be used. May not know: what an option means.
Invariant: nothing here runs again after the start (G2 in ``server/config.py``).
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from server.config import (
    ENVIRONMENT_PREFIX,
    ConfigError,
    Settings,
    flag_of,
    is_repeatable,
    variable_of,
)
from server.presets import PRESETS
from server.setting_types import listed


class Source(Enum):
    """Who decided an option; the value is the word for people."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    PRESET = "preset"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class SourcedSettings:
    """Effective settings, and where each of them comes from."""

    settings: Settings
    sources: dict[str, Source]
    """Every field of ``Settings``."""


def load_settings(config_file: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Merge flags (by field name, only those given), environment, file, preset and defaults.

    Raises: ConfigError, with one line that names the option and says what is wrong with it.
    """
    return load_sourced_settings(config_file, flags).settings


def load_sourced_settings(config_file: Path | None, flags: Mapping[str, Any]) -> SourcedSettings:
    """As ``load_settings``, with the source of each option."""
    layers: list[tuple[Source, Mapping[str, Any]]] = [
        (Source.FILE, _file_values(config_file)),
        (Source.ENVIRONMENT, EnvSettingsSource(Settings)()),
        (Source.FLAG, flags),
    ]
    given = _merged(layers)
    layers.insert(0, (Source.PRESET, _preset_values(given.get("preset"))))
    try:
        settings = Settings(**_with_key_file(_merged(layers)))
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None
    won = {field: source for source, values in layers for field in values}
    sources = {field: won.get(field, Source.DEFAULT) for field in Settings.model_fields}
    return SourcedSettings(settings, sources)


def settings_of_command_line(words: Sequence[str]) -> Settings:
    """What ``captiond serve`` would make of these words. Raises: ConfigError."""
    flags: dict[str, Any] = {}
    config_file = None
    left = iter(words)
    for word in left:
        flag, has_value, value = word.partition("=")
        field = _FIELD_OF.get(flag)
        if field in _SWITCHES and has_value and flag.startswith("--no-"):
            raise ConfigError(f"{flag} takes no value; leave {value} out")
        if field in _SWITCHES and not has_value:
            flags[field] = not flag.startswith("--no-")
            continue
        if field is None and flag != "--config":
            near = nearest(flag, [*_FIELD_OF, "--config"])
            raise ConfigError(f"no such option of captiond serve: {flag}{near}")
        if not has_value and (value := next(left, "")) == "":
            raise ConfigError(f"{flag} needs a value")
        if field is None:
            config_file = Path(value)
        elif field in _LISTS:
            flags[field] = [*flags.get(field, []), value]
        else:
            flags[field] = value
    return load_settings(config_file, flags)


_SWITCHES = {name for name, info in Settings.model_fields.items() if info.annotation is bool}
_LISTS = {name for name, info in Settings.model_fields.items() if is_repeatable(info)}
_FIELD_OF = {flag_of(name): name for name in Settings.model_fields} | {
    f"--no-{flag_of(name)[2:]}": name for name in _SWITCHES
}


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the known word that was perhaps meant, for the end of a message; or nothing."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Variables with our prefix that are no option: perhaps misspelt, so start-up warns of them."""
    known = {variable_of(field) for field in Settings.model_fields}
    ours = (name for name in environment if name.upper().startswith(ENVIRONMENT_PREFIX))
    return sorted(name for name in ours if name.upper() not in known | CLIENT_VARIABLES)


CLIENT_VARIABLES = frozenset({"CAPTIOND_URL", "CAPTIOND_API_KEY"})
"""Of ``captiond stream`` and its like: a server that is started beside them need not warn."""


def _merged(layers: list[tuple[Source, Mapping[str, Any]]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for _, values in layers:
        merged.update(values)
    return merged


def _preset_values(name: Any) -> Mapping[str, Any]:
    """Nothing for a name that is none: ``Settings`` complains of it."""
    return next((values for known, values in PRESETS.items() if known == name), {})


def _file_values(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read config file {path}: {error.strerror}") from None
    except ValueError as error:  # TOML or UTF-8
        raise ConfigError(f"config file {path} is not TOML: {error}") from None


def _with_key_file(given: dict[str, Any]) -> dict[str, Any]:
    path = given.get("api_keys_file")
    if path is None:
        return given
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"api_keys_file: cannot read {path}: {reason}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ConfigError(f"api_keys_file: {path} holds no key; write one name:key per line")
    return {**given, "api_keys": [*_given_keys(given), *keys]}


def _given_keys(given: dict[str, Any]) -> list[Any]:
    try:
        return list(listed(given.get("api_keys", ())))
    except (ValueError, TypeError):
        raise ConfigError("api_keys: give a list of name:key") from None


def _one_line(error: ValidationError) -> str:
    complaints = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        ": ".join(filter(None, (_place(item["loc"]), item["msg"].removeprefix("Value error, "))))
        for item in complaints
    )


def _place(location: tuple[int | str, ...]) -> str:
    if not location:
        return ""
    name = str(location[0])
    if name not in Settings.model_fields:
        return f"unknown option {name}"
    return f"{name} ({flag_of(name)}, {variable_of(name)})"
