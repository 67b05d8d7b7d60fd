"""Three sets of values for the options that trade speed for accuracy.

Owns: what ``--preset`` stands for. A value that is given anywhere else wins over the preset's.
``docs/configuration.md`` shows these; a test compares.
"""

from typing import Any, Literal

Preset = Literal["fast", "balanced", "accurate"]

PRESETS: dict[Preset, dict[str, Any]] = {
    "fast": {"hop_ms": 500, "endpointing_ms": 400, "window_cap_s": 10.0, "stability": 1},
    "balanced": {"hop_ms": 1000, "endpointing_ms": 600, "window_cap_s": 20.0, "stability": 2},
    "accurate": {"hop_ms": 1000, "endpointing_ms": 1000, "window_cap_s": 28.0, "stability": 3},
}
"""Field of ``Settings`` → value. ``balanced`` are the defaults."""
