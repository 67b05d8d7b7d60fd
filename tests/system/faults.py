"""System calls that fail in a running program: strace as a broken disk."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator

ATTACH_SECONDS_MAX = 20.0
FAILING_SYNC = ("fdatasync,fsync", "error=EIO")
FULL_DISK = ("pwrite64,ftruncate,fallocate", "error=ENOSPC")


def reason_without_strace() -> str | None:
    """Why faults cannot be injected here; None where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-f", "-e", "inject=getpid:error=ENOSYS", "-o", "/dev/null", "true"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return "ptrace is not permitted here"
    return None


@contextlib.asynccontextmanager
async def failing(pid: int, calls: str, injection: str) -> AsyncIterator[None]:
    """Inside the block, these system calls of the process and its threads fail."""
    command = ["-f", "-p", str(pid), "-e", f"trace={calls}", "-e", f"inject={calls}:{injection}"]
    strace = await asyncio.create_subprocess_exec(
        "strace", *command, "-o", "/dev/null", stderr=asyncio.subprocess.PIPE
    )
    try:
        assert strace.stderr is not None
        async with asyncio.timeout(ATTACH_SECONDS_MAX):
            line = await strace.stderr.readline()
        assert b"attached" in line, line
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            strace.terminate()
        await strace.communicate()
