"""Languages and translation behind a real server with the checkpoint that ships."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from server.child import ServerChild, running_server
from server.scoring import word_error_rate
from streaming.wire import Configure, Start
from tests.system.spoken import DEMO, audio, caption, caption_in_two, text

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerChild]:
    async with running_server(DEMO, tmp_path_factory.mktemp("languages")) as child:
        yield child


async def test_german_is_detected_locked_and_transcribed(server: ServerChild) -> None:
    heard = await caption(server.url, audio("german"), Start())
    assert [event.language for event in heard.found] == ["de"]
    assert heard.found[0].probability > 0.9
    assert heard.found[0].seq < heard.finals[0].seq, "known before the first caption is read"
    assert heard.languages == ["de"] * 3
    assert word_error_rate(text("german"), heard.text) <= 0.1, heard.text


async def test_german_becomes_english_whether_it_is_named_or_found(server: ServerChild) -> None:
    named, found = await asyncio.gather(
        caption(server.url, audio("german"), Start(task="translate", language="de")),
        caption(server.url, audio("german"), Start(task="translate")),
    )
    assert named.found == []
    assert [event.language for event in found.found] == ["de"]
    for heard in (named, found):
        assert heard.languages == ["de"] * 3, "the language is that of the speech"
        assert word_error_rate(text("german", "translation"), heard.text) <= 0.15, heard.text
    assert named.text == found.text


async def test_a_language_that_was_found_stays(server: ServerChild) -> None:
    before, after = await caption_in_two(server.url, audio("names"), audio("german"), None)
    assert [event.language for event in before.found] == ["en"]
    assert after.found == []
    assert set(after.languages) == {"en"}


@pytest.mark.parametrize(("language", "found"), [(None, ["de"]), ("de", [])])
async def test_configure_changes_the_language(
    server: ServerChild, language: str | None, found: list[str]
) -> None:
    before, after = await caption_in_two(
        server.url, audio("names"), audio("german"), Configure(language=language)
    )
    assert before.languages == ["en"] * 3
    assert [event.language for event in after.found] == found
    assert after.languages == ["de"] * 3
    assert word_error_rate(text("german"), after.text) <= 0.1, after.text
