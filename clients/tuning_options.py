"""Options of ``captiond stream`` that a session may have its own values of."""

from typing import Annotated, Any

import typer

_PANEL = "This session's own (default: as the server has it)"


def _option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=_PANEL, show_default=False)


PartialIntervalMs = Annotated[int | None, _option("Audio between two partials, in ms.")]
EndpointingMs = Annotated[int | None, _option("Silence that ends an utterance, in ms.")]
MaxDelayMs = Annotated[
    int | None, _option("Longest wait for a final in speech without a pause, in ms.")
]
Stability = Annotated[int | None, _option("Hypotheses that must agree on a stable word, 1 to 5.")]
StableOnly = Annotated[bool | None, _option("Show stable words only.", "--stable-only/--all-words")]

Speakers = Annotated[int | None, _option("How many people speak, where it is known.")]
SpeakersMin = Annotated[int | None, _option("At least so many people speak.")]
SpeakersMax = Annotated[int | None, _option("At most so many people speak.")]


def tuning(
    partial_interval_ms: int | None,
    endpointing_ms: int | None,
    max_delay_ms: int | None,
    stability: int | None,
    stable_only: bool | None,
) -> dict[str, Any]:
    """Fields of ``start``; what was not given is left out, so that the server decides."""
    return _given(
        partial_interval_ms=partial_interval_ms,
        endpointing_ms=endpointing_ms,
        max_delay_ms=max_delay_ms,
        stability=stability,
        stable_only=stable_only,
    )


def speaker_hints(
    speakers: int | None, speakers_min: int | None, speakers_max: int | None
) -> dict[str, Any]:
    """Fields of ``start``, as ``tuning``."""
    return _given(speakers=speakers, speakers_min=speakers_min, speakers_max=speakers_max)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
