"""The server that is killed: its port, and whether a kill leaves anybody behind.

Its lives and deaths are in ``test_faults_kills.py``, with a real server.
"""

import asyncio
import os
import subprocess

import psutil

from load_tests.faults.victim import PORTS, free_port, survivors


def test_a_port_that_no_client_is_given() -> None:
    assert free_port() in PORTS


def test_who_outlives_a_kill_is_counted() -> None:
    with (
        subprocess.Popen(["cat"], stdin=subprocess.PIPE) as living,
        subprocess.Popen(["true"]) as dead,
    ):
        both = [psutil.Process(child.pid) for child in (living, dead)]
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie
        assert asyncio.run(survivors(both, 0.0)) == 1
        assert asyncio.run(survivors(both[1:], 60.0)) == 0
        living.kill()
    assert asyncio.run(survivors(both, 60.0)) == 0
