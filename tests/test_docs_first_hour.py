"""The first hours of three people: each page of docs/first-hour-*.md, typed as it stands.

tests/first_hour.py says how a page is run, and where the browser comes in. What a page shows and
this test does not run is marked on the page with the reason, and counted here.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.browser_page import CHROMIUM
from tests.first_hour import ROOT, Reader, blocks_of, missing_programs
from tests.first_hour_browser import PHONE_SEES, MeetingBrowser, network_address

DOCS = ROOT / "docs"
BLOCKS_NOT_RUN = {
    "first-hour-meeting.md": 2,
    "first-hour-bot.md": 2,
    "first-hour-operator.md": 3,
}
CHECKPOINT = ROOT / "server" / "assets" / "demo_whisper"
Steps = Mapping[str, Callable[[Reader], None]]


def follow(
    page: str,
    folder: Path,
    steps: Steps,
    stand_ins: Mapping[str, str] = {},
    variables: Mapping[str, str] = {},
) -> None:
    with ExitStack() as stack:
        reader = Reader(folder, steps, stack, stand_ins, variables)
        for block in blocks_of(DOCS / page):
            if block.reason_not_run is None and not missing_programs(block):
                reader.follow(block)


@pytest.mark.parametrize("page", sorted(BLOCKS_NOT_RUN))
def test_this_machine_has_the_programs_of_the_page(page: str) -> None:
    """What is skipped here was left out of the page's run."""
    missing = {name for block in blocks_of(DOCS / page) for name in missing_programs(block)}
    if missing:
        pytest.skip(f"not run without {', '.join(sorted(missing))}")


@pytest.mark.parametrize("page", sorted(BLOCKS_NOT_RUN))
def test_what_is_not_run_is_marked_and_counted(page: str) -> None:
    reasons = [block.reason_not_run for block in blocks_of(DOCS / page)]
    assert len([reason for reason in reasons if reason]) == BLOCKS_NOT_RUN[page]


def test_every_first_hour_is_among_those_that_are_run() -> None:
    assert {path.name for path in DOCS.glob("first-hour-*.md")} == set(BLOCKS_NOT_RUN)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_somebody_captions_their_own_meeting(tmp_path: Path) -> None:
    api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install 'captiond[test]'"
    )
    stand_ins = {"~/models/whisper-small": str(CHECKPOINT), PHONE_SEES: network_address()}
    with api.sync_playwright() as playwright:
        browser = MeetingBrowser(playwright, tmp_path)
        steps = {
            "listen": browser.listen,
            "save": browser.save,
            "refused": browser.refused,
            "recording": browser.recording,
            "better": browser.better,
            "phone": browser.phone,
        }
        try:
            follow("first-hour-meeting.md", tmp_path, steps, stand_ins)
        finally:
            browser.close()


@pytest.mark.slow
def test_a_bot_developer_streams_cuts_and_tests(tmp_path: Path) -> None:
    follow("first-hour-bot.md", tmp_path, {})


@pytest.mark.slow
def test_an_operator_secures_watches_and_upgrades(tmp_path: Path) -> None:
    steps = {"stop": Reader.stop_server, "hangup": certificate_is_reloaded}
    # No word on that page is about speakers, and a server without them starts sooner.
    follow("first-hour-operator.md", tmp_path, steps, variables={"CAPTIOND_DIARIZER": "none"})


def certificate_is_reloaded(reader: Reader) -> None:
    assert reader.server is not None
    reader.server.process.send_signal(signal.SIGHUP)
    reader.wait_for_log("certificate reloaded")


def test_a_bot_needs_only_the_packages_that_its_page_names() -> None:
    page = (DOCS / "first-hour-bot.md").read_text("utf-8")
    assert "pip install numpy orjson pydantic websockets soundfile\n" in page
    code = (
        "import sys, clients.stream, clients.live, clients.errors, streaming.exports\n"
        "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert not imported & {"torch", "transformers", "aiohttp", "sqlalchemy", "structlog", "typer"}
    assert {"numpy", "orjson", "pydantic", "websockets"} <= imported
