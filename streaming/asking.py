"""What one lane wants of an engine, before its session gives that a number."""

from dataclasses import dataclass

from streaming.jobs import JobKind, Question
from streaming.recognition import Request
from streaming.timeline import Span


@dataclass(frozen=True, slots=True)
class Ask:
    """Questions for an engine."""

    kind: JobKind
    questions: tuple[Question, ...]
    audio_samples: int
    is_final: bool
    deadline_ns: int
    subject: Request | tuple[Span, ...] | None = None
    """What the answer is about, where the kind does not tell."""
