"""The system's browser with a fake microphone, and pages on which nothing may go wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from shutil import which
from typing import Any

CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--use-fake-device-for-media-stream",
)
MICROPHONE_ALLOWED = "--use-fake-ui-for-media-stream"

Page = Any
Browser = Any


@asynccontextmanager
async def clean_page(
    url: str, browser: Browser, *, script: str | None = None, **options: Any
) -> AsyncIterator[Page]:
    """A fresh page on which no error may be logged and no other server asked.

    ``script`` runs before the page's own. ``options`` are Playwright's for a page.
    """
    complaints: list[str] = []
    page = await browser.new_page(**options)
    origin = "/".join(url.split("/")[:3])
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: _note_foreign(request.url, origin, complaints))
    page.on("console", lambda message: _note_policy(message.text, complaints))
    if script is not None:
        await page.add_init_script(script)
    await page.goto(url)
    try:
        yield page
    finally:
        await page.close()
    assert complaints == []


def _note_foreign(asked: str, origin: str, complaints: list[str]) -> None:
    if not asked.startswith((origin, "blob:")):
        complaints.append(f"asked {asked}")


def _note_policy(text: str, complaints: list[str]) -> None:
    if "Content Security Policy" in text or "TrustedHTML" in text or "TrustedScript" in text:
        complaints.append(text)
