"""Jobs: what is asked of which stage."""

import numpy as np

from streaming.engines import SpeakerChunk
from streaming.events import SessionStage
from streaming.jobs import STAGE_OF_KIND, Job, JobKind


def test_every_kind_of_job_has_the_stage_whose_engine_answers_it() -> None:
    assert set(STAGE_OF_KIND) == set(JobKind)
    assert set(STAGE_OF_KIND.values()) == set(SessionStage)


def test_a_job_knows_its_stage() -> None:
    question = SpeakerChunk(np.zeros(1, np.int16))
    job = Job("s", 1, 0, JobKind.CLUSTER, (question,), 1, is_final=True, deadline_ns=0)
    assert job.stage is SessionStage.DIARIZATION
