"""Caption a recording as fast as the server allows: python caption_file.py FILE [URL]."""

import asyncio
import sys

import soundfile

from clients.live import keep_event
from clients.stream import CaptionStream
from streaming.events import DurableEvent, Final
from streaming.exports import Transcript, to_srt
from streaming.wire import AudioFormat, Start


async def caption(path: str, url: str) -> str:
    sound = soundfile.SoundFile(path)
    audio = AudioFormat(sample_rate=sound.samplerate, channels=sound.channels)
    events: list[DurableEvent] = []

    async with CaptionStream.open(url, Start(audio=audio)) as stream:

        async def send() -> None:
            while len(block := sound.buffer_read(sound.samplerate, "int16")):
                await stream.send(bytes(block))  # waits while it lies beyond the credit
            await stream.end()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            async for event in stream:  # ends after Done
                if isinstance(event, DurableEvent):
                    keep_event(events, event)
                if isinstance(event, Final):
                    print(event.speaker or "?", event.text, file=sys.stderr)

    return to_srt(Transcript.from_events(events))


if __name__ == "__main__":
    file, *address = sys.argv[1:]
    print(asyncio.run(caption(file, *address or ["ws://127.0.0.1:8710"])))
