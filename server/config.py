"""The server's settings: where each comes from, its range, and what may not be combined.

Owns: names, defaults and meanings of all options (``docs/configuration.md`` is checked against
them), the order flags > environment > file > defaults, and error messages for operators.
May not know: what any part of the server does with a setting.
Invariants: G1 settings never change after start; G2 nothing reads the environment later (making
a ``Settings`` does not read it at all, only ``load_settings`` does); G3 no key is ever shown by
``repr``, in an error message or in a log.
"""

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

ENVIRONMENT_PREFIX = "CAPTIOND_"
STORE_SCHEME = "sqlite+aiosqlite"
KEY_CHARACTERS_MIN = 16
"""Keys are compared by their SHA-256 alone, without a slow hash, so they must not be guessable."""
WINDOW_CAP_S_MAX = 30
"""Whisper's encoder ends at 30 s."""

BUFFER_MARGIN_S = 10
"""Beyond the longest window: its left context, and what arrives while it is decoded."""


class ConfigError(Exception):
    """Settings that cannot be used; the message is one line for the operator."""


def _listed(value: Any) -> Any:
    """A list from an environment variable: JSON, or items between commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return _json(value)
    return [item.strip() for item in value.split(",") if item.strip()]


def _mapped(value: Any) -> Any:
    """A mapping from JSON, or from ``name=value`` items (a list, or between commas)."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return _json(value)
    items = _listed(value)
    if not isinstance(items, list | tuple):
        return items
    return dict(_name_and_value(item) for item in items)


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None


def _name_and_value(item: Any) -> tuple[str, Any]:
    name, separator, text = str(item).partition("=")
    if not (name.strip() and separator):
        raise ValueError("write each item as name=value")
    try:
        return name.strip(), orjson.loads(text)
    except orjson.JSONDecodeError:
        return name.strip(), text.strip()


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_listed)]
Keys = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_listed)]
EngineOptions = Annotated[dict[str, Any], NoDecode, BeforeValidator(_mapped)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """Everything an operator can set; each field's description is its documentation."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8710, ge=0, le=65535, description="port to listen on; 0 takes a free one")

    asr: str = Field("auto", min_length=1, description="speech recognition engine")
    asr_model: str | None = Field(
        None, min_length=1, description="checkpoint folder or hub id for the recognition engine"
    )
    asr_options: EngineOptions = Field(
        {}, description="further options of the recognition engine, as name=value"
    )
    asr_workers: Count = Field(1, description="recognition processes")
    diarizer: str = Field("embedded", min_length=1, description="diarizer; `none` turns it off")
    vad: str = Field("auto", min_length=1, description="voice activity engine")
    vad_options: EngineOptions = Field(
        {}, description="further options of the voice activity engine, as name=value"
    )
    diarizer_options: EngineOptions = Field(
        {}, description="further options of the diarizer, as name=value"
    )
    call_timeout_s: Seconds = Field(
        15,
        description="an engine that has not answered after this, and three times as long as the "
        "audio asked about, is killed and replaced",
    )
    threads: Count | None = Field(
        None, description="compute threads of all workers together; unset: what the machine allows"
    )

    store_url: str = Field(
        f"{STORE_SCHEME}:///captiond.db",
        min_length=1,
        description="transcript store: a file path or an SQLAlchemy URL",
    )
    store_synchronous: Literal["full", "normal"] = Field(
        "full",
        description="`normal` is faster; it survives a crash of the server, "
        "but a power cut may lose the last commits",
    )

    api_keys: Keys = Field((), description="accepted keys, each as name:key; names may repeat")
    api_keys_file: Path | None = Field(
        None, description="file with one name:key per line, added to api_keys"
    )
    allowed_origins: Names = Field(
        (), description="web origins allowed besides the server's own, such as https://example.org"
    )
    allowed_hosts: Names = Field(
        (), description="Host names allowed besides loopback and the listening address"
    )
    insecure: bool = Field(
        False, description="allow a listening address that others can reach without any API key"
    )

    sessions_max: Count = Field(200, description="sessions at once")
    sessions_per_key_max: Count | None = Field(
        None, description="sessions at once per key name; unset: only the common limit"
    )
    resume_window_s: Seconds = Field(
        120, description="how long a session waits for its client to come back"
    )
    idle_timeout_s: Seconds = Field(
        60, description="a connection that sends no message for so long is closed"
    )
    handshake_timeout_s: Seconds = Field(
        10, description="a new connection must send its first message within this time"
    )
    drain_s: Seconds = Field(25, description="at SIGTERM, longest time to finish what was received")
    buffer_s: Seconds = Field(
        120, description="audio that a client may send ahead of what is stored (its credit)"
    )
    packets_per_second_max: Count = Field(
        500, description="messages per second and connection, empty ones included"
    )

    hop_ms: int = Field(1000, ge=100, le=10_000, description="audio between two partials")
    endpointing_ms: int = Field(
        600, ge=100, le=10_000, description="silence that ends an utterance"
    )
    window_cap_s: float = Field(
        20, ge=5, le=WINDOW_CAP_S_MAX, description="longest window in speech without a pause"
    )
    batch_windows_max: Count = Field(8, description="windows in one call of an engine")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe messages that are logged"
    )
    log_format: Literal["console", "json"] = Field(
        "console", description="`json`: one object per line, for log collectors"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments only (G2): ``load_settings`` merges the other sources into them."""
        return (init_settings,)

    @field_validator("store_url")
    @classmethod
    def _store_url_from_path(cls, value: str) -> str:
        scheme, separator, rest = value.partition("://")
        if not separator:
            return f"{STORE_SCHEME}:///{value}"
        if scheme not in ("sqlite", STORE_SCHEME):
            raise ValueError(f"only SQLite is supported; give a path or {STORE_SCHEME}:///path")
        return f"{STORE_SCHEME}://{rest}"

    @field_validator("api_keys")
    @classmethod
    def _keys_are_usable(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        pairs = [name_and_key(secret) for secret in value]
        for number, (name, key) in enumerate(pairs, start=1):
            if not (name and key):
                raise ValueError(f"item {number} is not name:key")
            if len(key) < KEY_CHARACTERS_MIN:
                raise ValueError(
                    f"the key of {name!r} is shorter than {KEY_CHARACTERS_MIN} characters; "
                    "make one with: openssl rand -hex 16"
                )
        if len({key for _, key in pairs}) < len(pairs):
            raise ValueError("the same key is given twice; give each name its own")
        return value

    @model_validator(mode="after")
    def _buffer_holds_a_window(self) -> Self:
        """Speech without a pause stays in the buffer until a window is full and decoded."""
        least_s = self.window_cap_s + BUFFER_MARGIN_S
        if self.buffer_s < least_s:
            raise ValueError(
                f"buffer_s {self.buffer_s:g} cannot hold a window of {self.window_cap_s:g} s; give "
                f"at least {least_s:g}, or lower window_cap_s"
            )
        return self

    @model_validator(mode="after")
    def _is_not_open_to_everyone(self) -> Self:
        if self.api_keys or self.insecure or is_loopback(self.host):
            return self
        raise ValueError(
            f"host {self.host} can be reached from other machines and no API key is set: "
            "set api_keys or api_keys_file, listen on 127.0.0.1, or accept that anyone may "
            "connect with insecure"
        )


def flag_of(field: str) -> str:
    """The command-line flag of a field of ``Settings``."""
    return "--store" if field == "store_url" else "--" + field.replace("_", "-")


def variable_of(field: str) -> str:
    """The environment variable of a field of ``Settings``."""
    return ENVIRONMENT_PREFIX + field.upper()


def name_and_key(secret: SecretStr) -> tuple[str, str]:
    """An item of ``api_keys`` as (tenant, key)."""
    name, _, key = secret.get_secret_value().partition(":")
    return name.strip(), key.strip()


def is_loopback(host: str) -> bool:
    """True where only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_settings(config_file: Path | None, flags: Mapping[str, Any]) -> Settings:
    """Merge flags (by field name, only those given), environment, file and defaults.

    Raises: ConfigError, with one line that names the option and says what is wrong with it.
    """
    given = {**_file_values(config_file), **EnvSettingsSource(Settings)(), **flags}
    try:
        return Settings(**_with_key_file(given))
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Variables with our prefix that are no option: perhaps misspelt, so start-up warns of them."""
    known = {variable_of(field) for field in Settings.model_fields}
    ours = (name for name in environment if name.upper().startswith(ENVIRONMENT_PREFIX))
    return sorted(name for name in ours if name.upper() not in known)


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
        return list(_listed(given.get("api_keys", ())))
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
