"""The protocols of others that this server speaks, each an adapter over the same sessions."""

from aiohttp import web

from server.config import Settings
from server.connection import Connection
from server.guard import DIALECTS
from server.hub import Hub
from server.overload import Overload
from server.protocols.deepgram import DeepgramRoutes
from server.protocols.openai_rest import OpenAiRoutes


def add_foreign_protocols(
    app: web.Application,
    hub: Hub,
    overload: Overload,
    connections: set[Connection],
    settings: Settings,
) -> None:
    """Add their routes, and their way of telling errors."""
    app[DIALECTS] = {}
    DeepgramRoutes(hub, overload, connections, settings).add_to(app)
    OpenAiRoutes(hub, overload).add_to(app)
