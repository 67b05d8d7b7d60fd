"""The examples of docs/python-client.md run, and the page quotes them as they are."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import soundfile

from clients.examples.caption_file import caption
from clients.examples.meeting_bot import caption_politely
from streaming.engines import Samples
from streaming.exports import Caption
from streaming.scripted_audio import word_text
from tests.clients.conftest import scripted_clip

ROOT = Path(__file__).parent.parent.parent
SNIPPETS = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "python-client.md").read_text("utf-8"), re.DOTALL
)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_each_snippet_is_part_of_an_example(snippet: str) -> None:
    sources = [path.read_text("utf-8") for path in (ROOT / "clients" / "examples").glob("*.py")]
    assert any(snippet in source for source in sources)


@pytest.mark.slow
async def test_a_recording_becomes_subtitles(real_server: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, scripted_clip(31, 10), 16_000, subtype="PCM_16")
    subtitles = await caption(str(path), real_server)
    assert all(word_text(31, number) in subtitles for number in range(10))
    assert "-->" in subtitles


async def packets(samples: Samples) -> AsyncIterator[bytes]:
    for at in range(0, len(samples), 1_600):
        yield samples[at : at + 1_600].tobytes()


async def arriving(
    **people: AsyncIterator[bytes],
) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
    for person in people.items():
        yield person


@pytest.mark.slow
async def test_a_meetings_participants_are_captioned_by_name(real_server: str) -> None:
    shown: list[Caption] = []

    def show(captions: list[Caption], open_lines: list[str]) -> None:
        shown[:] = captions

    people = arriving(Alice=packets(scripted_clip(32, 5)), Bob=packets(scripted_clip(33, 5)))
    assert await caption_politely(real_server, people, show) is not None
    said = {caption.speaker: caption.text for caption in shown}
    assert said == {
        name: " ".join(word_text(stream, number) for number in range(5))
        for name, stream in (("Alice", 32), ("Bob", 33))
    }


@pytest.mark.slow
async def test_a_bot_that_finds_no_server_says_so(caplog: pytest.LogCaptureFixture) -> None:
    people = arriving(Alice=packets(scripted_clip(34, 5)))
    assert await caption_politely("ws://127.0.0.1:9", people, lambda *_: None) is None
    assert "did not come back" in caplog.text
