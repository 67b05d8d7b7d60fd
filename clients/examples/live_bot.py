"""Live captions in a terminal, one line per change: python live_bot.py FILE [SECONDS].

The file, played as it would be spoken, stands in for the sound that your platform's SDK gives.
The server is $CAPTIOND_URL, the key $CAPTIOND_API_KEY. The transcript goes to captions.vtt.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import soundfile

from clients.errors import CaptionStreamError
from clients.live import CaptionFold, keep_event
from clients.stream import CaptionStream
from streaming.events import Done, DurableEvent, Event, Final, Gap, Partial, Revision
from streaming.exports import Transcript, to_vtt
from streaming.wire import AudioFormat, Start

PACKET_SECONDS = 0.1


async def spoken(sound: soundfile.SoundFile, seconds: float) -> AsyncIterator[bytes]:
    """100 ms of 16-bit PCM at a time, never sooner than it would have been said."""
    clock = asyncio.get_running_loop().time
    begun = clock()
    frames = round(PACKET_SECONDS * sound.samplerate)
    for number in range(1, round(seconds / PACKET_SECONDS) + 1):
        packet = bytes(sound.buffer_read(frames, "int16"))
        if not packet:
            return
        await asyncio.sleep(begun + number * PACKET_SECONDS - clock())
        yield packet


def line(event: Event, fold: CaptionFold) -> str | None:
    """What a viewer should know of it; None for events that change nothing to be seen."""
    match event:
        case Partial():
            return f"partial   {event.text}"
        case Final():
            return f"final     {event.speaker or '?'}: {event.text}"
        case Revision():
            caption = fold.caption(event.caption_id)
            return f"revision  {caption.speaker or '?'}: {caption.text}" if caption else None
        case Gap():
            return f"gap       no captions for {event.span} ({event.reason})"
        case Done():
            return f"done      {event.words} words, {event.speakers} speakers"
        case _:
            return None


async def send(stream: CaptionStream, packets: AsyncIterator[bytes]) -> None:
    async for packet in packets:
        await stream.send(packet)
    await stream.end()


async def caption(url: str, sound: soundfile.SoundFile, seconds: float) -> str:
    fold = CaptionFold()
    durable: list[DurableEvent] = []
    audio = AudioFormat(sample_rate=sound.samplerate, channels=sound.channels)
    opened = CaptionStream.open(url, Start(audio=audio), api_key=os.environ.get("CAPTIOND_API_KEY"))
    async with opened as stream, asyncio.TaskGroup() as tasks:
        tasks.create_task(send(stream, spoken(sound, seconds)))
        async for event in stream:
            fold.apply(event)
            if isinstance(event, DurableEvent):
                keep_event(durable, event)
            if shown := line(event, fold):
                print(shown, flush=True)
    print(f"session {stream.ready.session_id}, connections: {stream.connections}")
    return to_vtt(Transcript.from_events(durable))


if __name__ == "__main__":
    file, *limit = sys.argv[1:]
    server = os.environ.get("CAPTIOND_URL", "ws://127.0.0.1:8710")
    length = float(limit[0]) if limit else 3_600.0
    try:
        subtitles = asyncio.run(caption(server, soundfile.SoundFile(file), length))
    except* CaptionStreamError as errors:
        sys.exit(f"no captions: {errors.exceptions[0]}")
    Path("captions.vtt").write_text(subtitles, encoding="utf-8")
