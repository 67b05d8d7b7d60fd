"""What the demo clip's words become in every form that a recording may have, on a real server.

    python -m tests.clients_foreign.openai_formats

Part of ``make test-clients``. The word error rate of each form must be within ``LOSS_MAX`` of that
of 16 kHz PCM; at 8 kHz, where half of the sound is missing, within ``LOSS_MAX_8_KHZ``. Exit status
1: one is not.
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import numpy as np
import soundfile
import soxr

from server.scoring import word_error_rate
from tests.clients_foreign.run import CLIP, KEY, serving
from tests.recordings import Samples, wav, written

LOSS_MAX = 0.05
LOSS_MAX_8_KHZ = 0.10
BASE = "WAV, 16 kHz"
REFERENCE = CLIP.with_name("reference.json")

Forms = Iterator[tuple[str, float, bytes]]
"""Name, how much worse it may be, content."""


def forms(samples: Samples) -> Forms:
    """The clip in each of them, the one that is compared with first."""

    def at(rate_hz: int) -> Samples:
        found: Samples = soxr.resample(samples, 16_000, rate_hz)
        return found

    yield BASE, 0.0, wav(samples)
    yield "WAV, mu-law, 8 kHz", LOSS_MAX_8_KHZ, wav(at(8_000), 8_000, "ULAW")
    yield "WAV, A-law, 8 kHz", LOSS_MAX_8_KHZ, wav(at(8_000), 8_000, "ALAW")
    for rate_hz in (8_000, 24_000, 44_100, 48_000):
        loss = LOSS_MAX_8_KHZ if rate_hz == 8_000 else LOSS_MAX
        yield f"WAV, {rate_hz / 1000:g} kHz", loss, wav(at(rate_hz), rate_hz)
    yield "WAV, float32", LOSS_MAX, wav(samples, 16_000, "FLOAT")
    for name in ("ogg", "ogg-vorbis", "webm", "flac", "mp3", "aac", "mp4", "mp4-index-first"):
        yield name, LOSS_MAX, written(name, samples)
    silence = np.zeros_like(samples)
    yield "stereo, one side silent", LOSS_MAX, wav(np.stack([samples, silence], axis=1))
    both = wav(np.stack([at(44_100)] * 2, axis=1), 44_100)
    yield "stereo, 44.1 kHz", LOSS_MAX, both


async def text_of(session: aiohttp.ClientSession, url: str, content: bytes) -> str:
    form = aiohttp.FormData()
    form.add_field("file", content, filename="clip")
    form.add_field("response_format", "text")
    async with session.post(f"{url}/v1/audio/transcriptions", data=form) as response:
        response.raise_for_status()
        return await response.text()


async def measured(show: Callable[[str], None]) -> bool:
    """True where no form loses too much."""
    truth: str = json.loads(REFERENCE.read_text())["text"]
    samples, _ = soundfile.read(CLIP, dtype="int16")
    is_good, base = True, 0.0
    headers = {"Authorization": f"Bearer {KEY}"}
    with tempfile.TemporaryDirectory(prefix="captiond-formats-") as folder:
        async with (
            serving(Path(folder)) as url,
            aiohttp.ClientSession(headers=headers) as session,
        ):
            for name, loss_max, content in forms(samples):
                error_rate = word_error_rate(truth, await text_of(session, url, content))
                base = error_rate if name == BASE else base
                is_within = error_rate <= base + loss_max + 1e-9
                is_good = is_good and is_within
                verdict = "ok" if is_within else f"MISS: above {base + loss_max:.3f}"
                show(f"{name:24} {len(content):8} bytes  WER {error_rate:.3f}  {verdict}")
    return is_good


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="as for the clients")
    if parser.parse_args().only not in "openai/formats":
        return 0
    return 0 if asyncio.run(measured(lambda line: print(line, flush=True))) else 1


if __name__ == "__main__":
    raise SystemExit(main())
