"""How much memory this server uses and may use, and how it gives back what it has freed.

Windows of speech are read out of the buffers, sent to a worker and freed, hundreds of kilobytes at
a time. glibc learns from that to keep such blocks in its heap, where small ones that live on cut
them up: with 200 sessions that holds about 0.3 MB for each. Above a fixed threshold it asks the
kernel for the block, and gives it back when it is freed.
For the front process alone: a worker's tensors are better off in the heap.
"""

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""Both from <malloc.h>."""
LARGE_BLOCK_BYTES = 128 * 1024
"""glibc's own first value, which it would otherwise raise: four seconds of audio."""

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_PROC = Path("/proc")
_LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")
"""Of cgroups, version 2 and 1."""


def give_large_blocks_back() -> bool:
    """Call once, early. False where the C library has no such setting."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    names = (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)
    return all(mallopt(name, LARGE_BLOCK_BYTES) == 1 for name in names)


def memory_limit_bytes(cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """What the machine has, or the container or service of this process may use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for folder in _own_folders(own_cgroup):
        limits += _limits_in(cgroup_root / folder)
    return min(limits)


def _own_folders(own_cgroup: Path) -> Iterator[Path]:
    """Relative to the root, with all their parents: each may set a limit.

    Lines are ``id:controllers:path``; version 2 has no controllers, version 1 has its memory limits
    under ``memory``.
    """
    yield from (Path(), Path("memory"))
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        own = Path(path.lstrip("/"))
        if not controllers or "memory" in controllers.split(","):
            mount = Path("memory" if controllers else "")
            yield from (mount / folder for folder in (own, *own.parents))


def _limits_in(folder: Path) -> Iterator[int]:
    for name in _LIMIT_FILES:
        try:
            yield int((folder / name).read_text())
        except (OSError, ValueError):  # "max" is no limit
            continue


def used_bytes(pids: Iterable[int], proc: Path = _PROC) -> int:
    """What these processes hold together, pages that they share counted once.

    A process that has ended holds nothing; 0 where the system does not tell (it is no Linux).
    """
    return sum(_proportional_bytes(proc / str(pid)) for pid in pids)


def _proportional_bytes(folder: Path) -> int:
    try:
        lines = (folder / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
