"""A browser with a fake microphone, and servers it can talk to.

Everything here is real: the browser is the system's, the servers are processes with the checkpoint
that ships, the microphone plays the demo clip into the browser's own capture.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import soundfile

from server.child import ServerChild, running_server
from tests.browser_page import (
    ARGUMENTS,
    CHROMIUM,
    MICROPHONE_ALLOWED,
    Browser,
    Page,
    clean_page,
)

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "server" / "assets" / "demo_clip" / "clip.flac"
PICTURES = ROOT / "docs" / "captions-page"
RATE = 16_000
LEAD_SECONDS = 4.0
"""Of silence before the clip: what a microphone hears before the session is open is not captioned.
A loaded machine needs two of them."""
TAIL_SECONDS = 1.5
DEMO = ("--asr", "demo", "--diarizer", "embedded")
SCRIPTED = ("--asr", "scripted", "--vad", "scripted", "--diarizer", "none")
DONE_SECONDS = 120.0

SHIFTS = """
window.shifts = {score: 0, worst: []};
window.forgetShifts = () => { window.shifts = {score: 0, worst: []}; };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    window.shifts.score += entry.value;
    const moved = entry.sources.map(({node}) => node?.className || node?.id || node?.nodeName);
    window.shifts.worst.push([Math.round(entry.value * 1e4) / 1e4, moved.join(" ")]);
  }
}).observe({type: "layout-shift", buffered: true});
"""
"""Adds up every shift that the browser sees, also those that come right after a key or a click."""


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the microphone plays, once: silence, the clip, silence."""
    samples, rate = soundfile.read(CLIP, dtype="int16")
    assert rate == RATE
    lead, tail = (np.zeros(round(s * RATE), np.int16) for s in (LEAD_SECONDS, TAIL_SECONDS))
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    soundfile.write(path, np.concatenate([lead, samples, tail]), RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="session")
def playwright_api() -> Any:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return pytest.importorskip(
        "playwright.async_api", reason="playwright is not installed: pip install 'captiond[test]'"
    )


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(playwright_api: Any, spoken: Path) -> AsyncIterator[Browser]:
    async with playwright_api.async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                *ARGUMENTS,
                MICROPHONE_ALLOWED,
                f"--use-file-for-fake-audio-capture={spoken}%noloop",
            ],
        )
        yield launched
        await launched.close()


@dataclass(slots=True)
class Place:
    """Where a server is, was, and will be again: its port and its store stay."""

    folder: Path
    port: int
    options: tuple[str, ...]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ServerChild]:
        async with running_server([*self.options, "--port", str(self.port)], self.folder) as child:
            yield child


def new_place(folder: Path, *options: str) -> Place:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Place(folder, port, options)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def scripted(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Address of a server whose engines answer what the audio spells out."""
    async with new_place(tmp_path_factory.mktemp("scripted"), *SCRIPTED).serving() as child:
        yield child.url


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the documents' pictures lie; these tests make them anew."""
    PICTURES.mkdir(exist_ok=True)
    return PICTURES


@asynccontextmanager
async def page_at(url: str, browser: Browser, **options: Any) -> AsyncIterator[Page]:
    """A clean one, which adds up how far things moved on it."""
    options = {"viewport": {"width": 960, "height": 600}, **options}
    async with clean_page(url, browser, script=SHIFTS, **options) as page:
        yield page


async def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = await page.locator(selector).all_text_contents()
    return found


async def until_state(page: Page, state: str, seconds: float = DONE_SECONDS) -> None:
    """Waits until the page says so of itself; fails with what it says instead."""
    is_there = page.locator("#state").filter(has_text=re.compile(f"^{state}$"))
    try:
        async with asyncio.timeout(seconds):
            await is_there.wait_for(timeout=0)
    except TimeoutError:
        pytest.fail(await page.inner_text("header") + await page.inner_text("main"))


async def finished(page: Page) -> None:
    await until_state(page, "Finished")


async def start_listening(page: Page) -> None:
    await page.click("#microphone")
    await until_state(page, "Listening")


async def heard_all(spoken: Path, started_s: float) -> None:
    """Returns when the microphone has played everything."""
    loop = asyncio.get_running_loop()
    left_s = soundfile.info(spoken).duration - (loop.time() - started_s)
    # A microphone has no event for this: its time is the wall's.
    await asyncio.sleep(max(0.0, left_s) + 0.5)


async def shifts(page: Page) -> tuple[float, list[Any]]:
    """Sum of the layout shifts since the page, or since ``forgetShifts``; the five largest."""
    seen = await page.evaluate("window.shifts")
    return seen["score"], sorted(seen["worst"], reverse=True)[:5]
