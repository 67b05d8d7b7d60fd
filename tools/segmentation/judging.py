"""How wrong a segmentation is, frame by frame, without a collar and with overlap scored.

Detection error is miss plus false alarm over the truth's speech. Local speaker error is a
diarization error within one chunk: the best order of that chunk's local speakers counts, so no
clustering has a part in it.
"""

from dataclasses import dataclass, fields
from itertools import permutations

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of frames (any hop, the same for all that are added up)."""

    speech: int = 0
    miss: int = 0
    false_alarm: int = 0
    overlap: int = 0
    overlap_found: int = 0
    overlap_right: int = 0
    spoken: int = 0
    """Speech with each speaker counted: the denominator of the local speaker error."""
    spoken_wrong: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        sums = (getattr(self, f.name) + getattr(other, f.name) for f in fields(Tally))
        return Tally(*sums)

    @property
    def detection_error(self) -> float:
        return _share(self.miss + self.false_alarm, self.speech)

    @property
    def local_error(self) -> float:
        return _share(self.spoken_wrong, self.spoken)

    @property
    def overlap_precision(self) -> float:
        return _share(self.overlap_right, self.overlap_found)

    @property
    def overlap_recall(self) -> float:
        return _share(self.overlap_right, self.overlap)


def judge(truth: Frames, found: Frames) -> Tally:
    """One chunk. Shapes (people, frames) and (local speakers, frames)."""
    speech, heard = truth.any(axis=0), found.any(axis=0)
    crowd, found_crowd = truth.sum(axis=0) > 1, found.sum(axis=0) > 1
    return Tally(
        speech=int(speech.sum()),
        miss=int((speech & ~heard).sum()),
        false_alarm=int((heard & ~speech).sum()),
        overlap=int(crowd.sum()),
        overlap_found=int(found_crowd.sum()),
        overlap_right=int((crowd & found_crowd).sum()),
        spoken=int(truth.sum()),
        spoken_wrong=_speaker_errors(truth, found),
    )


def _speaker_errors(truth: Frames, found: Frames) -> int:
    """Miss, false alarm and confusion of speakers, in frames, under the best order."""
    rows = max(len(truth), len(found))
    truth, found = _with_rows(truth, rows), _with_rows(found, rows)
    together = truth.astype(np.int64) @ found.T.astype(np.int64)
    right = max(
        sum(int(together[row, other]) for row, other in enumerate(order))
        for order in permutations(range(rows))
    )
    counts, found_counts = truth.sum(axis=0), found.sum(axis=0)
    return int(np.maximum(counts, found_counts).sum()) - right


def _with_rows(frames: Frames, rows: int) -> Frames:
    return np.pad(frames, ((0, rows - len(frames)), (0, 0)))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
