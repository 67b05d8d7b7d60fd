"""A lane's received samples, addressed by their absolute index on the audio clock.

Owns: where samples lie in memory and the bound on them. Knows nothing of speech or of who reads.

Invariants:
B1  Between ``start`` and ``end`` every sample reads as it was appended; a hole reads as zeros.
B2  No more than ``samples_max`` samples are stored; what does not fit is refused whole.
B3  Memory is at most that of the stored samples and two chunks (under 1.25 times from a second on),
    holes or not: chunks lie on a fixed grid and one that nothing was appended to does not exist.
"""

from collections import OrderedDict

import numpy as np

from streaming.engines import Samples
from streaming.timeline import Span

CHUNK_SAMPLES = 2_048
"""4 kB: one page, and 128 ms of audio, so about eight allocations per second and lane."""


class BufferFull(Exception):
    """The samples do not fit; none of them was stored."""

    def __init__(self, stored_samples: int, samples: int, samples_max: int) -> None:
        super().__init__(
            f"{samples} samples do not fit beside {stored_samples} stored (at most {samples_max}); "
            "release what was decoded, or report the audio as a gap"
        )


class _Chunk:
    """One cell of the grid; what lies between its first and last appended sample is stored."""

    __slots__ = ("first", "last", "samples")

    def __init__(self, first: int) -> None:
        self.samples: Samples = np.zeros(CHUNK_SAMPLES, np.int16)
        self.first = self.last = first


class SampleBuffer:
    """Bounded, append at the end, release from the start, read anywhere between."""

    def __init__(self, samples_max: int, start: int = 0) -> None:
        self._samples_max = samples_max
        self._chunks: OrderedDict[int, _Chunk] = OrderedDict()
        self._stored = 0
        self._start = self._end = start

    @property
    def start(self) -> int:
        """The first sample that can still be read."""
        return self._start

    @property
    def end(self) -> int:
        """One past the last sample."""
        return self._end

    @property
    def stored_samples(self) -> int:
        """Samples that take memory; a hole shorter than a chunk may be among them."""
        return self._stored

    def append(self, samples: Samples) -> None:
        """Cost: O(samples). Raises: BufferFull, and then nothing was stored."""
        if samples.size == 0:
            return
        growth = self._end + samples.size - self._stored_end()
        if self._stored + growth > self._samples_max:
            raise BufferFull(self._stored, growth, self._samples_max)
        taken = 0
        while taken < samples.size:
            taken += self._fill_chunk(samples[taken:])

    def skip(self, samples: int) -> None:
        """Append a hole: time without audio."""
        if samples < 0:
            raise ValueError(f"a hole cannot be {samples} samples long")
        self._end += samples

    def read(self, span: Span) -> Samples:
        """A contiguous copy. Raises: LookupError outside of ``start`` to ``end``."""
        if span.start < self._start or span.end > self._end:
            raise LookupError(
                f"samples {span.start}..{span.end} asked for, {self._start}..{self._end} are held"
            )
        result = np.empty(span.samples, np.int16)
        for cell in range(span.start // CHUNK_SAMPLES, -(-span.end // CHUNK_SAMPLES)):
            chunk, origin = self._chunks.get(cell), cell * CHUNK_SAMPLES
            low, high = max(span.start, origin), min(span.end, origin + CHUNK_SAMPLES)
            source = 0 if chunk is None else chunk.samples[low - origin : high - origin]
            result[low - span.start : high - span.start] = source
        return result

    def has_audio(self, span: Span) -> bool:
        """False for a span that is a hole, as far as whole chunks tell."""
        cells = range(span.start // CHUNK_SAMPLES, -(-span.end // CHUNK_SAMPLES))
        return any(cell in self._chunks for cell in cells)

    def release(self, before: int) -> None:
        """Forget the samples before ``before``; what is released already, or unborn, stays so."""
        self._start = min(max(self._start, before), self._end)
        while self._chunks:
            chunk = next(iter(self._chunks.values()))
            released = min(max(chunk.first, self._start), chunk.last) - chunk.first
            self._stored -= released
            chunk.first += released
            if chunk.first < chunk.last:
                return
            self._chunks.popitem(last=False)

    def _stored_end(self) -> int:
        """Where the stored samples end in the chunk that ``end`` lies in; ``end`` in a new one."""
        chunk = self._chunks.get(self._end // CHUNK_SAMPLES)
        return self._end if chunk is None else chunk.last

    def _fill_chunk(self, samples: Samples) -> int:
        """Store what fits into the chunk at ``end``; returns how much that was."""
        cell, offset = divmod(self._end, CHUNK_SAMPLES)
        chunk = self._chunks.get(cell)
        if chunk is None:
            chunk = self._chunks[cell] = _Chunk(self._end)
        count = min(samples.size, CHUNK_SAMPLES - offset)
        chunk.samples[offset : offset + count] = samples[:count]
        self._end += count
        self._stored += self._end - chunk.last
        chunk.last = self._end
        return count
