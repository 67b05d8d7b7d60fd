"""Prompts and keywords behind a real server: they change the word they mean, and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from server.child import ServerChild, running_server
from streaming.timeline import SAMPLE_RATE_HZ
from streaming.wire import Configure, Start
from tests.system.spoken import DEMO, audio, caption, caption_in_two, text

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

NOT_SAID = ["Kubernetes", "Annah", "budget", "Laura", "Friday"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ServerChild]:
    async with running_server(DEMO, tmp_path_factory.mktemp("keywords")) as child:
        yield child


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plain(server: ServerChild) -> str:
    """The names as they are written where nobody says otherwise."""
    heard = await caption(server.url, audio("names"), Start(language="en"))
    assert heard.text == text("names")
    return heard.text


@pytest.mark.parametrize(
    "hint",
    [
        {"keywords": ["Roberto"]},
        {"keywords": [*NOT_SAID, "Roberto"]},
        {"prompt": "Thank you, Roberto. We need to test the server before Friday."},
        {"keywords": ["Kubernetes"], "prompt": "Hello, this is Roberto in Madrid."},
    ],
    ids=["keyword", "keyword among others", "prompt", "both"],
)
async def test_a_keyword_changes_the_word_it_means_and_nothing_else(
    server: ServerChild, plain: str, hint: dict[str, Any]
) -> None:
    heard = await caption(server.url, audio("names"), Start(language="en", **hint))
    assert heard.text == plain.replace("Robert", "Roberto")


async def test_several_keywords_change_a_word_each(server: ServerChild, plain: str) -> None:
    start = Start(language="en", keywords=["Susann", "Roberto"])
    heard = await caption(server.url, audio("names"), start)
    assert heard.text == plain.replace("Robert", "Roberto").replace("Susan", "Susann")


async def test_keywords_that_are_not_said_change_nothing(server: ServerChild, plain: str) -> None:
    start = Start(language="en", keywords=NOT_SAID)
    assert (await caption(server.url, audio("names"), start)).text == plain


async def test_keywords_are_not_written_into_silence(server: ServerChild) -> None:
    rng = np.random.default_rng(3)
    noise = (rng.standard_normal(8 * SAMPLE_RATE_HZ) * 300).astype(np.int16)
    heard = await caption(server.url, noise, Start(keywords=["Roberto", "Susann", "Annah"]))
    assert heard.text == ""


async def test_configure_changes_the_keywords(server: ServerChild, plain: str) -> None:
    before, after = await caption_in_two(
        server.url, audio("names"), audio("names"), Configure(keywords=["Roberto"])
    )
    assert before.text == plain
    assert after.text == plain.replace("Robert", "Roberto")
