"""A pyannote pipeline fed as a session feeds it, against the same pipeline on the whole file."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from server.engines.pyannote_pipeline import PyannoteDiarizer
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.turns import Turn
from tools.diarization_report.errors import errors
from tools.diarization_report.recordings import Known
from tools.diarization_report.trial import live


@dataclass(frozen=True, slots=True)
class Compared:
    """One recording; error rates against the truth, but for ``difference``."""

    name: str
    minutes: float
    speakers: int
    turns: int
    """Both of the pipeline's own output on the whole file."""
    difference: float
    """DER of the session's last turns against the pipeline's: 0 where they are equal."""
    der_first: float
    der_last: float
    der_offline: float


def compared(name: str, pipeline: Any, known: Known) -> Compared:
    """``pipeline`` is a ``SpeakerDiarization`` of pyannote.audio."""
    diarizer = PyannoteDiarizer(name, pipeline)
    outcome = live(
        diarizer.profile,
        known.samples,
        (),
        diarizer.observe,
        lambda question: diarizer.cluster([question])[0],
    )
    offline = on_the_whole(pipeline, known)
    return Compared(
        known.name,
        len(known.samples) / SAMPLE_RATE_HZ / 60,
        len({turn.speaker for turn in offline}),
        len(offline),
        errors(offline, outcome.last).der,
        errors(known.turns, outcome.first).der,
        errors(known.turns, outcome.last).der,
        errors(known.turns, offline).der,
    )


def on_the_whole(pipeline: Any, known: Known) -> list[Turn]:
    """The pipeline's own output."""
    import torch

    waveform = torch.from_numpy(known.samples / np.float32(32768))[None]
    output = pipeline({"waveform": waveform, "sample_rate": SAMPLE_RATE_HZ, "uri": known.name})
    tracks = output.speaker_diarization.itertracks(yield_label=True)
    rate = SAMPLE_RATE_HZ
    return sorted(Turn(Span(round(s.start * rate), round(s.end * rate)), n) for s, _, n in tracks)
