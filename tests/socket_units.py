"""Starts a program as systemd does for a unit with a socket: descriptor 3, and two variables."""

import socket
import sys

_LAUNCH = """
import os, sys
number, pid, *command = sys.argv[1:]
os.dup2(int(number), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=pid or str(os.getpid()), LISTEN_FDS="1")
os.execv(command[0], command)
"""
"""The hand-over counts from descriptor 3, which the test's own process may not give away."""


def with_socket(passed: socket.socket, command: list[str], *, pid: str = "") -> list[str]:
    """A command line that runs ``command``; start it with ``pass_fds=[passed.fileno()]``."""
    return [sys.executable, "-c", _LAUNCH, str(passed.fileno()), pid, *command]
