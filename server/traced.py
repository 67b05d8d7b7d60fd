"""The server's parts with a tracer that watches what they do; imported only where it is wanted."""

from collections.abc import Iterable, Sequence
from typing import Any

from server.dispatch import Outcome
from server.overload import MeteredDispatcher
from server.store import FIRST_EPOCH, TranscriptStore
from server.tracing import UtteranceTracer
from server.worker_frames import Answer
from server.workers import EngineWorker
from streaming.jobs import Job


class TracedDispatcher(MeteredDispatcher):
    """Says what is asked."""

    tracer: UtteranceTracer

    def submit(self, jobs: Iterable[Job]) -> list[Outcome]:
        """As ``Dispatcher.submit``."""
        asked = list(jobs)
        self.tracer.asked(asked)
        return super().submit(asked)


class TracedWorker(EngineWorker):
    """Says when an engine is called, and what it says of its time."""

    tracer: UtteranceTracer

    async def _ask(self, child: Any, question: Any, deadline: float) -> Any:
        with self.tracer.calling(question.items) as tell:
            reply = await super()._ask(child, question, deadline)
            if isinstance(reply, Answer):
                tell(dict(reply.parts_ns))
            return reply


class TracedStore(TranscriptStore):
    """Says what is written."""

    tracer: UtteranceTracer

    async def append(
        self,
        session_id: str,
        events: Sequence[dict[str, Any]],
        *,
        epoch: int = FIRST_EPOCH,
        checkpoint: bytes | None = None,
        is_retry: bool = False,
    ) -> None:
        """As ``TranscriptStore.append``."""
        with self.tracer.storing(session_id, events):
            await super().append(
                session_id, events, epoch=epoch, checkpoint=checkpoint, is_retry=is_retry
            )


def watched_by(
    tracer: UtteranceTracer,
) -> tuple[type[TracedDispatcher], type[TracedStore], type[TracedWorker]]:
    """The three with this tracer: who makes them need not know of it."""
    return (
        type("Dispatcher", (TracedDispatcher,), {"tracer": tracer}),
        type("Store", (TracedStore,), {"tracer": tracer}),
        type("Worker", (TracedWorker,), {"tracer": tracer}),
    )
