"""What docs/first-hour-meeting.md says of the browser, done in a real one with a fake microphone.

The microphone plays the first seconds of the demo clip: two people, each twice.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile

from tests.browser_page import ARGUMENTS, CHROMIUM, Page
from tests.first_hour import ROOT, Reader

CLIP = ROOT / "server" / "assets" / "demo_clip" / "clip.flac"
SPOKEN_SECONDS = 9.5
DONE_MS = 60_000
PHONE_SEES = "192.168.1.20"
"""The computer's address on the page."""
# The page's own policy forbids the evaluation of text, so no wait_for_function here.
LEVEL_MOVES = """async () => {
  while (!(document.getElementById("level").value > 0.05)) {
    await new Promise(requestAnimationFrame);
  }
}"""


class MeetingBrowser:
    """Its pages last from one step of the document to the next; call ``close`` at the end."""

    def __init__(self, playwright: Any, folder: Path) -> None:
        self._playwright = playwright
        self._spoken = folder / "spoken.wav"
        samples, rate = soundfile.read(CLIP, dtype="int16")
        soundfile.write(self._spoken, samples[: round(SPOKEN_SECONDS * rate)], rate)
        self._meeting: Page = None
        self._browsers: dict[bool, Any] = {}

    def close(self) -> None:
        for browser in self._browsers.values():
            browser.close()

    def listen(self, reader: Reader) -> None:
        """A conversation becomes finals, while the level moves."""
        page = self._meeting = self._opened(address_of(reader), microphone_allowed=True)
        start_listening(page)
        page.wait_for_selector("#finals li:nth-child(2)", timeout=DONE_MS)
        assert page.inner_text("#state") == "Listening"

    def save(self, reader: Reader) -> None:
        """A speaker gets a name; each file holds what is on the page."""
        page = self._meeting
        page.click("#stop")
        finished(page)
        name = page.locator("#speakers input").first
        name.fill("Robert")
        name.press("Enter")
        assert "Robert" in page.locator("#finals .who").all_text_contents()
        for kind in ("txt", "srt", "vtt", "json"):
            with page.expect_download() as download:
                page.click(f"#downloads button[data-format={kind}]")
            path = reader.terminals["second"].place / download.value.suggested_filename
            download.value.save_as(path)
            last = page.locator("#finals .words").last.inner_text()
            saved = path.read_text("utf-8")
            assert last.split()[-1] in saved
            assert {"txt": "Robert: ", "vtt": "<v Robert>"}.get(kind, "Robert") in saved
        page.close()

    def refused(self, reader: Reader) -> None:
        with self._visit(address_of(reader), microphone_allowed=False) as page:
            page.click("#microphone")
            page.wait_for_selector("#notice:visible")
            assert "not allowed for this page" in page.inner_text("#notice-text")

    def recording(self, reader: Reader) -> None:
        with self._visit(address_of(reader), microphone_allowed=False) as page:
            page.set_input_files("#file", self._spoken)
            finished(page)
            assert page.locator("#finals .words").count() > 0

    def better(self, reader: Reader) -> None:
        """The settings that the page names are there, and the recognizer is the one asked for."""
        with self._visit(address_of(reader), microphone_allowed=False) as page:
            page.click("#settings summary")
            page.select_option("#language", "en")
            page.fill("#keywords", "Robert, Berlin")
            page.set_input_files("#file", self._spoken)
            finished(page)
            assert "whisper" in page.inner_text("#figures")
            assert "Robert" in page.inner_text("#finals")

    def phone(self, reader: Reader) -> None:
        """From another address, by TLS with a certificate of one's own, with a key."""
        url = reader.replaced(f"https://{PHONE_SEES}:8710/")
        with self._visit(url, microphone_allowed=True) as page:
            assert page.evaluate("window.isSecureContext")
            page.click("#settings summary")
            page.fill("#key", "four-words-of-your-own")
            start_listening(page)
            page.click("#stop")
            finished(page)

    def _opened(self, url: str, *, microphone_allowed: bool) -> Page:
        page = self._browser(microphone_allowed).new_page(ignore_https_errors=True)
        page.goto(url)
        return page

    def _browser(self, microphone_allowed: bool) -> Any:
        """One that allows everything, and one whose user allows nothing."""
        if microphone_allowed not in self._browsers:
            allowed = ["--use-fake-ui-for-media-stream"] if microphone_allowed else []
            sound = f"--use-file-for-fake-audio-capture={self._spoken}"
            self._browsers[microphone_allowed] = self._playwright.chromium.launch(
                executable_path=CHROMIUM, args=[*ARGUMENTS, *allowed, sound]
            )
        return self._browsers[microphone_allowed]

    @contextmanager
    def _visit(self, url: str, *, microphone_allowed: bool) -> Iterator[Page]:
        page = self._opened(url, microphone_allowed=microphone_allowed)
        try:
            yield page
        finally:
            page.close()


def network_address() -> str:
    """This machine's own, which is not loopback where it has a network. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def address_of(reader: Reader) -> str:
    """Where the page says that it is: the server's own address, as the reader types it."""
    assert reader.server is not None
    return reader.server.address


def start_listening(page: Page) -> None:
    page.click("#microphone")
    page.wait_for_selector("#state:text-is('Listening')", timeout=DONE_MS)
    page.evaluate(LEVEL_MOVES)


def finished(page: Page) -> None:
    page.wait_for_selector("#state:text-is('Finished')", timeout=DONE_MS)
