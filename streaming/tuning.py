"""What a client may turn for its own session, within what the operator allows.

Owns: how the optional fields of ``start`` change the server's options for endpointing, windows,
partials and speakers, and the refusal of values that do not fit. Knows no settings file, no lane.

Invariant U1: a field that is left out changes nothing; one that is refused names its range.
"""

from dataclasses import dataclass, replace

from streaming.endpointing import EndpointingOptions
from streaming.errors import UnsupportedOption
from streaming.partials import PartialOptions
from streaming.tuning_ranges import MAX_DELAY_MS_MAX, PARTIAL_INTERVAL_MS_MIN
from streaming.windows import WindowOptions
from streaming.wire import Start


@dataclass(frozen=True, slots=True)
class TuningLimits:
    """How far a session may go from the server's own options."""

    partial_interval_ms_min: int = PARTIAL_INTERVAL_MS_MIN
    """Each partial is paid for in engine time."""
    max_delay_ms_max: int = MAX_DELAY_MS_MAX
    """The buffer must hold so long a window."""


@dataclass(frozen=True, slots=True)
class SpeakerHints:
    """How many people there are on a lane, as far as somebody knows; None: nobody does."""

    speakers_min: int | None = None
    speakers_max: int | None = None


def tuned_endpointing(options: EndpointingOptions, start: Start) -> EndpointingOptions:
    """The session's silence at the end of an utterance; the tail is never longer than it."""
    hangover_ms = start.endpointing_ms
    if hangover_ms is None:
        return options
    tail_ms = min(EndpointingOptions().tail_ms, hangover_ms)
    return replace(options, hangover_ms=hangover_ms, tail_ms=tail_ms)


def tuned_windows(options: WindowOptions, start: Start, limits: TuningLimits) -> WindowOptions:
    """The session's partial interval and maximum delay. Raises: UnsupportedOption."""
    hop_ms, cap_ms = start.partial_interval_ms, start.max_delay_ms
    if hop_ms is not None and hop_ms < limits.partial_interval_ms_min:
        raise UnsupportedOption(
            f"partial_interval_ms {hop_ms} is too short here; give at least "
            f"{limits.partial_interval_ms_min}"
        )
    if cap_ms is not None and cap_ms > limits.max_delay_ms_max:
        raise UnsupportedOption(
            f"max_delay_ms {cap_ms} is too long here; give at most {limits.max_delay_ms_max}"
        )
    hop_ms, cap_ms = hop_ms or options.hop_ms, cap_ms or options.cap_ms
    try:
        return replace(options, hop_ms=hop_ms, cap_ms=cap_ms)
    except ValueError:
        least_ms = options.left_context_ms + max(hop_ms, options.first_ms)
        raise UnsupportedOption(
            f"max_delay_ms {cap_ms} leaves no room for a partial every {hop_ms} ms; give more than "
            f"{least_ms}, or a shorter partial_interval_ms"
        ) from None


def tuned_partials(options: PartialOptions, start: Start) -> PartialOptions:
    """What the session calls stable, and whether it sees the rest."""
    stability = options.stability if start.stability is None else start.stability
    stable_only = options.stable_only if start.stable_only is None else start.stable_only
    return PartialOptions(stability, stable_only)


def hinted_speakers(start: Start) -> SpeakerHints:
    """How many people the client expects. Raises: UnsupportedOption where that is contradictory."""
    least, most = start.speakers_min, start.speakers_max
    if start.speakers is not None:
        if least is not None or most is not None:
            raise UnsupportedOption(
                "speakers is an exact number; leave speakers_min and speakers_max away with it"
            )
        least = most = start.speakers
    if least is not None and most is not None and least > most:
        raise UnsupportedOption(
            f"speakers_min {least} is more than speakers_max {most}; give at most {most}"
        )
    return SpeakerHints(least, most)
