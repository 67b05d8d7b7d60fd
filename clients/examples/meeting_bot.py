"""A meeting bot in small: one named channel per participant, captions as they come.

Your platform's SDK gives audio per participant; here each one is an async iterator of 100 ms of
16-bit mono PCM. Named channels need no diarization: every word is its channel's.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import numpy as np

from clients.errors import ConnectionLost, ServerRefused
from clients.live import CaptionFold
from clients.stream import CaptionStream
from streaming.exports import Caption
from streaming.wire import AudioFormat, Start

Participant = AsyncIterator[bytes]
_log = logging.getLogger(__name__)


def start_message(names: Sequence[str], sample_rate: int) -> Start:
    audio = AudioFormat(
        sample_rate=sample_rate,
        channels=len(names),
        channel_names=[*names],
    )
    return Start(audio=audio, language="en", diarize=False)


def interleaved(packets: list[bytes]) -> bytes:
    tracks = [np.frombuffer(packet, np.int16) for packet in packets]
    return np.stack(tracks, axis=1).tobytes()


async def talk(stream: CaptionStream, participants: list[Participant]) -> None:
    """Every participant's next packet together; whoever is muted must give silence."""
    while True:
        try:
            packets = await asyncio.gather(*(anext(one) for one in participants))
        except StopAsyncIteration:
            return await stream.end()
        await stream.send(interleaved(packets))


async def caption_meeting(
    url: str,
    participants: Mapping[str, Participant],
    show: Callable[[list[Caption], list[str]], None],
    sample_rate: int = 16_000,
) -> str:
    """Returns the session's id, under which the server keeps the transcript."""
    fold = CaptionFold()
    start = start_message(list(participants), sample_rate)
    opened = CaptionStream.open(url, start, api_key=os.environ.get("CAPTIOND_API_KEY"))
    async with opened as stream, asyncio.TaskGroup() as tasks:
        tasks.create_task(talk(stream, list(participants.values())))
        async for event in stream:
            fold.apply(event)
            show(fold.captions, [line.text for line in fold.open_lines])
        return stream.ready.session_id


async def caption_politely(
    url: str,
    participants: Mapping[str, Participant],
    show: Callable[[list[Caption], list[str]], None],
) -> str | None:
    """Lost connections are resumed by the stream itself; what is left is for people to decide."""
    session_id = None
    try:
        session_id = await caption_meeting(url, participants, show)
    except* ServerRefused as refused:
        _log.error("refused: %s", refused.exceptions[0])  # its code, and what to do
    except* ConnectionLost as lost:
        _log.error("the server did not come back: %s", lost.exceptions[0])
    return session_id
