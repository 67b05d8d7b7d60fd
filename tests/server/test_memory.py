"""How much memory there is and is used; and that large blocks that were freed are given back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from server.memory import memory_limit_bytes, used_bytes

MIB = 1024 * 1024
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


@pytest.fixture
def cgroups(tmp_path: Path) -> tuple[Path, Path]:
    """An empty tree of control groups, and the file that says where this process is in it."""
    root = tmp_path / "cgroup"
    for folder in ("a/b", "memory/a/b"):
        (root / folder).mkdir(parents=True)
    return root, tmp_path / "own"


def machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("own", "limits", "expected_mib"),
    [
        ("0::/a/b\n", {"a/b/memory.max": 700, "a/memory.max": 600}, 600),
        ("0::/a/b\n", {"a/b/memory.max": 500, "a/memory.max": 600}, 500),
        ("4:memory:/a/b\n3:cpu:/a\n", {"memory/a/b/memory.limit_in_bytes": 300}, 300),
        ("3:cpu:/a/b\n", {"a/b/memory.max": 300}, None),
        ("0::/elsewhere\n", {"memory.max": 200}, 200),
    ],
)
def test_the_narrowest_limit_counts(
    own: str, limits: dict[str, int], expected_mib: int | None, cgroups: tuple[Path, Path]
) -> None:
    root, own_file = cgroups
    own_file.write_text(own)
    for name, mib in limits.items():
        (root / name).write_text(f"{mib * MIB}\n")
    expected = machine_bytes() if expected_mib is None else expected_mib * MIB
    assert memory_limit_bytes(root, own_file) == expected


def test_without_any_limit_it_is_the_machine(cgroups: tuple[Path, Path]) -> None:
    root, own_file = cgroups
    assert memory_limit_bytes(root, own_file) == machine_bytes()
    own_file.write_text("0::/a/b\n")
    (root / "a/memory.max").write_text("max\n")
    assert memory_limit_bytes(root, own_file) == machine_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_what_processes_use_is_added_up(tmp_path: Path) -> None:
    before = used_bytes([os.getpid()])
    block = np.ones(64 * MIB, np.int8)
    assert used_bytes([os.getpid()]) - before > 0.9 * len(block)
    for pid, kib in ((1, 1000), (2, 24)):
        (tmp_path / str(pid)).mkdir()
        lines = f"Rss: 9999 kB\nPss: {kib} kB\nPss_Anon: 7 kB\n"
        (tmp_path / str(pid) / "smaps_rollup").write_text(lines)
    assert used_bytes([1, 2, 3], tmp_path) == MIB
