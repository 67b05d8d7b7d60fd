"""The caption page in a real browser against a real server."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import soundfile

from clients.stream import CaptionStream
from streaming.exports.transcript import plain
from streaming.scripted_audio import word_text
from tests.browser_page import (
    ARGUMENTS,
    CHROMIUM,
    MICROPHONE_ALLOWED,
    Browser,
    Page,
    clean_page,
)
from tests.clients.conftest import scripted_clip, serving
from tests.clients.test_real_server import CuttingRelay, relay

playwright_api = pytest.importorskip(
    "playwright.async_api", reason="playwright is not installed: pip install 'captiond[test]'"
)
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

RATE = 16_000
DONE_MS = 30_000


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the browser's fake microphone hears."""
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    soundfile.write(path, scripted_clip(21, 20), RATE, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.wav"
    soundfile.write(path, scripted_clip(22, 20), RATE, subtype="PCM_16")
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(spoken: Path) -> AsyncIterator[Browser]:
    async with playwright_api.async_playwright() as playwright:
        launched = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[*ARGUMENTS, MICROPHONE_ALLOWED, f"--use-file-for-fake-audio-capture={spoken}"],
        )
        yield launched
        await launched.close()


async def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = await page.locator(selector).all_text_contents()
    return found


async def finished(page: Page) -> None:
    await page.wait_for_selector("#state:text-is('Finished')", timeout=DONE_MS)


def lines(stream: int, words: int) -> list[str]:
    numbers = [range(start, start + 5) for start in range(0, words, 5)]
    return [" ".join(word_text(stream, n) for n in five) for five in numbers]


async def test_a_wav_file_comes_through_word_for_word(
    real_server: str, browser: Browser, clip: Path
) -> None:
    async with clean_page(real_server, browser) as page:
        await page.set_input_files("#file", clip)
        await finished(page)
        assert await texts(page, "#finals .words") == lines(22, 20)
        assert await texts(page, "#open .words") == []
        assert await texts(page, "#announcer p") == lines(22, 20)
        assert re.search(r"RTFx .*20 words", await page.inner_text("#figures"))


@pytest.mark.parametrize("option", ["play", "channels"])
async def test_a_file_can_be_played_or_split_by_channel(
    real_server: str, browser: Browser, tmp_path: Path, option: str
) -> None:
    path = tmp_path / "short.wav"
    mono = scripted_clip(23, 5)
    channels = np.stack([mono, mono], axis=1) if option == "channels" else mono
    soundfile.write(path, channels, RATE, subtype="PCM_16")
    async with clean_page(real_server, browser) as page:
        await page.click("#settings summary")
        await page.check(f"#{option}")
        await page.set_input_files("#file", path)
        await finished(page)
        assert await texts(page, "#finals .words") == lines(23, 5) * (
            2 if option == "channels" else 1
        )


async def test_other_files_go_through_the_browsers_decoder(
    real_server: str, browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "clip.flac"
    soundfile.write(path, np.stack([scripted_clip(24, 5)] * 2, axis=1), RATE, subtype="PCM_16")
    async with clean_page(real_server, browser) as page:
        await page.set_input_files("#file", path)
        await finished(page)
        assert await texts(page, "#finals .words") == lines(24, 5)


async def test_what_is_no_sound_says_what_to_choose(
    real_server: str, browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "notes.wav"
    path.write_text("no sound")
    async with clean_page(real_server, browser) as page:
        await page.set_input_files("#file", path)
        await page.wait_for_selector("#notice:visible")
        assert "WAV, MP3, OGG, FLAC" in await page.inner_text("#notice-text")


async def test_cut_connections_lose_and_double_nothing(
    real_server: str, browser: Browser, clip: Path
) -> None:
    breaking = CuttingRelay(real_server, cuts=0, bytes_between=60_000)
    async with relay(breaking) as address:
        url = address.replace("ws://", "http://")
        async with clean_page(url, browser) as page:
            breaking.allow_cuts(5)
            await page.set_input_files("#file", clip)
            await finished(page)
            assert await texts(page, "#finals .words") == lines(22, 20)
    assert breaking.cuts_made == 5


async def test_the_microphone_is_heard_until_stop(real_server: str, browser: Browser) -> None:
    async with clean_page(real_server, browser) as page:
        await page.click("#microphone")
        await page.wait_for_selector("#state:text-is('Listening')")
        await page.evaluate(
            """async () => {
              while (!(document.getElementById("level").value > 0.1)) {
                await new Promise(requestAnimationFrame);
              }
            }"""
        )
        await page.wait_for_selector("#figures:text-matches('00:0[2-9]')")
        await page.click("#stop")
        await finished(page)
        assert await page.is_visible("#microphone")


async def test_transcripts_can_be_downloaded(
    real_server: str, browser: Browser, clip: Path
) -> None:
    async with clean_page(real_server, browser) as page:
        await page.set_input_files("#file", clip)
        await finished(page)
        for kind in ("txt", "srt", "vtt", "json"):
            async with page.expect_download() as download:
                await page.click(f"#downloads button[data-format={kind}]")
            path = await (await download.value).path()
            assert (await download.value).suggested_filename == f"captions.{kind}"
            assert word_text(22, 19) in await asyncio.to_thread(Path(path).read_text)


async def test_a_refused_microphone_says_where_to_allow_it(
    real_server: str, browser: Browser
) -> None:
    async with clean_page(real_server, browser) as page:
        await page.evaluate(
            """() => { navigator.mediaDevices.getUserMedia = async () => {
                 throw new DOMException("no", "NotAllowedError"); }; }"""
        )
        await page.click("#microphone")
        await page.wait_for_selector("#notice:visible")
        assert "address bar" in await page.inner_text("#notice-text")
        assert await page.inner_text("#state") == "Stopped"


async def test_a_page_by_plain_http_from_elsewhere_says_why_there_is_no_microphone(
    real_server: str, browser: Browser
) -> None:
    async with clean_page(real_server, browser) as page:
        await page.add_init_script(
            "Object.defineProperty(window, 'isSecureContext', {get: () => false})"
        )
        await page.reload()
        assert "https://" in await page.inner_text("#notice-text")


async def test_what_is_spoken_is_never_markup(real_server: str, browser: Browser) -> None:
    async with clean_page(real_server, browser) as page:
        await page.evaluate(
            """async () => {
              const { CaptionView } = await import("/static/view.js");
              const view = new CaptionView();
              const text = "<img src=x onerror=alert(1)> <b>bold</b>";
              view.apply({type: "final", seq: 1, caption_id: "c1", lane: 0, start: 0, end: 1, text,
                speaker: "<i>S1</i>", words: []});
              view.flush();
            }"""
        )
        assert await texts(page, "#finals .words") == ["<img src=x onerror=alert(1)> <b>bold</b>"]
        assert await texts(page, "#finals .who") == ["<i>S1</i>"]
        assert await page.locator("main img, main b, main i").count() == 0


async def test_revisions_recolour_words_and_names_can_be_given(
    real_server: str, browser: Browser
) -> None:
    async with clean_page(real_server, browser) as page:
        await page.evaluate(
            """async () => {
              const { CaptionView } = await import("/static/view.js");
              const view = new CaptionView();
              const word = (word, at) => ({word, start: at, end: at + 0.2, speaker: "S1"});
              view.apply({type: "final", seq: 1, caption_id: "c1", lane: 0, start: 0, end: 1,
                text: "one two three", speaker: "S1",
                words: [word("one", 0), word("two", 0.3), word("three", 0.6)]});
              view.apply({type: "revision", seq: 2, caption_id: "c1", rev: 1,
                runs: [{from_word: 1, to_word: 3, speaker: "S2"}]});
              view.flush();
            }"""
        )
        assert await texts(page, "#finals .words") == ["one", "two three"]
        assert await texts(page, "#finals .who") == ["Speaker 1", "Speaker 2"]
        await page.fill("#speakers input >> nth=1", "Alice")
        assert await texts(page, "#finals .who") == ["Speaker 1", "Alice"]


async def test_text_is_made_inert_as_in_the_exports(real_server: str, browser: Browser) -> None:
    characters = [chr(code) for code in range(0x10000) if not 0xD800 <= code < 0xE000]
    hostile = ["<b>bold</b>", " two\t\n \u3000 wide ", *(f" a{c}b {c}" for c in characters)]
    async with clean_page(real_server, browser) as page:
        made = await page.evaluate(
            """async (all) => {
              const { plain } = await import("/static/fold.js");
              return all.map(plain);
            }""",
            hostile,
        )
    assert made == [plain(text) for text in hostile]


async def test_a_reader_forgets_what_a_server_showed_and_lost(
    real_server: str, browser: Browser
) -> None:
    async with clean_page(real_server, browser) as page:
        seen = await page.evaluate(
            """async () => {
              const { SessionReader } = await import("/static/reader.js");
              const event = (seq, text, id = `id: ${seq}\\n`) =>
                `${id}data: ${JSON.stringify({type: "final", seq, text})}\\n\\n`;
              const about = 'event: session\\ndata: {"state":"open","names":{"S1":"Ann"}}\\n\\n';
              const lives = [
                about + event(1, "kept") + event(2, "lost", ""),
                event(2, "again") + ": keep-alive\\n\\n"
                  + 'id: 3\\ndata: {"type":"done","seq":3}\\n\\n',
              ];
              const places = [];
              const access = {read: async (id, path, headers) => {
                places.push(headers["Last-Event-ID"] ?? null);
                // In two pieces, the second of which begins inside a line.
                const [text, at] = [lives.shift(), 30];
                const pieces = [text.slice(0, at), text.slice(at)]
                  .map((piece) => new TextEncoder().encode(piece));
                return new Response(new ReadableStream({pull: (to) => {
                  if (pieces.length) to.enqueue(pieces.shift()); else to.close();
                }}));
              }};
              const said = [];
              await new SessionReader("s", access, {
                event: ({type, text}) => said.push(text ?? type),
                session: ({names}) => said.push(names.S1),
                forgetAfter: (seq) => said.push(`forget after ${seq}`),
                state: () => {},
              }).run();
              return [said, places];
            }"""
        )
    assert seen == [["Ann", "kept", "lost", "forget after 1", "again", "done"], [None, "1"]]


LOSING_SERVER = """
    const final = (seq, text) => ({type: "final", seq, caption_id: `c${seq}`, lane: 0, start: seq,
      end: seq + 0.5, text, speaker: "S1", words: [{word: text, start: seq, end: seq + 0.5,
      confidence: null, speaker: "S1"}]});
    const ready = (seq) => ({type: "ready", session_id: "s", resume_token: "t", seq,
      resume_from_frame: 0, credit_until_frame: 1e9, engines: {}, limits: {}});
    const lives = [
      [ready(0), final(1, "kept"), {type: "revision", seq: 2, caption_id: "c1", rev: 1,
        runs: [{from_word: 0, to_word: 1, speaker: "S2"}]}, final(3, "lost")],
      [ready(1), {...final(2, "again"), caption_id: "c3", start: 3, end: 3.5},
        {type: "done", seq: 3, words: 2, speakers: 1, rtfx: 1}],
    ];
    window.greetings = [];
    window.WebSocket = class {
      static OPEN = 1;
      bufferedAmount = 0;
      constructor() { setTimeout(() => { this.readyState = 1; this.onopen(); }); }
      send(data) {
        if (this.isGreeted) return;
        this.isGreeted = true;
        window.greetings.push(JSON.parse(data));
        for (const message of lives.shift()) this.onmessage({data: JSON.stringify(message)});
        this.close(1006);
      }
      close(code) {
        if (this.readyState !== 1) return;
        this.readyState = 3;
        this.onclose({code, reason: ""});
      }
    };
"""
"""It shows what it then loses, dies, and makes it anew."""


async def test_what_a_server_lost_and_makes_anew_is_shown_and_read_out_once(
    real_server: str, browser: Browser, clip: Path
) -> None:
    async with clean_page(real_server, browser) as page:
        await page.add_init_script(LOSING_SERVER)
        await page.reload()
        await page.set_input_files("#file", clip)
        await finished(page)
        assert await texts(page, "#finals .words") == ["kept", "again"]
        assert await page.locator("#finals .run").first.get_attribute("data-speaker") == "S1"
        assert await texts(page, "#announcer p") == ["Speaker 1: kept", "Speaker 1: lost"]
        assert await page.evaluate("window.greetings[1].last_seq") == 3


async def test_the_page_works_by_keyboard_and_fits_a_phone(
    real_server: str, browser: Browser, clip: Path
) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 720}, "color_scheme": "dark"}
    async with clean_page(real_server, browser, **phone) as page:
        for _ in ("skip link", "search", "microphone"):
            await page.keyboard.press("Tab")
        focused = await page.evaluate("document.activeElement.id")
        assert focused == "microphone"
        await page.set_input_files("#file", clip)
        await finished(page)
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_a_missing_key_is_asked_for_and_a_full_server_waited_for(
    tmp_path: Path, browser: Browser, clip: Path
) -> None:
    key = "0123456789abcdef"
    with serving(tmp_path, "--api-keys", f"page:{key}", "--sessions-max", "1") as url:
        async with clean_page(url, browser) as page:
            await page.set_input_files("#file", clip)
            await page.wait_for_selector("#notice-action:visible")
            assert "API key" in await page.inner_text("#notice-text")
            await page.fill("#key", key)
            async with CaptionStream.open(url, api_key=key) as other:
                await page.click("#notice-action")
                await page.wait_for_selector(
                    "#state:text-matches('sessions are taken.*trying again in')"
                )
                await other.end()
                assert [event async for event in other]
            await finished(page)
            assert await texts(page, "#finals .words") == lines(22, 20)
            await page.reload()
            assert await page.input_value("#key") == key
