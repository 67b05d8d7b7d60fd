"""The same seeds in two interpreters with different hash seeds: ``python -m
load_tests.faults.same_logs --seeds 200``.

A simulated world that depends on anything but its seed cannot be replayed. Logs are compared by
their digests, because those of many seeds are hundreds of megabytes.
"""

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence

HASH_SEEDS = ("1", "2")
READ_BYTES = 1 << 20


async def log_digest(hash_seed: str, seeds: int, first: int) -> tuple[str, int]:
    """SHA-256 and length of the logs of these seeds. Raises: RuntimeError where a run crashed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.sim", "--logs"),
        *("--seeds", str(seeds), "--from", str(first)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert process.stdout is not None
    digest, size = hashlib.sha256(), 0
    while chunk := await process.stdout.read(READ_BYTES):
        digest.update(chunk)
        size += len(chunk)
    # A world in which something went wrong has a log as well.
    if await process.wait() not in (0, 1) or size == 0:
        raise RuntimeError(f"no logs: status {process.returncode}; try: make sim SEEDS={seeds}")
    return digest.hexdigest(), size


async def measure(seeds: int, first: int) -> list[tuple[str, int]]:
    """One after the other: each takes all cores."""
    return [await log_digest(hash_seed, seeds, first) for hash_seed in HASH_SEEDS]


def main(words: Sequence[str] | None = None) -> int:
    """Print what was compared; 1 where the logs differ."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.same_logs")
    parser.add_argument("--seeds", type=int, default=200, help="how many [200]")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them [0]")
    given = parser.parse_args(words)
    (digest, size), other = asyncio.run(measure(given.seeds, given.first))
    verdict = "identical" if other == (digest, size) else "DIFFERENT"
    print(f"logs of {given.seeds} seeds in two interpreters: {verdict}, {size / 1e6:.1f} MB each")
    return 0 if other == (digest, size) else 1


if __name__ == "__main__":
    sys.exit(main())
