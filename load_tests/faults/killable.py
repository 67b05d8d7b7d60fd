"""``captiond`` as it is, and SIGUSR1 kills the process of its diarizer.

For tests of what captions owe to speakers: from outside all workers look alike. A process that is
not there, or not ready yet, is let be.
"""

import gc
import os
import signal
from functools import cache
from types import FrameType

from server.__main__ import main
from server.workers import EngineWorker
from streaming.events import SessionStage


@cache
def diarizers() -> tuple[EngineWorker, ...]:
    """Looked for once, because that takes a while: workers stay, their processes come and go."""
    found = (thing for thing in gc.get_objects() if isinstance(thing, EngineWorker))
    return tuple(worker for worker in found if worker.spec.stage is SessionStage.DIARIZATION)


def kill_diarizer(_number: int, _frame: FrameType | None) -> None:
    """A signal handler: it runs in the loop's own thread, between two of its steps."""
    for worker in diarizers():
        if worker.ready is not None and worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, kill_diarizer)
    main()
