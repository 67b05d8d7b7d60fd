"""The server's settings: each with its meaning, its range, and what it may not be combined with.

Owns: names, defaults and meanings of all options (``docs/configuration.md`` is checked against
them). May not know: where values come from (``settings_sources.py``), nor what any part of the
server does with a setting.
Invariants: G1 settings never change after start; G2 nothing reads the environment later (making
a ``Settings`` does not read it at all, only ``load_settings`` does); G3 no key is ever shown by
``repr``, in an error message or in a log.
"""

import ipaddress
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from server.presets import Preset
from server.setting_types import Count, Days, EngineOptions, Keys, Names, Seconds
from streaming.pacing import THINNING_MAX
from streaming.tuning_ranges import (
    ENDPOINTING_MS_MAX,
    ENDPOINTING_MS_MIN,
    PARTIAL_INTERVAL_MS_MAX,
    PARTIAL_INTERVAL_MS_MIN,
    STABILITY_MAX,
)
from streaming.windows import WindowOptions

ENVIRONMENT_PREFIX = "CAPTIOND_"
STORE_SCHEME = "sqlite+aiosqlite"
POSTGRES_SCHEME = "postgresql+asyncpg"
KEY_CHARACTERS_MIN = 16
"""Keys are compared by their SHA-256 alone, without a slow hash, so they must not be guessable."""
WINDOW_CAP_S_MAX = 30
"""Whisper's encoder ends at 30 s."""

BUFFER_MARGIN_S = 10
"""Beyond the longest window: its left context, and what arrives while it is decoded."""


class ConfigError(Exception):
    """Settings that cannot be used; the message is one line for the operator."""


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
    tls_cert: Path | None = Field(
        None, description="PEM file with the certificate and its chain: the server speaks TLS"
    )
    tls_key: Path | None = Field(
        None, description="PEM file with the certificate's private key, not encrypted"
    )

    asr: str = Field("auto", min_length=1, description="speech recognition engine")
    asr_model: str | None = Field(
        None, min_length=1, description="checkpoint folder or hub id for the recognition engine"
    )
    asr_options: EngineOptions = Field(
        {}, description="further options of the recognition engine, as name=value"
    )
    encoder_context: Literal["exact", "fast"] | None = Field(
        None,
        description="what Whisper hears for a partial: `exact` is padded to 30 s, `fast` to a few "
        "seconds (10 where the checkpoint is not made for less); unset: `fast`",
    )
    final_context: Literal["exact", "calibrated"] | None = Field(
        None,
        description="how much Whisper hears for a final: `calibrated` what calibration_file "
        "allows; unset: `exact`",
    )
    calibration_file: Path | None = Field(
        None, description="what a shorter context costs this checkpoint, as measured"
    )
    asr_workers: Count | None = Field(
        None,
        description="recognition processes; unset: one for each processor where a checkpoint is no "
        "larger than whisper-base and runs on processors, else 1",
    )
    diarizer: str = Field("embedded", min_length=1, description="diarizer; `none` turns it off")
    diarizer_model: str | None = Field(
        None, min_length=1, description="pipeline folder or hub id for the diarizer, or `shipped`"
    )
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
        "audio asked about (four times this at most), is killed and replaced",
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

    retention_days: Days | None = Field(
        None, description="sessions are deleted so long after their end; unset: kept for ever"
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
    thinning_admitted: float = Field(
        2,
        ge=1,
        le=THINNING_MAX,
        description="no new session starts while it would let partials come less often than every "
        "so many hops",
    )
    memory_limit_mb: Count | None = Field(
        None,
        description="MiB that the server and its engines may use; no new session starts above "
        "85 % of it; unset: what the machine or container allows",
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
    drain_s: Seconds = Field(
        25, description="at SIGTERM, longest time to finish what is being said"
    )
    buffer_s: Seconds = Field(
        120, description="audio that a client may send ahead of what is stored (its credit)"
    )
    packets_per_second_max: Count = Field(
        500, description="messages per second and connection, empty ones included"
    )

    preset: Preset = Field(
        "balanced", description="`fast`, `balanced` or `accurate`: values for the options below"
    )
    hop_ms: int = Field(
        1000,
        ge=PARTIAL_INTERVAL_MS_MIN,
        le=PARTIAL_INTERVAL_MS_MAX,
        description="audio between two partials",
    )
    hop_ms_min: int = Field(
        200,
        ge=PARTIAL_INTERVAL_MS_MIN,
        le=PARTIAL_INTERVAL_MS_MAX,
        description="shortest partial interval that a session may ask for",
    )
    endpointing_ms: int = Field(
        600,
        ge=ENDPOINTING_MS_MIN,
        le=ENDPOINTING_MS_MAX,
        description="silence that ends an utterance",
    )
    window_cap_s: float = Field(
        20,
        ge=5,
        le=WINDOW_CAP_S_MAX,
        description="longest window in speech without a pause: so long may a word wait to be final",
    )
    stability: int = Field(
        2,
        ge=1,
        le=STABILITY_MAX,
        description="hypotheses in a row that must agree before a partial calls a word stable",
    )
    stable_only: bool = Field(False, description="partials show stable words only")
    batch_windows_max: Count = Field(8, description="windows in one call of an engine")

    usage_metrics: bool = Field(
        False,
        description="count sessions and audio by the name of the API key, in /metrics, which needs "
        "no key",
    )
    tracing_url: str | None = Field(
        None,
        min_length=1,
        description="OTLP/HTTP address that gets a trace of every utterance, such as "
        "http://127.0.0.1:4318/v1/traces; unset: none is made",
    )

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
        if scheme in ("postgresql", POSTGRES_SCHEME):
            return f"{POSTGRES_SCHEME}://{rest}"
        if scheme not in ("sqlite", STORE_SCHEME):
            raise ValueError(
                f"only SQLite and PostgreSQL are supported; give a path, {STORE_SCHEME}:///path "
                "or postgresql://host/database"
            )
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
    def _windows_hold_a_hop(self) -> Self:
        least_ms = WindowOptions().left_context_ms + self.hop_ms
        if self.window_cap_s * 1000 <= least_ms:
            raise ValueError(
                f"window_cap_s {self.window_cap_s:g} leaves no room for a partial every "
                f"{self.hop_ms} ms; give more than {least_ms / 1000:g}, or lower hop_ms"
            )
        return self

    @model_validator(mode="after")
    def _files_come_together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together: give both, or neither")
        if self.final_context == "calibrated" and self.calibration_file is None:
            raise ValueError("final_context calibrated needs calibration_file")
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


def is_repeatable(field: FieldInfo) -> bool:
    """True for lists and mappings, whose flags may be given several times."""
    types = {field.annotation, *get_args(field.annotation)}
    return any(str(kind).startswith(("tuple[", "dict[")) for kind in types)


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
