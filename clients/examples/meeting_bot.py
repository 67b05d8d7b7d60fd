"""A meeting bot in small: one lane per participant, who may come late, be muted, and leave.

Your platform's SDK gives audio per participant; here each one is an async iterator of packets of
16-bit mono PCM, which gives none while the participant is muted. A lane with a name needs no
diarization: every word is its participant's.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable

from clients.errors import ConnectionLost, ServerRefused
from clients.live import CaptionFold
from clients.stream import CaptionStream
from streaming.exports import Caption
from streaming.wire import AudioFormat, Start

Participant = AsyncIterator[bytes]
Arrivals = AsyncIterator[tuple[str, Participant]]
"""Who comes into the meeting, when they come; ends with the meeting."""
QUIET_SECONDS = 0.5
"""Longer than the pause between two packets."""
_log = logging.getLogger(__name__)


def start_message(sample_rate: int) -> Start:
    audio = AudioFormat(sample_rate=sample_rate, tagged=True)
    return Start(audio=audio, language="en", diarize=False)


class Meeting:
    """Sends what everybody says, on the meeting's own clock."""

    def __init__(self, stream: CaptionStream, sample_rate: int) -> None:
        self._stream = stream
        self._sample_rate = sample_rate
        self._free_lanes: list[int] = []
        self._clock = asyncio.get_running_loop().time
        self._heard_at = self._clock()

    async def caption(self, arrivals: Arrivals) -> None:
        async with asyncio.TaskGroup() as tasks:
            async for name, packets in arrivals:
                tasks.create_task(self._listen(name, packets))
        await self._stream.end()

    async def _listen(self, name: str, packets: Participant) -> None:
        lane = await self._lane_for(name)
        async for packet in packets:
            await self._skip_silence(len(packet) / 2 / self._sample_rate)
            await self._stream.send(packet, lane)
        self._free_lanes.append(lane)

    async def _lane_for(self, name: str) -> int:
        if not self._free_lanes:
            return await self._stream.add_lane(name)
        lane = self._free_lanes.pop()
        await self._stream.name_lane(lane, name)
        return lane

    async def _skip_silence(self, packet_seconds: float) -> None:
        """Time passes though everybody is muted. One who is muted alone needs no such care."""
        quiet_seconds = self._clock() - self._heard_at - packet_seconds
        if quiet_seconds > QUIET_SECONDS:
            await self._stream.skip(round(quiet_seconds * 1000))
        self._heard_at = self._clock()


async def caption_meeting(
    url: str,
    arrivals: Arrivals,
    show: Callable[[list[Caption], list[str]], None],
    sample_rate: int = 16_000,
) -> str:
    """Returns the session's id, under which the server keeps the transcript."""
    fold = CaptionFold()
    start = start_message(sample_rate)
    opened = CaptionStream.open(url, start, api_key=os.environ.get("CAPTIOND_API_KEY"))
    async with opened as stream, asyncio.TaskGroup() as tasks:
        tasks.create_task(Meeting(stream, sample_rate).caption(arrivals))
        async for event in stream:
            fold.apply(event)
            show(fold.captions, [line.text for line in fold.open_lines])
        return stream.ready.session_id


async def caption_politely(
    url: str,
    arrivals: Arrivals,
    show: Callable[[list[Caption], list[str]], None],
) -> str | None:
    """Lost connections are resumed by the stream itself; what is left is for people to decide."""
    session_id = None
    try:
        session_id = await caption_meeting(url, arrivals, show)
    except* ServerRefused as refused:
        _log.error("refused: %s", refused.exceptions[0])  # its code, and what to do
    except* ConnectionLost as lost:
        _log.error("the server did not come back: %s", lost.exceptions[0])
    return session_id
