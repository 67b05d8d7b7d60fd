"""A trained Whisper checkpoint behind a real server: recorded digits and spoken sentences.

The checkpoint knows a closed domain (meeting sentences, digits); it loads by the code that loads
any other. The bounds are three times the error rates that its own description gives.
"""

import asyncio
import csv
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
import soxr

from clients.live import CaptionFold
from clients.stream import CaptionStream
from server.child import ServerChild, running_server
from server.scoring import word_error_rate
from streaming.engines import Samples
from streaming.events import Event, Final, Partial
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Start

SHARED = Path(__file__).resolve().parents[3] / "shared"
CHECKPOINT = SHARED / "models/whisper-tiny-ref"
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
PACKET_SAMPLES = SAMPLE_RATE_HZ // 10

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not CHECKPOINT.exists(), reason=f"{CHECKPOINT} is not on this machine"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerChild]:
    arguments = ["--asr", "whisper", "--asr-model", str(CHECKPOINT), "--diarizer", "none"]
    async with running_server(arguments, tmp_path_factory.mktemp("whisper")) as child:
        yield child


def pause(seconds: float) -> Samples:
    return np.zeros(round(seconds * SAMPLE_RATE_HZ), np.int16)


def spoken_digits(speaker: str, digits: list[int], take: int) -> Samples:
    """Held-out takes of one person, a tenth of a second between them."""
    folder = SHARED / "data/fsdd"
    audio, rate = soundfile.read(folder / f"{speaker}.flac", dtype="float32")
    parts: list[Samples] = []
    with (folder / "index.csv").open() as file:
        rows = {
            (int(row["digit"]), int(row["take"])): row
            for row in csv.DictReader(file)
            if row["speaker"] == speaker
        }
    for digit in digits:
        row = rows[digit, take]
        sound = audio[int(row["start_sample"]) : int(row["end_sample"])]
        sound = soxr.resample(sound / max(0.05, np.abs(sound).max()) / 2, rate, SAMPLE_RATE_HZ)
        parts += [(sound * 32_767).astype(np.int16), pause(0.1)]
    return np.concatenate(parts)


def spoken_sentence(text: str, voice: str, folder: Path) -> Samples:
    path = folder / "sentence.wav"
    subprocess.run(["espeak-ng", "-v", voice, "-s", "150", "-w", path, text], check=True)
    audio, rate = soundfile.read(path, dtype="float32")
    samples: Samples = (soxr.resample(audio, rate, SAMPLE_RATE_HZ) * 32_767).astype(np.int16)
    return samples


async def caption(url: str, audio: Samples) -> tuple[str, list[Event]]:
    """The text of all finals and every event, the audio sent as if it were spoken now."""
    fold, events = CaptionFold(), []
    async with CaptionStream.open(url, Start(language="en")) as stream:

        async def send() -> None:
            for start in range(0, len(audio), PACKET_SAMPLES):
                await stream.send(audio[start : start + PACKET_SAMPLES].tobytes())
                await asyncio.sleep(PACKET_SAMPLES / SAMPLE_RATE_HZ)
            await stream.end()

        sending = asyncio.create_task(send())
        async for event in stream:
            fold.apply(event)
            events.append(event)
        await sending
    return " ".join(caption.text for caption in fold.captions), events


async def test_recorded_digits(server: ServerChild) -> None:
    spoken = [
        ("jackson", [4, 0, 7, 1, 9, 2, 8, 3, 6, 5]),
        ("theo", [3, 8, 2]),
        ("george", [6, 5, 5, 1]),
    ]
    parts = [pause(0.5)]
    for speaker, digits in spoken:
        parts += [spoken_digits(speaker, digits, take=7), pause(1.2)]
    text, events = await caption(server.url, np.concatenate(parts))
    reference = " ".join(DIGITS[digit] for _, digits in spoken for digit in digits)
    error_rate = word_error_rate(reference, text)
    print(f"digits of held-out takes: WER {error_rate:.2f}")
    assert error_rate <= 0.27
    assert any(isinstance(event, Partial) and event.text for event in events)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs Debian's espeak-ng")
async def test_meeting_sentences_have_words_with_times(server: ServerChild, tmp_path: Path) -> None:
    sentences = [
        "Alice will review the new budget on Monday.",
        "We need to test the server before Friday.",
        "Thank you, Robert.",
    ]
    parts = [pause(0.5)]
    for sentence, voice in zip(sentences, ["en-us+m3", "en-us+f2", "en-us+m3"], strict=True):
        parts += [spoken_sentence(sentence, voice, tmp_path), pause(1.2)]
    audio = np.concatenate(parts)
    text, events = await caption(server.url, audio)
    error_rate = word_error_rate(" ".join(sentences), text)
    print(f"meeting sentences: WER {error_rate:.2f}")
    assert error_rate <= 0.15
    words = [word for event in events if isinstance(event, Final) for word in event.words]
    assert all(0 <= word.span.start <= word.span.end <= len(audio) for word in words)
    assert [word.span for word in words] == sorted(word.span for word in words)
