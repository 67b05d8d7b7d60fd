"""What an operator may choose about the ``whisper`` and ``demo`` engines beside the checkpoint.

Given as ``--asr-options name=value``. Owns their names, values and refusals.
"""

from dataclasses import dataclass
from typing import Self

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, OptionValue, check_options

NAMES = (
    *("allow_pickle", "calibration", "device", "dtype"),
    *("context_margin_s", "encoder_context", "final_context", "final_dtype"),
    *("guards", "timestamps", "tokens_max"),
)
DTYPES = ("auto", "float32", "bfloat16", "float16")
ENCODER_CONTEXTS = ("fast", "exact")
SECONDS_MAX = 30
FINAL_CONTEXTS = ("exact", "calibrated")


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    """All engine options, with their defaults."""

    encoder_context: str = "fast"
    """``fast`` hears partials with a short context, ``exact`` hears them as finals."""
    context_margin_s: float | None = None
    """Silence behind a partial's window; None is what the checkpoint says of itself."""
    final_context: str = "exact"
    """``calibrated`` hears finals with the context that ``calibration`` was measured at."""
    calibration: str | None = None
    """The file that ``captiond calibrate`` wrote for this checkpoint."""
    timestamps: bool | None = None
    """Whether transcripts have timestamp tokens; None is what the checkpoint says of itself."""
    tokens_max: int | None = None
    """No transcript gets longer, whatever its window; None is a bound by the window's length."""
    guards: bool = True
    """Whether what ``streaming.guards`` doubts is decoded again, or not shown."""
    dtype: str = "auto"
    final_dtype: str = "auto"
    """``auto`` is ``dtype``, but float32 for exact finals where that would be bfloat16."""
    device: str | None = None
    """None is a GPU where there is one."""
    allow_pickle: bool = False

    @classmethod
    def of(cls, spec: EngineSpec) -> Self:
        """Raises: EngineUnavailable."""
        check_options(spec, NAMES)
        given = spec.options
        options = cls(
            encoder_context=_chosen(given, "encoder_context", ENCODER_CONTEXTS),
            context_margin_s=_seconds(given, "context_margin_s"),
            final_context=_chosen(given, "final_context", FINAL_CONTEXTS),
            calibration=None if "calibration" not in given else str(given["calibration"]),
            timestamps=None if "timestamps" not in given else bool(given["timestamps"]),
            tokens_max=_count(given, "tokens_max"),
            guards=bool(given.get("guards", True)),
            dtype=_chosen(given, "dtype", DTYPES),
            final_dtype=_chosen(given, "final_dtype", DTYPES),
            device=None if "device" not in given else str(given["device"]),
            allow_pickle=bool(given.get("allow_pickle", False)),
        )
        if options.final_context == "calibrated" and options.calibration is None:
            raise EngineUnavailable(
                "final_context=calibrated needs the file that captiond calibrate wrote for this "
                "checkpoint: give calibration=FILE, or leave final_context at exact"
            )
        return options


def _chosen(given: dict[str, OptionValue], name: str, values: tuple[str, ...]) -> str:
    value = str(given.get(name, values[0]))
    if value not in values:
        raise EngineUnavailable(f"{name} {value} is not one of: {', '.join(values)}")
    return value


def _count(given: dict[str, OptionValue], name: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or value < 1:
        raise EngineUnavailable(f"{name} {value} is not a count of 1 or more")
    return value


def _seconds(given: dict[str, OptionValue], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value <= SECONDS_MAX:
        raise EngineUnavailable(f"{name} {value} is not a number of seconds from 0 to 30")
    return float(value)
