"""``captiond top``: how a running server is, from its ``/metrics``, again and again.

Exit codes: 0 ended by ctrl-C or after one frame, 1 nothing answers, 2 wrong usage.
"""

import contextlib
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from clients.stream_command import DEFAULT_URL
from server.commands.top_figures import NotOurMetrics, Reading, figures_of, read_page
from server.commands.top_frame import frame_of

EXIT_FAILED, EXIT_USAGE = 1, 2
ANSWER_SECONDS_MAX = 5.0
INTERVAL_S_MIN, INTERVAL_S_MAX = 0.2, 60.0
SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}


class NoAnswer(Exception):
    """The metrics could not be read; the message is one line for people."""


def top(
    url: Annotated[str, typer.Option(envvar="CAPTIOND_URL", help="The server.")] = DEFAULT_URL,
    ca: Annotated[
        Path | None, typer.Option(help="PEM file to trust, for a certificate of your own.")
    ] = None,
    interval: Annotated[float, typer.Option(help="Seconds between two frames.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
) -> None:
    """Watch a running server: sessions, delays, engines, store, from its metrics."""
    if not INTERVAL_S_MIN <= interval <= INTERVAL_S_MAX:
        _refuse(f"--interval: from {INTERVAL_S_MIN:g} to {INTERVAL_S_MAX:g} s", EXIT_USAGE)
    try:
        address, trust = http_url(url), None if ca is None else _trust(ca)
    except ValueError as error:
        _refuse(str(error), EXIT_USAGE)
    console = Console()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            before = fetch(address, trust)
            if once:
                time.sleep(interval)
                console.print(frame_of(figures_of(before, fetch(address, trust)), address))
            else:
                _watch(console, address, trust, before, interval)
        except NoAnswer as error:
            _refuse(str(error), EXIT_FAILED)


def http_url(url: str) -> str:
    """Where the server's pages are, given the address of its streams or pages.

    Raises: ValueError, with what to write instead.
    """
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise ValueError(f"--url: {url!r} is no address; write it like {DEFAULT_URL}")
    return f"{SCHEMES[parts.scheme]}://{parts.netloc}"


def _trust(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"--ca: cannot use {ca}: {error.strerror or error}") from None


def fetch(address: str, trust: ssl.SSLContext | None = None) -> Reading:
    """One page of metrics. Raises: NoAnswer."""
    try:
        with _opener(trust).open(f"{address}/metrics", timeout=ANSWER_SECONDS_MAX) as answer:
            text = answer.read().decode(errors="replace")
        return read_page(text, time.monotonic())
    except NotOurMetrics as error:
        raise NoAnswer(f"{address}: {error}") from None
    except urllib.error.HTTPError as error:
        with error:
            raise NoAnswer(f"{address}/metrics answers {error.code} {error.reason}") from None
    except (OSError, urllib.error.URLError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise NoAnswer(f"no server answers at {address}: {reason}") from None


def _opener(trust: ssl.SSLContext | None) -> urllib.request.OpenerDirector:
    # No proxy: the server is our own, and what this machine uses for the web cannot reach it.
    no_proxy = urllib.request.ProxyHandler({})
    return urllib.request.build_opener(no_proxy, urllib.request.HTTPSHandler(context=trust))


def _watch(
    console: Console, address: str, trust: ssl.SSLContext | None, before: Reading, interval_s: float
) -> None:
    """Until ctrl-C. A server that does not answer is asked again: it may be restarting."""
    frame: RenderableType = Text("reading…")
    with Live(frame, console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while True:
            time.sleep(interval_s)
            try:
                now = fetch(address, trust)
            except NoAnswer as error:
                live.update(Group(Text(f"{error}\n", "bold red"), frame), refresh=True)
                continue
            frame = frame_of(figures_of(before, now), address)
            live.update(frame, refresh=True)
            before = now


def _refuse(reason: str, status: int) -> None:
    print(f"captiond: {reason}", file=sys.stderr)
    raise SystemExit(status)
