"""Sockets handed over and readiness told, with real descriptors and a real socket."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.config import Settings
from server.listener import refusal_of_open_sockets
from server.systemd import Systemd, SystemdError
from tests.socket_units import with_socket

CHILD = """
import os, sys
from server.systemd import Systemd, SystemdError
try:
    systemd = Systemd.take()
except SystemdError as error:
    sys.exit(str(error))
for listening in systemd.sockets:
    print(listening.getsockname()[1], os.get_inheritable(listening.fileno()))
    listening.close()
print([name for name in os.environ if name.startswith("LISTEN_")])
"""
ROOT = Path(__file__).parents[2]


def handed_over(passed: socket.socket, *, pid: str = "") -> subprocess.CompletedProcess[str]:
    """What a process makes of a socket that it was started with."""
    return subprocess.run(
        with_socket(passed, [sys.executable, "-c", CHILD], pid=pid),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=[passed.fileno()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


def test_a_listening_socket_is_taken_over_and_not_passed_on(listening: socket.socket) -> None:
    done = handed_over(listening)
    assert done.stdout.splitlines() == [f"{listening.getsockname()[1]} False", "[]"], done.stderr


def test_sockets_of_another_process_are_left_alone(listening: socket.socket) -> None:
    done = handed_over(listening, pid="1")
    assert done.stdout.splitlines() == ["[]"], done.stderr


def test_a_socket_of_another_kind_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "captiond"))
        local.listen()
        done = handed_over(local)
    assert done.returncode == 1
    assert "ListenStream= as address:port" in done.stderr
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        assert "no listening TCP socket" in handed_over(deaf).stderr


def test_a_descriptor_that_is_no_socket_is_refused() -> None:
    environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1000000"}
    with pytest.raises(SystemdError, match=r"descriptor \d+, which is no socket"):
        Systemd.take(environment)


def test_without_systemd_nothing_is_taken_and_nobody_told() -> None:
    systemd = Systemd.take({})
    assert systemd.sockets == ()
    systemd.notify("READY=1")


@pytest.mark.parametrize("is_abstract", [False, True])
def test_readiness_is_told(tmp_path: Path, is_abstract: bool) -> None:
    path = f"@{tmp_path}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path.replace("@", "\0"))
        environment = {"NOTIFY_SOCKET": path}
        Systemd.take(environment).notify("READY=1")
        assert systemd.recv(100) == b"READY=1"
    assert environment == {}


def test_a_systemd_that_has_gone_is_not_waited_for(tmp_path: Path) -> None:
    Systemd(notify_address=str(tmp_path / "nobody")).notify("READY=1")


@pytest.mark.parametrize(
    ("settings", "is_refused"),
    [
        (Settings(), True),
        (Settings(insecure=True), False),
        (Settings(api_keys=("ann:0123456789abcdef",)), False),
    ],
)
def test_a_socket_that_others_reach_needs_keys(settings: Settings, is_refused: bool) -> None:
    with socket.create_server(("0.0.0.0", 0)) as open_to_all:
        assert (refusal_of_open_sockets([open_to_all], settings) is not None) is is_refused


def test_a_socket_on_loopback_needs_none(listening: socket.socket) -> None:
    assert refusal_of_open_sockets([listening], Settings()) is None
