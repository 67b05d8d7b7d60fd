"""A diarizer whose embeddings are made once and kept on disk: trials cost clustering only."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.engines.embedded_diarizer import EmbeddedDiarizer
from server.engines.ge2e import DIMENSIONS, SpeakerEncoder
from streaming.engines import Observation, SpeakerChunk

BATCH_CHUNKS = 64


class CachedEmbeddings:
    """One file for all recordings; by the chunks' samples, so that any cutting can use it."""

    def __init__(self, file: Path, encoder: SpeakerEncoder) -> None:
        self._file, self._encoder = file, encoder
        self._rows: dict[bytes, NDArray[np.float32]] = {}
        """Shape (2, DIMENSIONS): of all of a chunk, and of its opening."""
        self._saved = 0
        if file.is_file():
            kept = np.load(file)
            self._rows = {
                bytes(key): row for key, row in zip(kept["keys"], kept["rows"], strict=True)
            }
            self._saved = len(self._rows)

    def observe(self, chunks: Sequence[SpeakerChunk]) -> list[Observation]:
        """As the embedded diarizer."""
        keys = [
            hashlib.blake2b(chunk.samples.tobytes(), digest_size=16).digest() for chunk in chunks
        ]
        missing = {
            key: chunk for key, chunk in zip(keys, chunks, strict=True) if key not in self._rows
        }
        for start in range(0, len(missing), BATCH_CHUNKS):
            batch = list(missing)[start : start + BATCH_CHUNKS]
            found = self._encoder.embed_with_openings(
                [missing[key].samples for key in batch], EmbeddedDiarizer.profile.opening_samples
            )
            self._rows.update(zip(batch, np.stack(found, axis=1), strict=True))
        always = np.ones((1, 1), np.float32)
        return [Observation(always, *self._rows[key][:, None]) for key in keys]

    def save(self) -> None:
        if len(self._rows) == self._saved:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(self._rows), np.uint8).reshape(-1, 16)
        rows = np.concatenate(
            [np.zeros((0, 2, DIMENSIONS), np.float32), *(r[None] for r in self._rows.values())]
        )
        np.savez(self._file, keys=keys, rows=rows)
        self._saved = len(self._rows)
