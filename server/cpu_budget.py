"""How many processors this process may really use: affinity and container quota, not the host's."""

import os
from pathlib import Path

_CGROUP_ROOT = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def cpu_budget(cgroup_root: Path = _CGROUP_ROOT, own_cgroup: Path = _OWN_CGROUP) -> int:
    """Whole processors, at least 1; a quota of 2.5 processors counts as 2."""
    allowed = float(_affinity())
    for quota_us, period_us in _quotas(cgroup_root, _own_folders(own_cgroup)):
        if quota_us > 0 and period_us > 0:
            allowed = min(allowed, quota_us / period_us)
    return max(1, int(allowed))


def _affinity() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _own_folders(own_cgroup: Path) -> list[Path]:
    """Our cgroup's folders relative to the root, with all their parents: each may set a quota.

    Lines are ``id:controllers:path``: version 2 has no controllers, version 1 mounts those of the
    processor under ``cpu`` or ``cpu,cpuacct``.
    """
    folders = {Path(), Path("cpu"), Path("cpu,cpuacct")}
    try:
        lines = own_cgroup.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        mounts = [Path("cpu"), Path("cpu,cpuacct")] if controllers else [Path()]
        folders |= {mount / folder for mount in mounts for folder in (own, *own.parents)}
    return sorted(folders)


def _quotas(root: Path, folders: list[Path]) -> list[tuple[int, int]]:
    found = (_read_v2(root / folder) or _read_v1(root / folder) for folder in folders)
    return [quota for quota in found if quota is not None]


def _read_v2(folder: Path) -> tuple[int, int] | None:
    """``cpu.max`` holds ``quota period`` or ``max period``, in microseconds."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota), int(period)
    except (OSError, ValueError):
        return None


def _read_v1(folder: Path) -> tuple[int, int] | None:
    """A quota of -1 is none."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        return quota, int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
