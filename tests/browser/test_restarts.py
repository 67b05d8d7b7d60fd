"""A server dies or is restarted while the page talks to it: every word is there, once, in order.

The audio spells out its words (``streaming/scripted_audio.py``): one changed sample, and a word is
not found. A file is read sample for sample; a microphone that gives just these samples, at the
pace of speech, goes through the page's own capture.
"""

import base64
from pathlib import Path

import numpy as np
import pytest
import soundfile

from server.child import ServerChild
from tests.browser.conftest import (
    SCRIPTED,
    Place,
    finished,
    new_place,
    page_at,
    start_listening,
    texts,
    until_state,
)
from tests.browser_page import Browser, Page
from tests.system.talker import RATE, clip
from tests.system.talker import texts as spoken

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

FILE_WORDS = 300
LIVE_WORDS = 60
SLOW = ("--asr-options", "latency_ms=150", "--buffer-s", "30")
"""So little credit, and captions so late, that the file is on its way for some seconds."""
SOON = ("--drain-s", "2")
"""Or the file would be taken to its end first."""
CAPTIONS_BEFORE = 4
LIVE_MS = 120_000
PLAYED = "html[data-played]"

MICROPHONE = """
navigator.mediaDevices.getUserMedia = async () => {
  const context = new AudioContext({sampleRate: RATE});
  const bytes = Uint8Array.from(atob("PCM"), (char) => char.charCodeAt(0));
  // The scale on which the page's worklet goes back to integers.
  const levels = Array.from(new Int16Array(bytes.buffer), (v) => v / (v < 0 ? 32768 : 32767));
  const buffer = context.createBuffer(1, levels.length, RATE);
  buffer.copyToChannel(Float32Array.from(levels), 0);
  const source = new AudioBufferSourceNode(context, {buffer});
  const out = new MediaStreamAudioDestinationNode(context, {channelCount: 1});
  source.connect(out);
  source.onended = () => { document.documentElement.dataset.played = "yes"; };
  window.play = () => source.start();
  return out.stream;
};
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path, *SCRIPTED, *SLOW, *SOON)


async def shown(page: Page) -> list[str]:
    return " ".join(await texts(page, "#finals .words")).split()


async def stop(server: ServerChild, page: Page, *, is_crash: bool) -> None:
    """When some captions are there, and more are to come."""
    await page.wait_for_selector(f"#finals li:nth-child({CAPTIONS_BEFORE})", timeout=60_000)
    if is_crash:
        server.kill()
        await server.process.wait()
    else:
        assert await server.stop() == 0
    await page.wait_for_selector("#state[data-state=retrying]", timeout=60_000)


@pytest.mark.parametrize("is_crash", [True, False], ids=["killed", "restarted"])
async def test_a_file_is_captioned_word_for_word(
    place: Place, browser: Browser, tmp_path: Path, is_crash: bool
) -> None:
    path = tmp_path / "spoken.wav"
    samples = np.frombuffer(clip(1, FILE_WORDS), np.int16)
    soundfile.write(path, samples, RATE, subtype="PCM_16")
    async with place.serving() as server, page_at(place.url, browser) as page:
        await page.set_input_files("#file", path)
        await stop(server, page, is_crash=is_crash)
        before = len(await shown(page))
        async with place.serving():
            await finished(page)
        assert await shown(page) == spoken(1, FILE_WORDS)
        assert before < FILE_WORDS


@pytest.mark.parametrize("is_crash", [True, False], ids=["killed", "restarted"])
async def test_live_talk_is_captioned_word_for_word(
    place: Place, browser: Browser, is_crash: bool
) -> None:
    pcm = base64.b64encode(clip(2, LIVE_WORDS)).decode()
    async with place.serving() as server, page_at(place.url, browser) as page:
        await page.evaluate(MICROPHONE.replace("RATE", str(RATE)).replace("PCM", pcm))
        await start_listening(page)
        await page.evaluate("window.play()")
        await stop(server, page, is_crash=is_crash)
        assert not await page.locator(PLAYED).count()
        async with place.serving():
            await until_state(page, "Listening")
            await page.wait_for_selector(PLAYED, timeout=LIVE_MS, state="attached")
            await page.click("#stop")
            await finished(page)
        assert await shown(page) == spoken(2, LIVE_WORDS)
