"""A meeting, as its people see it: a microphone hears two speakers, an audience reads along.

The fake microphone plays the demo clip in real time, so each story here takes half a minute.
"""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.scoring import WordErrors, normalized, word_errors
from tests.browser.conftest import (
    CLIP,
    DEMO,
    Place,
    finished,
    heard_all,
    new_place,
    page_at,
    shifts,
    start_listening,
    texts,
    until_state,
)
from tests.browser_page import ARGUMENTS, CHROMIUM, Browser, Page

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

KEY = "meeting-0123456789abcdef"
SHIFT_MAX = 0.05
WORD_ERROR_RATE_MAX = 0.05
"""The clip is captioned without an error where it comes as a file; a microphone filters it."""
FORMATS = ("txt", "srt", "vtt", "json", "rttm", "stm", "ctm", "seglst")
REFERENCE = json.loads((CLIP.parent / "reference.json").read_text())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return new_place(tmp_path, *DEMO, "--api-keys", f"meeting:{KEY}")


async def with_key(page: Page) -> None:
    await page.click("#settings summary")
    await page.fill("#key", KEY)
    await page.click("#settings summary")


async def shared(page: Page) -> tuple[str, str]:
    """Addresses for an audience: to read along, and the overlay."""
    await page.click("#share-open")
    await page.click("#share button[type=submit]")
    await page.wait_for_selector("#share .links:visible")
    links = [await page.input_value(f"#share [name={name}]") for name in ("view", "overlay")]
    await page.click("#share .close")
    assert all(KEY not in link for link in links)
    return links[0], links[1]


async def said(page: Page) -> list[tuple[str, str]]:
    """(Name, words) of every run."""
    return list(
        zip(await texts(page, "#finals .who"), await texts(page, "#finals .words"), strict=True)
    )


def errors_of(runs: list[tuple[str, str]]) -> WordErrors:
    heard = " ".join(words for _, words in runs)
    return word_errors(normalized(REFERENCE["text"]), normalized(heard))


def speakers_right(runs: list[tuple[str, str]]) -> float:
    """Share of the reference's words that stand under the speaker who says most of its own."""
    told = [(who, word) for who, words in runs for word in normalized(words).split()]
    truth = [(w["speaker"], normalized(w["word"])) for w in REFERENCE["words"]]
    pairs: Counter[tuple[str, str]] = Counter()
    at = 0
    for who, word in told:
        for ahead in range(at, min(at + 4, len(truth))):
            if truth[ahead][1] == word:
                pairs[who, truth[ahead][0]] += 1
                at = ahead + 1
                break
    names = {who for who, _ in told}
    most = {who: max(pairs[who, "low"], pairs[who, "high"]) for who in names}
    return sum(most.values()) / len(truth)


async def test_a_microphone_two_speakers_an_audience_and_names(
    place: Place, browser: Browser, spoken: Path, pictures: Path, capsys: Any
) -> None:
    loop = asyncio.get_running_loop()
    async with place.serving(), page_at(place.url, browser) as talker:
        asked: list[str] = []
        talker.on("request", lambda request: asked.append(request.url))
        talker.on("websocket", lambda socket: asked.append(socket.url))
        await with_key(talker)
        started = loop.time()
        await start_listening(talker)
        view_url, overlay_url = await shared(talker)
        async with (
            page_at(view_url, browser) as first,
            page_at(view_url, browser, viewport={"width": 390, "height": 700}) as second,
            page_at(overlay_url, browser) as overlay,
        ):
            # What was opened by hand moved things; what counts is what moves while people read.
            await talker.evaluate("window.forgetShifts()")
            await talker.wait_for_selector("#open .words", timeout=60_000)
            await heard_all(spoken, started - 4)
            await talker.screenshot(path=pictures / "live.png")
            await overlay.screenshot(path=pictures / "overlay.png")
            await rename(talker, 0, "Robert")
            for page in (first, second):
                await page.wait_for_selector("#speakers span:text-is('Robert')")
            assert await overlay.locator(".line .words").first.inner_text()
            await heard_all(spoken, started)
            moved, worst = await shifts(talker)
            await talker.click("#stop")
            await finished(talker)
            await told_over(first)
            await told_over(second)

            runs = await said(talker)
            errors = errors_of(runs)
            right = speakers_right(runs)
            with capsys.disabled():
                print(f"\nwords: {errors}; right speaker: {right:.1%}; layout shift: {moved:.4f}")
            assert errors.rate is not None
            assert errors.rate <= WORD_ERROR_RATE_MAX, (runs, await talker.inner_text("#notice"))
            assert len({who for who, _ in runs}) == 2
            assert "Robert" in {who for who, _ in runs}
            assert right >= 0.9, runs
            assert moved <= SHIFT_MAX, worst
            assert await said(first) == await said(second) == runs

            await rename(talker, 1, "Susan")
            await reread(first)
            await reread(second)
            named = await said(talker)
            assert {who for who, _ in named} == {"Robert", "Susan"}
            assert await said(first) == await said(second) == named
            await first.screenshot(path=pictures / "viewer.png")
            await downloads(talker, first)
            assert any("/v1/tickets" in url for url in asked)
            assert not any(KEY in url or "#" in url for url in asked)


async def told_over(page: Page) -> None:
    await until_state(page, "Over")


async def rename(page: Page, number: int, name: str) -> None:
    """The speaker who was met so early."""
    field = page.locator("#speakers input").nth(number)
    async with page.expect_response(lambda answer: answer.url.endswith("/names")) as answer:
        await field.fill(name)
        await field.press("Enter")
    assert (await answer.value).status == 200


async def reread(page: Page) -> None:
    """The link is good again, and what comes has the names."""
    await page.reload()
    await told_over(page)


async def downloads(talker: Page, viewer: Page) -> None:
    """Every format, with the names and without the labels; the audience gets the same files."""
    for kind in FORMATS:
        bodies = []
        for page in (talker, viewer):
            async with page.expect_download() as download:
                await page.click(f"#downloads button[data-format={kind}]")
            path = await (await download.value).path()
            bodies.append(await asyncio.to_thread(Path(path).read_text, "utf-8"))
        assert bodies[0] == bodies[1]
        if kind != "ctm":  # which has no speakers
            assert all(name in bodies[0] for name in ("Robert", "Susan"))
            assert not re.search(r"\bS[12]\b", bodies[0])
        assert "budget" in bodies[0].lower() or kind == "rttm"


@pytest.mark.parametrize("is_crash", [True, False], ids=["killed", "restarted"])
async def test_a_restart_of_the_server_loses_no_word(
    place: Place, browser: Browser, spoken: Path, capsys: Any, is_crash: bool
) -> None:
    loop = asyncio.get_running_loop()
    async with place.serving() as first_server, page_at(place.url, browser) as talker:
        await with_key(talker)
        started = loop.time()
        await start_listening(talker)
        await talker.wait_for_selector("#finals li:nth-child(3)", timeout=60_000)
        if is_crash:
            first_server.kill()
            await first_server.process.wait()
        else:
            await first_server.stop()
        await talker.wait_for_selector("#state[data-state=retrying]", timeout=60_000)
        async with place.serving():
            await until_state(talker, "Listening")
            await heard_all(spoken, started)
            await talker.click("#stop")
            await finished(talker)
            runs = await said(talker)
            errors = errors_of(runs)
            figures = f"{await talker.inner_text('#figures')} {await talker.inner_text('#notice')}"
            with capsys.disabled():
                print(f"\nwords: {errors}; {loop.time() - started:.0f} s; {figures}")
            assert errors.deletions == errors.insertions == 0, runs
            assert errors.rate is not None
            assert errors.rate <= WORD_ERROR_RATE_MAX, runs


CALL = "http://call.localhost/"
CALL_PAGE = """<!doctype html><title>A call in a tab</title><audio src="/spoken.wav"></audio>"""


@asynccontextmanager
async def two_tabs(playwright_api: Any, spoken: Path, url: str) -> AsyncIterator[tuple[Page, Page]]:
    """The caption page, and a page with a call in it, which the browser shares when it is asked."""
    sharing = ("--auto-select-tab-capture-source-by-title=A call in a tab",)
    playing = ("--autoplay-policy=no-user-gesture-required",)
    quiet = [flag for flag in ARGUMENTS if "media-stream" not in flag]
    async with playwright_api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*quiet, *sharing, *playing],
            ignore_default_args=["--mute-audio"],
        )
        context = await browser.new_context()
        call, talker = await context.new_page(), await context.new_page()
        await call.route(
            f"{CALL}*", lambda route: route.fulfill(body=CALL_PAGE, content_type="text/html")
        )
        await call.route(f"{CALL}spoken.wav", lambda route: route.fulfill(path=spoken))
        await call.goto(CALL)
        await talker.goto(url)
        yield talker, call
        await browser.close()


async def test_a_call_in_another_tab_is_captioned(
    place: Place, playwright_api: Any, spoken: Path, capsys: Any
) -> None:
    loop = asyncio.get_running_loop()
    async with place.serving(), two_tabs(playwright_api, spoken, place.url) as (talker, call):
        await with_key(talker)
        await talker.click("#tab")
        await until_state(talker, "Listening")
        started = loop.time()
        await call.evaluate("document.querySelector('audio').play()")
        await heard_all(spoken, started)
        await talker.click("#stop")
        await finished(talker)
        errors = errors_of(await said(talker))
        with capsys.disabled():
            print(f"\nwords: {errors}")
        assert errors.rate is not None
        assert errors.rate <= WORD_ERROR_RATE_MAX, await said(talker)
