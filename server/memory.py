"""How this process gives memory back: one setting of the C library, where there is one.

Windows of speech are read out of the buffers, sent to a worker and freed, hundreds of kilobytes at
a time. glibc learns from that to keep such blocks in its heap, where small ones that live on cut
them up: with 200 sessions that holds about 0.3 MB for each. Above a fixed threshold it asks the
kernel for the block, and gives it back when it is freed.
For the front process alone: a worker's tensors are better off in the heap.
"""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""Both from <malloc.h>."""
LARGE_BLOCK_BYTES = 128 * 1024
"""glibc's own first value, which it would otherwise raise: four seconds of audio."""


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
