"""Requests to OpenAI's API of a server, as their clients write them, and by hand."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from server.protocols import openai_rest
from tests.clients.conftest import scripted_clip
from tests.recordings import written
from tests.server_fakes import SECONDS_MAX, Front

KEY = "four-words-of-their-own"
PATH = openai_rest.TRANSCRIPTIONS_PATH
CLIP = scripted_clip(7, 12)
TEXT = " ".join(f"w{number}.7" for number in range(12))
RECORDING = written("flac", CLIP)
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Any
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Of a stream, without its end mark."""
        frames = self.body.split("\n\n")
        assert frames[-2:] == ["data: [DONE]", ""]
        return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


async def post(
    front: Front,
    *fields: tuple[str, str],
    path: str = PATH,
    file: bytes | None = RECORDING,
    is_file_first: bool = False,
    headers: dict[str, str] = AUTHORIZED,
) -> Reply:
    form = aiohttp.FormData(default_to_multipart=True)

    def add_file() -> None:
        if file is not None:
            form.add_field("file", file, filename="clip.bin")

    if is_file_first:
        add_file()
    for name, value in fields:
        form.add_field(name, value)
    if not is_file_first:
        add_file()
    async with (
        asyncio.timeout(SECONDS_MAX),
        aiohttp.ClientSession() as session,
        session.post(front.url + path, data=form, headers=headers) as response,
    ):
        return Reply(response.status, response.headers, await response.text())


async def get(front: Front, path: str, headers: dict[str, str] = AUTHORIZED) -> Reply:
    async with (
        aiohttp.ClientSession() as session,
        session.get(front.url + path, headers=headers) as response,
    ):
        return Reply(response.status, response.headers, await response.text())


# By hand


def head(length: int) -> bytes:
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


BODY = (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
    + RECORDING
    + b"\r\n--b--\r\n"
)


async def connected(front: Front) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(front.url)
    return await asyncio.open_connection(address.hostname, address.port)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
