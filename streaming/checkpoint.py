"""What a session that goes on after a crash must know, as bytes of a bounded size.

Owns the form in which it is kept; what each part means is its module's to say. Audio is not in
it: the client sends that again from ``frame`` on. A server keeps the bytes in one transaction
with the events up to ``seq``, so that the two never disagree.

Invariants: H1 what is decoded equals what was encoded; H2 the bytes are at most ``BYTES_MAX``,
whatever a client or an engine did: where need be voices, captions that might be revised and the
state of voice activity are left out, never anything that words depend on.
"""

import zlib
from dataclasses import replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from streaming.diarizing import SpeakersState
from streaming.intake import TaggedState
from streaming.lane import LaneState
from streaming.publishing import SpeechSettings
from streaming.stats import SessionStats
from streaming.wire import Start

BYTES_MAX = 64 * 1024
VOICES_BYTES_MAX = 16 * 1024
"""For the centroids of all lanes: 32 voices of 256 values."""
DECODED_BYTES_MAX = 4 * 1024 * 1024
"""Nobody's checkpoint is as large; what was damaged on a disk may claim to be."""


class UnusableCheckpoint(Exception):
    """It is damaged, or was made by a version that this one does not understand."""


class Checkpoint(BaseModel):
    """A session between two events."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", extra="forbid")

    version: Literal[1] = 1
    seq: int = 0
    """The last durable event."""
    frame: int = 0
    """The client sends its audio from this frame of its own on."""
    heard_frames: int = 0
    """What came before this frame was heard before, messages between the audio too."""
    credit_frame: int = 0
    is_done: bool = False
    captions: int = 0
    """Caption ids given so far, and speaker names."""
    speakers: int = 0
    speech: SpeechSettings
    stats: SessionStats
    intake: TaggedState | None = None
    lanes: tuple[LaneState, ...] = ()
    """None once it is done: whoever goes on with it repeats its events, and knows no voice."""


def first_checkpoint(start: Start, seed: int) -> Checkpoint:
    """Of a session that has heard nothing yet."""
    speech = SpeechSettings(start.language, start.task, start.prompt, tuple(start.keywords), seed)
    return Checkpoint(speech=speech, stats=SessionStats())


def encode(checkpoint: Checkpoint) -> bytes:
    """At most ``BYTES_MAX`` bytes."""
    body = _packed(checkpoint)
    if len(body) > BYTES_MAX:
        lanes = tuple(_lean(lane) for lane in checkpoint.lanes)
        body = _packed(checkpoint.model_copy(update={"lanes": lanes}))
    return body


def decode(body: bytes) -> Checkpoint:
    """Raises: UnusableCheckpoint."""
    try:
        text = zlib.decompressobj().decompress(body, DECODED_BYTES_MAX)
        return Checkpoint.model_validate_json(text)
    except (zlib.error, ValidationError) as error:
        raise UnusableCheckpoint(str(error)) from None


def _packed(checkpoint: Checkpoint) -> bytes:
    return zlib.compress(checkpoint.model_dump_json().encode(), 1)


def _lean(lane: LaneState) -> LaneState:
    speakers = lane.speakers
    tracker = None if speakers.tracker is None else replace(speakers.tracker, voices=())
    return replace(
        lane,
        listener=replace(lane.listener, activity=None),
        book=replace(lane.book, sent=()),
        speakers=SpeakersState(tracker, speakers.names, speakers.heard),
    )
