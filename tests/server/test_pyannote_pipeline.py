"""The pyannote diarizer says of each chunk what the pipeline itself says of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.engines.pyannote_pipeline import PyannoteDiarizer
from server.engines.registry import EngineSpec, build
from streaming.diarizing import Tracker, tracker_for
from streaming.engines import ClusterQuestion, Observation, Samples, SpeakerChunk
from streaming.events import SessionStage
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.tuning import SpeakerHints
from streaming.turns import Turn
from tests.tiny_pyannote import CHUNK_SECONDS, DIMENSION, build_pipeline

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("torch_threads")]

CHUNK_SAMPLES = int(CHUNK_SECONDS * SAMPLE_RATE_HZ)


def diarizer_over(folder: Path) -> PyannoteDiarizer:
    engine = build(EngineSpec(SessionStage.DIARIZATION, "pyannote", str(folder)))
    assert isinstance(engine, PyannoteDiarizer)
    return engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pipeline(tmp_path_factory.mktemp("vbx"))


@pytest.fixture(scope="module")
def diarizer(folder: Path) -> PyannoteDiarizer:
    return diarizer_over(folder)


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grouping so fine that random weights have several voices."""
    grouping = {"threshold": 0.3, "Fa": 0.5, "Fb": 0.01}
    return build_pipeline(tmp_path_factory.mktemp("fine"), grouping=grouping)


@pytest.fixture(scope="module")
def agglomerative(tmp_path_factory: pytest.TempPathFactory) -> PyannoteDiarizer:
    """Older pipelines: no powerset, other clustering."""
    folder = tmp_path_factory.mktemp("ahc")
    build_pipeline(folder, clustering="AgglomerativeClustering", powerset=False)
    return diarizer_over(folder)


def sound(samples: int, seed: int = 0) -> Samples:
    """Noise whose loudness and colour change from second to second."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(-(-samples // SAMPLE_RATE_HZ)):
        noise = np.convolve(rng.normal(0, 1, SAMPLE_RATE_HZ + 40), rng.normal(0, 1, 41), "valid")
        parts.append(noise * rng.choice([50, 400, 3_000]) / noise.std())
    whole = np.concatenate([*parts, np.zeros(0)])[:samples]
    return np.asarray(np.clip(whole, -32_768, 32_767), np.int16)


def pipelines_own(folder: Path, samples: Samples, **hints: int) -> tuple[dict[str, Any], Any]:
    """What the pipeline's stages hand on, and its output."""
    import torch
    from pyannote.audio import Pipeline

    found: dict[str, Any] = {}

    def keep(step: str, artefact: Any, **_: object) -> None:
        if artefact is not None:
            found[step] = artefact

    waveform = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    file = {"waveform": waveform, "sample_rate": SAMPLE_RATE_HZ, "uri": "x"}
    pipeline: Any = Pipeline.from_pretrained(folder)
    return found, pipeline(file, hook=keep, **hints)


@pytest.mark.parametrize("seconds", [CHUNK_SECONDS, 2.5])
def test_a_chunk_is_what_the_pipeline_finds_there(
    folder: Path, diarizer: PyannoteDiarizer, seconds: float
) -> None:
    """On one window the pipeline's stages can be compared one by one."""
    samples = sound(int(seconds * SAMPLE_RATE_HZ), seed=5)
    (found,) = diarizer.observe([SpeakerChunk(samples)])
    stages, _ = pipelines_own(folder, samples)
    (activity,), (embeddings,) = stages["segmentation"].data, stages["embeddings"]
    speaking = activity.any(axis=0)
    assert speaking.sum() > 1, "the sound must have several local speakers to prove anything"
    np.testing.assert_array_equal(found.activity, activity[:, speaking])
    np.testing.assert_allclose(found.embeddings, embeddings[speaking], rtol=1e-4, atol=1e-5)


def test_neighbours_change_nothing(diarizer: PyannoteDiarizer) -> None:
    chunks = [SpeakerChunk(sound(n, n)) for n in (CHUNK_SAMPLES, 9_600, 30_000, CHUNK_SAMPLES)]
    for chunk, found in zip(chunks, diarizer.observe(chunks), strict=True):
        (alone,) = diarizer.observe([chunk])
        np.testing.assert_array_equal(alone.activity, found.activity)
        np.testing.assert_allclose(alone.embeddings, found.embeddings, rtol=1e-4, atol=1e-5)


def check(observation: Observation) -> None:
    speakers = observation.activity.shape[1]
    assert observation.embeddings.shape == (speakers, DIMENSION)
    assert np.isfinite(observation.embeddings).all()
    assert np.isfinite(observation.activity).all()
    assert speakers == 0 or observation.activity.any(axis=0).all()


@pytest.mark.parametrize("samples", [0, 1, 400, 9_600, CHUNK_SAMPLES])
def test_any_chunk_gives_finite_numbers(
    diarizer: PyannoteDiarizer, agglomerative: PyannoteDiarizer, samples: int
) -> None:
    for engine in (diarizer, agglomerative):
        for audio in (sound(samples), np.zeros(samples, np.int16)):
            (found,) = engine.observe([SpeakerChunk(audio)])
            check(found)


def test_a_speaker_without_an_embedding_is_left_out(tmp_path: Path) -> None:
    engine = diarizer_over(build_pipeline(tmp_path, has_numbers=False))
    (found,) = engine.observe([SpeakerChunk(sound(CHUNK_SAMPLES, seed=5))])
    assert found.embeddings.shape == (0, DIMENSION)
    check(found)


def test_a_chunk_longer_than_the_window_is_refused(diarizer: PyannoteDiarizer) -> None:
    with pytest.raises(ValueError, match="window is shorter"):
        diarizer.observe([SpeakerChunk(sound(CHUNK_SAMPLES + 1))])


def test_the_profile_is_the_pipelines_own_window_and_step(diarizer: PyannoteDiarizer) -> None:
    profile = diarizer.profile
    assert (profile.chunk_samples, profile.hop_samples) == (CHUNK_SAMPLES, CHUNK_SAMPLES // 10)
    assert profile.chunk_samples_min < profile.chunk_samples


def voices(sizes: list[int], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Embeddings of voices that are far apart, in turns."""
    rng = np.random.default_rng(seed)
    centres = np.linalg.qr(rng.normal(size=(DIMENSION, len(sizes))))[0].T
    rows = [c + rng.normal(0, 0.03, (n, DIMENSION)) for c, n in zip(centres, sizes, strict=True)]
    return np.concatenate(rows).astype(np.float32)


@pytest.mark.parametrize("name", ["diarizer", "agglomerative"])
def test_voices_are_grouped_and_hints_obeyed(name: str, request: pytest.FixtureRequest) -> None:
    engine: PyannoteDiarizer = request.getfixturevalue(name)
    rows = voices([12, 8, 9])
    seconds = np.full(len(rows), 0.4, np.float32)
    free, most_two, least_two, one, none = engine.cluster(
        [
            ClusterQuestion(rows, seconds),
            ClusterQuestion(rows, seconds, speakers_max=2),
            ClusterQuestion(rows[:12], seconds[:12], speakers_min=2),
            ClusterQuestion(rows[:1], seconds[:1], speakers_min=3, speakers_max=2),
            ClusterQuestion(rows[:0], seconds[:0]),
        ]
    )
    named = free.labels[[0, 12, 20]].tolist()
    assert sorted(named) == [0, 1, 2]
    assert free.labels.tolist() == [named[0]] * 12 + [named[1]] * 8 + [named[2]] * 9
    assert sorted(set(most_two.labels.tolist())) == [0, 1]
    assert sorted(set(least_two.labels.tolist())) == [0, 1]
    assert (one.labels.tolist(), none.labels.tolist()) == ([0], [])


@pytest.mark.parametrize("name", ["diarizer", "agglomerative"])
def test_who_hardly_speaks_alone_makes_no_group(name: str, request: pytest.FixtureRequest) -> None:
    engine: PyannoteDiarizer = request.getfixturevalue(name)
    rows = voices([12, 8, 1])
    seconds = np.full(len(rows), 0.4, np.float32)
    alone = np.full(len(rows), 0.4, np.float32)
    alone[-1] = 0.19
    (found,) = engine.cluster([ClusterQuestion(rows, seconds, alone=alone)])
    assert sorted(set(found.labels.tolist())) == [0, 1]


def turns_of(output: Any) -> list[Turn]:
    tracks = output.speaker_diarization.itertracks(yield_label=True)
    rate = SAMPLE_RATE_HZ
    return sorted(
        Turn(Span(round(s.start * rate), round(s.end * rate)), name) for s, _, name in tracks
    )


def renamed(turns: Sequence[Turn]) -> list[tuple[Span, int]]:
    """By the order in which speakers begin."""
    numbers: dict[str, int] = {}
    return [(t.span, numbers.setdefault(t.speaker, len(numbers))) for t in turns]


def tracked(
    engine: PyannoteDiarizer, audio: Samples, step: int, hints: SpeakerHints | None = None
) -> Tracker:
    """As a session would, however the audio came."""
    tracker = tracker_for(engine.profile, hints)
    for end in [*range(step, len(audio), step), len(audio)]:
        is_last = end == len(audio)
        tracker.receive_audio(Span(0, end), is_last=is_last)
        chunks = tracker.take_chunks()
        found = engine.observe([SpeakerChunk(audio[c.start : c.end]) for c in chunks])
        tracker.receive_observations(chunks, found)
        question = tracker.question(is_last=is_last)
        if question is not None:
            tracker.receive_clusters(engine.cluster([question])[0])
    return tracker


@pytest.mark.parametrize(
    ("clustering", "grouping"),
    [
        ("VBxClustering", {"threshold": 0.3, "Fa": 0.5, "Fb": 0.01}),
        ("AgglomerativeClustering", {"threshold": 0.3, "min_cluster_size": 1}),
    ],
)
def test_turns_in_the_end_are_those_of_the_pipeline_on_the_whole(
    clustering: str, grouping: dict[str, float], tmp_path: Path
) -> None:
    """Up to names, to the sample; grouping so fine that random weights have several voices."""
    build_pipeline(tmp_path, clustering=clustering, grouping=grouping)
    audio = sound(int(14.3 * SAMPLE_RATE_HZ), seed=5)
    engine = diarizer_over(tmp_path)
    engine.warm_up()
    tracker = tracked(engine, audio, 3 * SAMPLE_RATE_HZ)
    theirs = turns_of(pipelines_own(tmp_path, audio)[1])
    assert len({turn.speaker for turn in theirs}) >= 3
    assert len(theirs) >= 20
    assert renamed(tracker.turns()) == renamed(theirs)
    assert (tracker.embeddings_dropped, tracker.answers_dropped) == (0, 0)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [({"max_speakers": 2}, SpeakerHints(None, 2)), ({"num_speakers": 4}, SpeakerHints(4, 4))],
)
def test_a_number_of_speakers_means_what_it_means_to_the_pipeline(
    theirs: dict[str, int], ours: SpeakerHints, fine: Path
) -> None:
    audio = sound(int(8.3 * SAMPLE_RATE_HZ), seed=5)
    expected = turns_of(pipelines_own(fine, audio, **theirs)[1])
    tracker = tracked(diarizer_over(fine), audio, 3 * SAMPLE_RATE_HZ, ours)
    assert renamed(tracker.turns()) == renamed(expected)
    assert len({turn.speaker for turn in expected}) == ours.speakers_max


def test_pyannote_does_not_report_home(diarizer: PyannoteDiarizer) -> None:
    from pyannote.audio.telemetry import metrics

    assert diarizer.description
    assert not metrics.is_metrics_enabled()
