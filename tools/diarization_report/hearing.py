"""Recordings → stretches of speech, by the product's own voice activity and endpointing."""

from collections.abc import Sequence

import numpy as np

from server.engines.registry import EngineSpec
from server.engines.silero import SileroVoiceActivity
from streaming.endpointing import Endpointer, EndpointingOptions, Offset
from streaming.engines import ACTIVITY_FRAME_SAMPLES, ActivityWindow, Samples
from streaming.events import SessionStage
from streaming.timeline import Span

Speech = tuple[tuple[Span, ...], ...]
"""Utterances, each as its stretches of speech without the pauses."""


def hear(recordings: Sequence[Samples], options: EndpointingOptions | None = None) -> list[Speech]:
    """What a session would take for speech in each recording."""
    engine = SileroVoiceActivity.from_spec(EngineSpec(SessionStage.ACTIVITY, "silero", threads=1))
    activities = engine.detect([ActivityWindow(_whole_frames(s), None) for s in recordings])
    heard = []
    for samples, activity in zip(recordings, activities, strict=True):
        endpointer = Endpointer(options or EndpointingOptions())
        events = endpointer.receive(activity.probabilities)
        events += endpointer.close(len(samples))
        heard.append(tuple(e.speech for e in events if isinstance(e, Offset)))
    return heard


def _whole_frames(samples: Samples) -> Samples:
    return np.pad(samples, (0, -len(samples) % ACTIVITY_FRAME_SAMPLES))
