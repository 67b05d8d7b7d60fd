"""Environments and foreign servers: what fails says why."""

import sys
from pathlib import Path

import pytest

from load_tests.peers.environments import Environment, environment, named_for_english, ran
from load_tests.peers.system import PeerFailed, foreign_server, free_port

LISTENER = "import http.server, sys; http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), \
http.server.BaseHTTPRequestHandler).serve_forever()"


async def test_a_command_that_fails_tells_its_output() -> None:
    assert await ran([sys.executable, "-c", "print('made')"]) == "made\n"
    with pytest.raises(PeerFailed, match="no such package"):
        await ran([sys.executable, "-c", "raise SystemExit('no such package')"])


async def test_an_environment_that_stands_is_not_made_again(tmp_path: Path) -> None:
    import hashlib

    from load_tests.peers.environments import TORCH

    told = hashlib.sha256(f"{TORCH}\na\nb".encode()).hexdigest()[:12]
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / f"installed-{told}").touch()
    nowhere = Path("/nowhere/python")
    made = await environment("peer", ["a"], tmp_path, nowhere, alone=["b"])
    assert made.python == tmp_path / "peer" / "bin" / "python"
    with pytest.raises((PeerFailed, OSError)):
        await environment("peer", ["a", "other"], tmp_path, nowhere)


def test_versions_are_those_of_the_environment() -> None:
    here = Environment(Path(sys.prefix))
    assert here.versions("numpy")["numpy"].count(".") == 2


async def test_a_foreign_server_is_up_when_it_listens_and_gone_afterwards(tmp_path: Path) -> None:
    import psutil

    port = free_port()
    command = [sys.executable, "-c", LISTENER, str(port)]
    async with foreign_server(command, tmp_path, port, {}) as running:
        assert running.url == f"ws://127.0.0.1:{port}"
        assert psutil.pid_exists(running.pid)
    assert not psutil.pid_exists(running.pid)


async def test_a_server_that_dies_shows_its_log(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no model here')"]
    with pytest.raises(PeerFailed, match="no model here"):
        async with foreign_server(command, tmp_path, free_port(), {}):
            pass


def test_an_english_checkpoint_gets_an_english_name(tmp_path: Path) -> None:
    for name, tokens in (("small", 51_864), ("large", 51_866)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(f'{{"vocab_size": {tokens}}}')
    for _ in range(2):
        english = named_for_english(tmp_path / "small", tmp_path)
        assert english == tmp_path / "small.en"
        assert (english / "config.json").read_text() == '{"vocab_size": 51864}'
    assert named_for_english(english, tmp_path) == english
    assert named_for_english(tmp_path / "large", tmp_path) == tmp_path / "large"
