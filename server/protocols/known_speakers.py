"""Speakers that a client makes known by a few seconds of their voice.

Their samples go into the session before the recording, a pause behind each: whoever the diarizer
hears there gets the name, and what was said there is taken out of the transcript again. So every
diarizer can do it, and nothing of a voice outlives its request.
"""

import base64
import binascii
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from server.containers import ContainerDecoder
from server.protocols.openai_bodies import renamed
from server.protocols.openai_form import BadField, KnownSpeaker
from server.recordings import Heard, mixed, resampled
from streaming.engines import Samples
from streaming.errors import ClientError
from streaming.exports.transcript import Caption, Transcript
from streaming.timeline import SAMPLE_RATE_HZ, Span, seconds

PARAM = "known_speaker_references"
SECONDS_MIN, SECONDS_MAX = 2.0, 10.0
"""Theirs."""
SLACK_SECONDS = 0.1
"""An encoder may add or lose as much."""


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """Somebody's name and voice."""

    name: str
    samples: Samples


async def introduced(speaker: KnownSpeaker) -> Acquaintance:
    """Raises: BadField."""
    decoder = ContainerDecoder(seconds_max=SECONDS_MAX + SLACK_SECONDS)
    try:
        async with decoder:
            await decoder.feed(_content(speaker.reference))
            await decoder.finish()
            blocks = [mixed(block, decoder.channels) async for block in decoder]
    except ClientError as error:
        raise BadField(PARAM, f"{PARAM}: {speaker.name}: {error.message}") from None
    samples = np.frombuffer(b"".join(blocks), "<i2")
    if len(samples) < (SECONDS_MIN - SLACK_SECONDS) * decoder.sample_rate_hz:
        raise BadField(
            PARAM, f"{PARAM}: {speaker.name}: give {SECONDS_MIN:.0f} to {SECONDS_MAX:.0f} s"
        )
    voice = resampled(samples, decoder.sample_rate_hz, SAMPLE_RATE_HZ)
    return Acquaintance(speaker.name, voice)


def _content(url: str) -> bytes:
    """Raises: BadField."""
    head, comma, data = url.partition(",")
    if not (comma and head.lower().startswith("data:") and head.lower().endswith(";base64")):
        raise BadField(PARAM, f"{PARAM}: give data URLs, as data:audio/wav;base64,…")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise BadField(PARAM, f"{PARAM}: a data URL whose base64 is broken") from None


def recognized(heard: Heard, spans: Sequence[Span], known: Sequence[Acquaintance]) -> Heard:
    """With the names of those who spoke in ``spans``, and without these."""
    if not spans:
        return heard
    names: dict[str, str] = {}
    for span, acquaintance in zip(spans, known, strict=True):
        speaker = _speaker_in(heard.transcript.captions, span)
        if speaker is not None:
            # Whom the diarizer takes for the same keeps the first name.
            names.setdefault(speaker, acquaintance.name)
    return _without(renamed(heard, names), spans[-1].end)


def _speaker_in(captions: Sequence[Caption], span: Span) -> str | None:
    """Who says most of it."""
    samples: Counter[str] = Counter()
    for caption in captions:
        for word in caption.words:
            if word.speaker is not None and span.start <= word.span.middle < span.end:
                samples[word.speaker] += max(1, word.span.samples)
    return samples.most_common(1)[0][0] if samples else None


def _without(heard: Heard, end: int) -> Heard:
    """Of the audio from ``end`` on, with times from there."""
    captions = tuple(
        _earlier(caption, end) for caption in heard.transcript.captions if caption.span.start >= end
    )
    gaps = tuple(
        replace(gap, span=_moved(gap.span, end))
        for gap in heard.transcript.gaps
        if gap.span.end > end
    )
    audio_seconds = max(0.0, round(heard.audio_seconds - seconds(end), 3))
    transcript = Transcript(captions, gaps, audio_seconds)
    return replace(heard, transcript=transcript, audio_seconds=audio_seconds)


def _earlier(caption: Caption, samples: int) -> Caption:
    words = tuple(replace(word, span=_moved(word.span, samples)) for word in caption.words)
    return replace(caption, span=_moved(caption.span, samples), words=words)


def _moved(span: Span, samples: int) -> Span:
    return Span(max(0, span.start - samples), max(0, span.end - samples))
