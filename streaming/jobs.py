"""What a session asks of the engines, as data that a scheduler can order and a worker can answer.

A job is answered at most once: by its result, its failure, or the news that it lost its place in
the queue. Its number is unique within its session, so a late answer is recognized and dropped.
"""

from dataclasses import dataclass
from enum import StrEnum

from streaming.engines import (
    Activity,
    ActivityWindow,
    ClusterQuestion,
    Clusters,
    Hypothesis,
    Observation,
    SpeakerChunk,
    SpeechWindow,
)
from streaming.events import SessionStage

Question = ActivityWindow | SpeechWindow | SpeakerChunk | ClusterQuestion
Answer = Activity | Hypothesis | Observation | Clusters


class JobKind(StrEnum):
    """The engine method that answers the job."""

    DETECT = "detect"
    RECOGNIZE = "recognize"
    OBSERVE = "observe"
    CLUSTER = "cluster"


STAGE_OF_KIND = {
    JobKind.DETECT: SessionStage.ACTIVITY,
    JobKind.RECOGNIZE: SessionStage.RECOGNITION,
    JobKind.OBSERVE: SessionStage.DIARIZATION,
    JobKind.CLUSTER: SessionStage.DIARIZATION,
}


PATIENCE_NS = {
    JobKind.DETECT: 100_000_000,
    JobKind.RECOGNIZE: 1_000_000_000,
    JobKind.OBSERVE: 2_000_000_000,
    JobKind.CLUSTER: 3_000_000_000,
}
"""How long after its audio was there (or would be, at the pace of speech) an answer is in time."""


@dataclass(frozen=True, slots=True)
class Job:
    """Questions of one lane to one engine method."""

    session_id: str
    number: int
    lane: int
    kind: JobKind
    questions: tuple[Question, ...]
    audio_samples: int
    """How much audio the questions hold: the cost that batches are budgeted by."""
    is_final: bool
    """False for partials: they may be replaced by a newer one, or dropped."""
    deadline_ns: int
    """When the answer starts to be late; orders jobs, cancels nothing."""
    paced_ns: int = 0
    """When its audio would be there at the pace of speech, had there been no burst: a server whose
    engines have not dealt with it before is not late. 0 where it was there at once."""

    @property
    def stage(self) -> SessionStage:
        return STAGE_OF_KIND[self.kind]

    def is_ahead(self, now_ns: int) -> bool:
        """Its audio came faster than speech: live, it would not be here yet."""
        return self.deadline_ns - PATIENCE_NS[self.kind] > now_ns
