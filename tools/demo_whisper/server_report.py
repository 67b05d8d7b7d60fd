"""What the demo checkpoint does behind a server: the second half of ``make model-report``.

    python -m tools.demo_whisper.server_report [--seconds SECONDS] [--seed SEED] [--json FILE]

The clip goes through ``captiond demo``, in real time and in a process of its own; the sounds
without speech go through one server, by its credit.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from clients.live import CaptionFold
from clients.stream import CaptionStream
from server.child import running_server
from tools.demo_whisper import noise
from tools.demo_whisper.corpus import Corpus, Split
from tools.demo_whisper.report import Measurement, at_most, table
from tools.demo_whisper.synthesis import SAMPLE_RATE_HZ, Samples, SynthesisError

SECONDS = 60
ENGINES = ("--asr", "demo", "--diarizer", "embedded")
PACKET_SAMPLES = SAMPLE_RATE_HZ // 10
TONE_HZ = 440
LEVEL_DBFS = -25.0
WER_MAX, DER_MAX, SPEAKERS = 0.05, 0.15, 2


def exactly(name: str, value: float, wanted: float) -> Measurement:
    return Measurement(name, value, f"= {wanted:g}", value == wanted)


def demo_summary() -> dict[str, Any]:
    """The last line of ``captiond demo --json``, on the demo checkpoint."""
    command = [sys.executable, "-m", "server", "demo", "--json", "--pace", "realtime", *ENGINES]
    # Its progress goes to the terminal: a server that cannot start says why there.
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def demo_clip() -> list[Measurement]:
    """What the client of ``captiond demo`` holds at the end."""
    summary = demo_summary()
    name = "captiond demo --json"
    return [
        at_most(f"{name}: wer", summary["wer"], WER_MAX),
        at_most(f"{name}: der", summary["der"], DER_MAX),
        exactly(f"{name}: speakers", summary["speakers"], SPEAKERS),
    ]


def sounds(seed: str, length: int, console: Console) -> dict[str, Samples]:
    """Silence, white noise, a tone and babble at one level; babble needs espeak-ng."""
    rng = np.random.default_rng(list(seed.encode()))
    time_s = np.arange(length) / SAMPLE_RATE_HZ
    tone = np.sin(2 * np.pi * TONE_HZ * time_s).astype(np.float32)
    found = {
        "silence": np.zeros(length, np.float32),
        "white noise": noise.level(rng.standard_normal(length, np.float32), LEVEL_DBFS),
        "a tone": noise.level(tone, LEVEL_DBFS),
    }
    try:
        babble = Corpus(Split.TEST, seed, None).babble(rng, length)
    except SynthesisError as error:
        console.print(f"No babble: {error}")
        return found
    return {**found, "babble": noise.level(babble, LEVEL_DBFS)}


async def words_heard(url: str, sound: Samples) -> int:
    """Words in all captions of ``sound``, sent as fast as the server takes it."""
    pcm, fold = (np.clip(sound, -1, 1) * 32_767).astype(np.int16), CaptionFold()
    async with CaptionStream.open(url) as stream:

        async def send() -> None:
            for first in range(0, len(pcm), PACKET_SAMPLES):
                await stream.send(pcm[first : first + PACKET_SAMPLES].tobytes())
            await stream.end()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            async for event in stream:
                fold.apply(event)
    assert fold.done is not None, "the stream ends with the session's last event"
    assert fold.done.gap_seconds == 0, "audio without an answer says nothing about words"
    return fold.done.words


async def no_speech(seed: str, seconds: int, console: Console) -> list[Measurement]:
    """Words that the server finds where there are none."""
    lines = []
    with tempfile.TemporaryDirectory(prefix="captiond-model-report-") as folder:
        async with running_server(ENGINES, Path(folder)) as server:
            for name, sound in sounds(seed, seconds * SAMPLE_RATE_HZ, console).items():
                words = await words_heard(server.url, sound)
                lines.append(at_most(f"{seconds} s of {name} through a server: words", words, 0))
                console.print(f"  {lines[-1].name} {words}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools.demo_whisper.server_report")
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--seed", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console()
    lines = demo_clip()
    lines += asyncio.run(no_speech(options.seed, options.seconds, console))
    console.print(table(lines))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
