"""What an engine spends its time on, where it keeps an account of that."""

from typing import Any, Protocol, runtime_checkable

from server.engines.whisper_counters import Counters

Parts = tuple[tuple[str, int], ...]
"""Name and nanoseconds, in the order in which it is done."""


@runtime_checkable
class AccountKeeper(Protocol):
    """An engine that counts its seconds."""

    counters: Counters


def engine_parts_ns(engine: Any) -> Parts:
    """Since the engine was built; empty for one that keeps no account."""
    if not isinstance(engine, AccountKeeper):
        return ()
    counters = engine.counters
    seconds = (
        ("encode", counters.features_s + counters.encoder_s),
        ("decode", counters.verify_s + counters.step_s),
        ("words", counters.words_s),
    )
    return tuple((name, round(spent_s * 1e9)) for name, spent_s in seconds)


def spent_between(before: Parts, after: Parts) -> Parts:
    """On one call."""
    return tuple(
        (name, max(0, spent_ns - earlier_ns))
        for (name, spent_ns), (_, earlier_ns) in zip(after, before, strict=True)
    )
