"""Ranges of what a client may turn for its own session, and an operator for all of them."""

PARTIAL_INTERVAL_MS_MIN, PARTIAL_INTERVAL_MS_MAX = 100, 10_000
"""Below, a window is asked for again before a frame of new speech could change it."""
ENDPOINTING_MS_MIN, ENDPOINTING_MS_MAX = 100, 10_000
"""Below, the closure of a plosive ends an utterance."""
MAX_DELAY_MS_MIN, MAX_DELAY_MS_MAX = 3_000, 30_000
"""Below, words lose the context that they are understood by; Whisper hears 30 s."""
STABILITY_MAX = 5
"""Hypotheses that must agree: at a second apart, the utterance is mostly over by then."""
SPEAKERS_MAX = 50
"""Of a hint: more people than anybody tells apart on one channel."""
