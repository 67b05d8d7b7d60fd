"""Large blocks that were freed go back to the operating system, in a process of their own."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np, psutil
from server.memory import give_large_blocks_back

if sys.argv[1] == "yes" and not give_large_blocks_back():
    print("absent")
    sys.exit()
for _ in range(3):  # windows between small things that live on
    windows, kept = [], []
    for size in range(300_000, 1_200_000, 9_000):
        windows.append(np.ones(size, np.int8))
        kept.append([np.ones(2_048, np.int16) for _ in range(8)])
    held = psutil.Process().memory_info().rss
    del windows
print(held - psutil.Process().memory_info().rss)
"""


def freed_bytes(setting: str) -> int:
    command = [sys.executable, "-c", SCRIPT, setting]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    if result.stdout.strip() == "absent":
        pytest.skip("this C library has no such setting")
    return int(result.stdout)


def test_freed_windows_leave_the_process() -> None:
    windows_bytes = sum(range(300_000, 1_200_000, 9_000))
    assert freed_bytes("yes") > 0.9 * windows_bytes
    assert freed_bytes("no") < 0.5 * windows_bytes, "then the setting is not needed any more"
