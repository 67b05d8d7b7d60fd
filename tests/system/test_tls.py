"""A real server with a certificate: captions over wss, the page over https, plain HTTP refused."""

import asyncio
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
import soundfile
import trustme

from server.child import ServerChild, running_server
from tests.system.talker import RATE, SCRIPTED, Talker, clip, texts

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

WORDS = 10
LOG_SECONDS_MAX = 20.0


class Authority:
    """Issues the server's files, again if need be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.trust = ssl.create_default_context(cafile=self.file)

    def issue(self) -> None:
        leaf = self._ca.issue_cert("127.0.0.1", "localhost")
        self.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.key.write_bytes(leaf.private_key_pem.bytes())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.issue()
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServerChild]:
    options = ["--tls-cert", str(authority.cert), "--tls-key", str(authority.key)]
    async with running_server([*SCRIPTED, *options], tmp_path_factory.mktemp("server")) as child:
        yield child


async def stream(server: ServerChild, audio: Path, *options: str) -> tuple[int | None, str, str]:
    """``captiond stream`` as a program: exit code, output, complaint."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "stream", str(audio), "--pace", "max"),
        *("--format", "txt", *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(program.communicate(), 60)
    return program.returncode, out.decode(), err.decode()


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "clip.wav"
    soundfile.write(path, np.frombuffer(clip(1, WORDS), np.int16), RATE, subtype="PCM_16")
    return path


async def test_captions_come_over_wss(server: ServerChild, authority: Authority) -> None:
    assert server.url.startswith("https://127.0.0.1:")
    talker = await Talker.connect(server.url, ssl=authority.trust)
    await talker.say("start")
    await talker.until("ready")
    await talker.socket.send(clip(1, WORDS))
    await talker.say("end")
    await talker.until("done")
    assert talker.words == texts(1, WORDS)
    await talker.socket.close()


async def test_the_page_and_its_health_come_over_https(
    server: ServerChild, authority: Authority
) -> None:
    async with aiohttp.ClientSession() as client:
        for path in ("/", "/readyz", "/metrics"):
            async with client.get(server.url + path, ssl=authority.trust) as response:
                assert response.status == 200
        origin = {"Origin": server.url}
        async with client.get(server.url + "/readyz", ssl=authority.trust, headers=origin) as same:
            assert same.status == 200


async def test_plain_http_is_told_to_speak_tls(server: ServerChild) -> None:
    plain = server.url.replace("https", "http")
    async with aiohttp.ClientSession() as client, client.post(plain, data=b"x" * 200_000) as answer:
        assert answer.status == 400
        assert "https://" in (await answer.json())["message"]


async def test_the_client_trusts_the_file_it_is_given(
    server: ServerChild, authority: Authority, audio: Path
) -> None:
    code, out, err = await stream(server, audio, "--url", server.url, "--ca", str(authority.file))
    assert (code, err) == (0, "")
    assert all(word in out for word in texts(1, WORDS))


async def test_the_client_tunes_its_own_session_within_the_servers_range(
    server: ServerChild, authority: Authority, audio: Path
) -> None:
    connect = ["--url", server.url, "--ca", str(authority.file)]
    tuned = ["--endpointing-ms", "1500", "--partial-interval-ms", "300", "--stable-only"]
    code, out, err = await stream(server, audio, *connect, *tuned)
    assert (code, err) == (0, "")
    # The clip's pause of 0.8 s ends an utterance of the server's, and none of this session's.
    (line,) = out.splitlines()
    assert all(word in line for word in texts(1, WORDS))
    code, _, err = await stream(server, audio, *connect, "--partial-interval-ms", "100")
    assert (code, "at least 200" in err) == (1, True)
    code, _, err = await stream(server, audio, *connect, "--max-delay-ms", "5")
    assert (code, "--max-delay-ms: " in err) == (2, True)


async def test_the_client_says_why_it_does_not_connect(
    server: ServerChild, authority: Authority, audio: Path
) -> None:
    plain = server.url.replace("https", "http")
    for options, said in (
        (["--url", server.url], "certificate is not trusted here"),
        (["--url", plain], "this port speaks TLS"),
        (["--url", plain, "--ca", str(authority.file)], "no TLS address"),
        (["--url", server.url, "--ca", str(audio)], "--ca: cannot use"),
    ):
        code, _, err = await stream(server, audio, *options)
        assert code in (1, 2)
        assert said in err
        assert err.count("\n") == 1, err


async def test_silent_and_broken_handshakes_leave_others_alone(
    server: ServerChild, authority: Authority
) -> None:
    port = int(server.url.rpartition(":")[2])
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    _, broken = await asyncio.open_connection("127.0.0.1", port)
    broken.write(b"\x16\x03\x01\x00\x05hello")
    await broken.drain()
    async with (
        aiohttp.ClientSession() as client,
        client.get(server.url + "/healthz", ssl=authority.trust) as response,
    ):
        assert response.status == 200
    for _, writer in [*silent, (None, broken)]:
        writer.close()


async def test_a_renewed_certificate_is_shown_after_sighup(
    server: ServerChild, authority: Authority
) -> None:
    async def serial() -> str:
        port = int(server.url.rpartition(":")[2])
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.trust)
        shown = writer.get_extra_info("peercert")["serialNumber"]
        writer.close()
        return str(shown)

    before = await serial()
    authority.issue()
    assert await serial() == before
    server.process.send_signal(signal.SIGHUP)
    async with asyncio.timeout(LOG_SECONDS_MAX):
        # The log is the only place that tells.
        while "certificate reloaded" not in server.log_path.read_text():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert await serial() != before


async def test_sigterm_drains_over_tls_too(server: ServerChild, authority: Authority) -> None:
    """Stops the server that the tests above share: the last one."""
    talker = await Talker.connect(server.url, ssl=authority.trust)
    await talker.say("start")
    await talker.until("ready")
    await talker.socket.send(clip(1, WORDS))
    await (await talker.socket.ping())  # a pong proves that the audio has arrived
    server.process.send_signal(signal.SIGTERM)
    assert await talker.until_closed() == 1012
    assert talker.words == texts(1, WORDS)
    assert await server.stop() == 0
