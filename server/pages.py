"""The caption page, the viewers' page and the overlay: files of the installed package.

Owns: what may be served, and the fence around it. The pages are the same for everyone and know no
session; which one they show is in their address, and who may read it is asked by their requests.
"""

import functools
import importlib.resources

from aiohttp import hdrs, web

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), display-capture=(self), camera=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def add_pages(app: web.Application) -> None:
    app.router.add_get("/", functools.partial(_page, "index.html"))
    app.router.add_get("/view/{id}", functools.partial(_page, "view.html"))
    app.router.add_get("/overlay/{id}", functools.partial(_page, "overlay.html"))
    app.router.add_get("/static/{name}", _file)


async def _page(name: str, _: web.Request) -> web.Response:
    return _answer(name)


async def _file(request: web.Request) -> web.Response:
    return _answer(request.match_info["name"])


def _answer(name: str) -> web.Response:
    body = page_files().get(name)
    if body is None:
        raise web.HTTPNotFound
    return web.Response(
        body=body, headers={**HEADERS, hdrs.CONTENT_TYPE: MEDIA_TYPES[_suffix(name)]}
    )


@functools.cache
def page_files() -> dict[str, bytes]:
    """Name → content of all that may be served; read once."""
    files = importlib.resources.files("clients.web").iterdir()
    return {file.name: file.read_bytes() for file in files if _suffix(file.name) in MEDIA_TYPES}


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]
