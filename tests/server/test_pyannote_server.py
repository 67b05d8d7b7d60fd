"""A whole session through a real server with a pyannote pipeline as its diarizer."""

from pathlib import Path

import numpy as np
import pytest

from clients.stream import CaptionStream
from streaming.events import Done, Event, Final, Revision
from streaming.scripted_audio import encode_silence, encode_word
from tests.clients.conftest import serving
from tests.tiny_pyannote import build_pipeline

pytestmark = pytest.mark.slow

PACKET_BYTES = 32_000


async def captioned(url: str, pcm: bytes) -> list[Event]:
    async with CaptionStream.open(url) as stream:
        for at in range(0, len(pcm), PACKET_BYTES):
            await stream.send(pcm[at : at + PACKET_BYTES])
        await stream.end()
        return [event async for event in stream]


def clip(*utterances: int) -> bytes:
    """Scripted words, so many in each utterance, without a pause inside."""
    parts = [encode_silence(8_000)]
    for number, words in enumerate(utterances):
        parts += [encode_word(number, word) for word in range(words)]
        parts.append(encode_silence(24_000))
    return np.concatenate(parts).tobytes()


def speakers_in_the_end(events: list[Event]) -> list[str | None]:
    """Of each word, after all revisions."""
    captions: dict[str, list[str | None]] = {}
    for event in events:
        if isinstance(event, Final):
            captions[event.caption_id] = [word.speaker for word in event.words]
        elif isinstance(event, Revision):
            for run in event.runs:
                named = [run.speaker] * (run.to_word - run.from_word)
                captions[event.caption_id][run.from_word : run.to_word] = named
    return [speaker for caption in captions.values() for speaker in caption]


async def test_words_get_the_speakers_of_the_pipeline(tmp_path: Path) -> None:
    """The words are exact. Whose they are is whatever random weights say, but somebody's."""
    folder = build_pipeline(tmp_path / "pipeline")
    options = ("--diarizer", "pyannote", "--diarizer-model", str(folder))
    with serving(tmp_path, *options) as address:
        events = await captioned(address.replace("http", "ws"), clip(30, 4, 20))
    (done,) = [event for event in events if isinstance(event, Done)]
    speakers = speakers_in_the_end(events)
    assert len(speakers) == done.words == 54
    named = {speaker for speaker in speakers if speaker is not None}
    assert named
    assert named <= {f"S{number}" for number in range(1, done.speakers + 1)}
    assert sum(speaker is not None for speaker in speakers) > 27
