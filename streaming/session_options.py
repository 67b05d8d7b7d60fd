"""What a client may ask of its session: the message ``start``, field by field.

Owns the names, types and ranges of the options. What they do is decided elsewhere (``tuning``,
``lane``, ``intake``); ``wire`` is where programs import them from. ``docs/protocol.md`` explains
each field.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from streaming import tuning_ranges as ranges

SAMPLE_RATE_HZ_MIN, SAMPLE_RATE_HZ_MAX = 4_000, 384_000
"""Below, no speech is left; above, no microphone goes."""
CHANNELS_MAX = 20
"""Deepgram's limit for multichannel audio, so that adapters can offer the same."""
PROMPT_CHARACTERS_MAX = 2_000
"""Whisper reads 224 tokens of a prompt, about 900 characters of English."""
KEYWORDS_MAX = 100
NAME_CHARACTERS_MAX = 80

Encoding = Literal["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]


class Message(BaseModel):
    """What every message of a client has in common."""

    # Unknown fields are refused: a misspelt option would otherwise be ignored in silence.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS_MAX)]
SpeakerCount = Annotated[int, Field(ge=1, le=ranges.SPEAKERS_MAX)]


class AudioFormat(Message):
    """How the client's bytes are to be read."""

    encoding: Encoding = "pcm_s16le"
    sample_rate: int = Field(16_000, ge=SAMPLE_RATE_HZ_MIN, le=SAMPLE_RATE_HZ_MAX)
    channels: int = Field(1, ge=1, le=CHANNELS_MAX)
    channel_names: list[Name | None] | None = Field(None, max_length=CHANNELS_MAX)
    tagged: bool = False


class Start(Message):
    """Opens a session. Every field but ``type`` may be left out."""

    type: Literal["start"] = "start"
    audio: AudioFormat = AudioFormat()
    language: str | None = Field(None, pattern="^[a-z]{2,3}$")
    task: Literal["transcribe", "translate"] = "transcribe"
    prompt: str | None = Field(None, max_length=PROMPT_CHARACTERS_MAX)
    keywords: list[Name] = Field([], max_length=KEYWORDS_MAX)
    diarize: bool = True
    speakers: SpeakerCount | None = None
    speakers_min: SpeakerCount | None = None
    speakers_max: SpeakerCount | None = None
    partials: bool = True
    words: bool = True
    partial_interval_ms: int | None = Field(
        None, ge=ranges.PARTIAL_INTERVAL_MS_MIN, le=ranges.PARTIAL_INTERVAL_MS_MAX
    )
    endpointing_ms: int | None = Field(
        None, ge=ranges.ENDPOINTING_MS_MIN, le=ranges.ENDPOINTING_MS_MAX
    )
    max_delay_ms: int | None = Field(None, ge=ranges.MAX_DELAY_MS_MIN, le=ranges.MAX_DELAY_MS_MAX)
    stability: int | None = Field(None, ge=1, le=ranges.STABILITY_MAX)
    stable_only: bool | None = None
