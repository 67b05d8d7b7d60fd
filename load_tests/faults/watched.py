"""``captiond`` as it is, and SIGUSR1 makes it collect its garbage and count its event loop's tasks.

For tests of leaks: tasks are the one thing that cannot be counted from outside. The environment
variable ``TASKS_FILE`` says where; the file is complete as soon as it is there.
"""

import asyncio
import gc
import os
import signal
from collections import Counter
from pathlib import Path
from types import FrameType

import orjson

from server.__main__ import main

TASKS_FILE = "TASKS_FILE"


def count_tasks(_number: int, _frame: FrameType | None) -> None:
    """A signal handler: it runs in the loop's own thread, between two of its steps."""
    gc.collect()  # what waits for that is no leak, and megabytes at times
    names = Counter(kind_of(task) for task in asyncio.all_tasks())
    path = Path(os.environ[TASKS_FILE])
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(orjson.dumps(names))
    unfinished.replace(path)


def kind_of(task: asyncio.Task[object]) -> str:
    """What it runs, whoever it runs for."""
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, count_tasks)
    main()
