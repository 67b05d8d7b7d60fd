"""All recordings of a manifest, one after the other; one that fails does not stop the rest."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.pacing import Pace
from server.child import running_server
from server.config import Settings
from server.evaluation.heard import Heard
from server.evaluation.manifest import BadLine, EvaluationError, Recording
from server.evaluation.offline import OfflineEngines
from server.evaluation.run import Progress, Target, stream_recording
from server.evaluation.score import Scores, score
from server.evaluation.truth import Truth, read_truth
from server.settings_sources import settings_of_command_line


@dataclass(frozen=True, slots=True)
class Plan:
    """How recordings are captioned."""

    is_offline: bool
    pace: Pace
    asr: str
    asr_model: str | None
    diarizer: str
    url: str | None = None
    """Of a running server; else one is started, unless offline."""
    api_key: str | None = None
    serve_options: tuple[str, ...] = ()
    """Further ones of ``captiond serve``."""

    @property
    def server_options(self) -> list[str]:
        """For the server that is started here."""
        model = ["--asr-model", self.asr_model] if self.asr_model else []
        options = ["--asr", self.asr, *model, "--diarizer", self.diarizer]
        return [*options, "--log-level", "warning", *self.serve_options]

    @property
    def settings(self) -> Settings:
        """What that server's settings would be. Raises: ConfigError."""
        return settings_of_command_line(self.server_options)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A recording that was captioned and scored."""

    recording: Recording
    truth: Truth
    heard: Heard
    scores: Scores


@dataclass(frozen=True, slots=True)
class Failed:
    """A recording that could not be."""

    name: str
    problem: str


Captioner = Callable[[Recording], Awaitable[Heard]]


async def evaluate(
    entries: Sequence[Recording | BadLine], plan: Plan, progress: Progress
) -> AsyncIterator[Evaluated | Failed]:
    """In order. Raises: ServerDied, ConfigError, EngineUnavailable, TimeoutError."""
    async with _captioner(plan, progress) as caption:
        for entry in entries:
            if isinstance(entry, BadLine):
                yield Failed(entry.name, entry.problem)
                continue
            try:
                yield await _evaluated(entry, caption)
            except EvaluationError as error:
                yield Failed(entry.name, str(error))


async def _evaluated(recording: Recording, caption: Captioner) -> Evaluated:
    truth = await asyncio.to_thread(read_truth, recording)
    heard = await caption(recording)
    scores = await asyncio.to_thread(score, recording, truth, heard)
    return Evaluated(recording, truth, heard, scores)


@contextlib.asynccontextmanager
async def _captioner(plan: Plan, progress: Progress) -> AsyncIterator[Captioner]:
    if plan.is_offline:
        async with OfflineEngines(plan.settings).running() as engines:
            yield lambda recording: engines.caption(recording, progress)
    else:
        async with _target(plan) as target:
            yield lambda recording: stream_recording(recording, target, plan.pace, progress)


@contextlib.asynccontextmanager
async def _target(plan: Plan) -> AsyncIterator[Target]:
    if plan.url is not None:
        yield Target(plan.url, plan.api_key, is_ours=False)
        return
    with tempfile.TemporaryDirectory(prefix="captiond-eval-") as folder:
        async with running_server(plan.server_options, Path(folder)) as server:
            yield Target(server.url)
