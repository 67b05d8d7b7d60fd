"""What the tests of languages and keywords share: committed clips, and what a client hears of them.

``tools/make_test_speech.py`` makes the clips, so that nothing here needs a synthesizer.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import soundfile

from clients.stream import CaptionStream
from streaming.engines import Samples
from streaming.events import Event, Final, LanguageDetected
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Configure, Start

FOLDER = Path(__file__).parent / "speech"
SPEECH: dict[str, Any] = json.loads((FOLDER / "speech.json").read_text())
DEMO = ("--asr", "demo", "--diarizer", "none")


def audio(name: str) -> Samples:
    """A clip by its name in ``speech.json``."""
    samples, rate = soundfile.read(FOLDER / f"{name}.ogg", dtype="int16")
    assert rate == SAMPLE_RATE_HZ
    found: Samples = samples
    return found


def text(name: str, key: str = "text") -> str:
    """What is said in a clip, or its ``translation``."""
    return " ".join(sentence[key] for sentence in SPEECH[name]["sentences"])


@dataclass(slots=True)
class Heard:
    """All that a client got, in order."""

    events: list[Event] = field(default_factory=list)

    @property
    def finals(self) -> list[Final]:
        return [event for event in self.events if isinstance(event, Final)]

    @property
    def text(self) -> str:
        return " ".join(final.text for final in self.finals)

    @property
    def languages(self) -> list[str | None]:
        return [final.language for final in self.finals]

    @property
    def found(self) -> list[LanguageDetected]:
        return [event for event in self.events if isinstance(event, LanguageDetected)]


async def caption(url: str, samples: Samples, start: Start) -> Heard:
    """A whole session, as fast as the server takes the audio."""
    heard = Heard()
    async with CaptionStream.open(url, start) as stream:
        await stream.send(samples.tobytes())
        await stream.end()
        async for event in stream:
            heard.events.append(event)
    return heard


async def caption_in_two(
    url: str, first: Samples, then: Samples, change: Configure | None
) -> tuple[Heard, Heard]:
    """One session: all captions of ``first``, the clip of names, then ``change`` and ``then``."""
    before, after = Heard(), Heard()
    async with CaptionStream.open(url, Start(partials=False)) as stream:
        await stream.send(first.tobytes())
        async for event in stream:
            before.events.append(event)
            if len(before.finals) == len(SPEECH["names"]["sentences"]):
                break
        if change is not None:
            await stream.configure(change)
        await stream.send(then.tobytes())
        await stream.end()
        async for event in stream:
            after.events.append(event)
    return before, after
