"""Servers for the tests of this folder; a module that needs other settings starts its own."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from server.child import ServerChild, running_server
from tests.system.talker import SCRIPTED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerChild]:
    """One per module, with the module's ``SERVER_OPTIONS`` on top of the scripted engines."""
    options = request.module.SERVER_OPTIONS
    folder = tmp_path_factory.mktemp("server")
    async with running_server([*SCRIPTED, *options], folder) as child:
        yield child
