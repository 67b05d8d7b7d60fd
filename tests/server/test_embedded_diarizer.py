"""The embedded diarizer: a front-end equal to Resemblyzer's, and people told apart."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from server.engines.embedded_diarizer import EmbeddedDiarizer
from server.engines.errors import EngineUnavailable
from server.engines.ge2e import SpeakerEncoder, find_weights, mel_spectrogram
from server.engines.registry import EngineSpec, build
from streaming.engines import ClusterQuestion, Samples, SpeakerChunk
from streaming.events import SessionStage
from streaming.speakers import SpeakerTracker
from streaming.timeline import SAMPLE_RATE_HZ, Span
from tests.server.test_embedded_grouping import voices

LIBRISPEECH = Path(__file__).parents[3] / "shared" / "data" / "librispeech"
DEMO_CLIP = Path(__file__).parents[2] / "server" / "assets" / "demo_clip"


def test_mel_spectrogram_of_a_tone_lies_in_its_band() -> None:
    time = np.arange(16_000) / SAMPLE_RATE_HZ
    tone = torch.from_numpy(0.1 * np.sin(2 * np.pi * 1_000 * time)).float()[None]
    mels = mel_spectrogram(tone)
    assert mels.shape == (1, 100, 40)
    # 1 kHz is 15 mels of 45.25; 42 edges, so band 13 is centred at 15.45 and band 12 at 14.35.
    assert int(mels[0, 50].argmax()) == 13


def test_mel_spectrogram_equals_librosas() -> None:
    # Largest value of a frame, its band and the frame's sum for this sweep, by librosa 0.11's
    # melspectrogram(y, sr=16000, n_fft=400, hop_length=160, n_mels=40) after Resemblyzer's
    # normalize_volume(-30, increase_only=True).
    expected = {
        0: (2, 0.095519, 0.199135),
        10: (6, 0.281435, 0.407776),
        50: (20, 0.129107, 0.232667),
        99: (28, 0.096888, 0.124729),
    }
    time = np.arange(16_000) / SAMPLE_RATE_HZ
    sweep = np.round(300 * np.sin(2 * np.pi * (200 * time + 1_500 * time**2)))
    mels = mel_spectrogram(torch.from_numpy(sweep / 32_768).float()[None])[0]
    for frame, (band, largest, total) in expected.items():
        assert int(mels[frame].argmax()) == band
        assert float(mels[frame, band]) == pytest.approx(largest, rel=1e-3)
        assert float(mels[frame].sum()) == pytest.approx(total, rel=1e-3)


def test_quiet_audio_is_raised_to_the_training_level_and_loud_audio_is_not_lowered() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1, (1, 16_000))).float()
    at_level = mel_spectrogram(noise * 10 ** (-30 / 20) / noise.square().mean().sqrt())
    assert torch.allclose(mel_spectrogram(noise * 1e-4), at_level, rtol=1e-3)
    assert torch.allclose(mel_spectrogram(noise * 0.4) / 4, mel_spectrogram(noise * 0.2), rtol=1e-3)


def test_the_filters_are_the_ones_of_torchaudio() -> None:
    from server.engines.torch_setup import prepare_torch

    prepare_torch(None)
    import torchaudio

    expected = torchaudio.functional.melscale_fbanks(
        201, 0.0, 8_000.0, 40, 16_000, norm="slaney", mel_scale="slaney"
    )
    impulse = torch.zeros(1, 1_600)
    impulse[0, 800] = 1.0
    # An impulse in the middle of a frame has the same power at every frequency.
    frame = mel_spectrogram(impulse)[0, 5]
    assert torch.allclose(frame / frame.sum(), expected.sum(0) / expected.sum(), rtol=1e-3)


@pytest.mark.parametrize("package", ["no_such_package", "server"])
def test_missing_weights_say_how_to_get_them(package: str) -> None:
    with pytest.raises(EngineUnavailable, match=r"pip install --no-deps resemblyzer==0\.1\.4"):
        find_weights(package)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pretrained.pt"
    path.write_bytes(b"not the weights")
    with pytest.raises(EngineUnavailable, match="--force-reinstall"):
        SpeakerEncoder(path)


@pytest.fixture(scope="module")
def diarizer() -> Iterator[EmbeddedDiarizer]:
    threads = torch.get_num_threads()
    try:
        engine = build(EngineSpec(SessionStage.DIARIZATION, "embedded"))
    except EngineUnavailable as error:
        pytest.skip(str(error))
    assert isinstance(engine, EmbeddedDiarizer)
    yield engine
    torch.set_num_threads(threads)


def noise(samples: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).normal(0, 1_000, samples).astype(np.int16)


@pytest.mark.slow
def test_warm_up_answers(diarizer: EmbeddedDiarizer) -> None:
    diarizer.warm_up()
    assert diarizer.description


@pytest.mark.slow
def test_a_chunks_embedding_does_not_depend_on_its_neighbours(diarizer: EmbeddedDiarizer) -> None:
    chunks = [SpeakerChunk(noise(samples, i)) for i, samples in enumerate((25_600, 9_600, 25_600))]
    together = diarizer.observe(chunks)
    for chunk, found in zip(chunks, together, strict=True):
        (alone,) = diarizer.observe([chunk])
        assert found.activity.shape == (1, 1)
        np.testing.assert_allclose(found.embeddings, alone.embeddings, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_an_opening_is_embedded_as_if_it_were_alone(diarizer: EmbeddedDiarizer) -> None:
    opening = diarizer.profile.opening_samples
    chunks = [noise(samples, i) for i, samples in enumerate((25_600, opening, 9_600))]
    found = diarizer.observe([SpeakerChunk(chunk) for chunk in chunks])
    for chunk, observation in zip(chunks, found, strict=True):
        (alone,) = diarizer.observe([SpeakerChunk(chunk[:opening])])
        assert observation.openings is not None
        assert float((observation.openings @ alone.embeddings.T).item()) > 0.999
    assert found[0].openings is not None
    assert float((found[0].openings @ found[0].embeddings.T).item()) < 0.999


@pytest.mark.slow
def test_what_holds_no_sound_has_an_embedding_that_the_tracker_drops(
    diarizer: EmbeddedDiarizer,
) -> None:
    tracker = SpeakerTracker(diarizer.profile)
    tracker.receive_speech(Span(0, 25_600), is_open=False)
    chunks = tracker.take_chunks()
    silence = [SpeakerChunk(np.zeros(chunk.samples, np.int16)) for chunk in chunks]
    tracker.receive_observations(chunks, diarizer.observe(silence))
    assert tracker.embeddings_dropped == len(chunks) == 1
    assert not diarizer.observe([SpeakerChunk(np.zeros(10, np.int16))])[0].embeddings.any()


@pytest.mark.slow
def test_clusters_are_numbered_without_gaps(diarizer: EmbeddedDiarizer) -> None:
    units = voices([20, 20], spread=0.06, apart=0.4).astype(np.float32)
    weights = np.full(len(units), 0.8, np.float32)
    two, one, single, hinted = diarizer.cluster(
        [
            ClusterQuestion(units, weights),
            ClusterQuestion(units[:20], weights[:20]),
            ClusterQuestion(units[:1], weights[:1]),
            ClusterQuestion(units, weights, speakers_min=9, speakers_max=1),
        ]
    )
    assert set(two.labels[:20]) | set(two.labels[20:]) == {0, 1}
    assert len(set(two.labels[:20])) == len(set(two.labels[20:])) == 1
    for clusters, count in ((one, 20), (single, 1), (hinted, 40)):
        assert clusters.labels.tolist() == [0] * count


def speakers_of(diarizer: EmbeddedDiarizer, audio: Samples, speech: list[Span]) -> SpeakerTracker:
    tracker = SpeakerTracker(diarizer.profile)
    for span in speech:
        tracker.receive_speech(span, is_open=False)
        chunks = tracker.take_chunks()
        found = diarizer.observe([SpeakerChunk(audio[c.start : c.end]) for c in chunks])
        tracker.receive_observations(chunks, found)
    question = tracker.question(is_last=True)
    assert question is not None
    (clusters,) = diarizer.cluster([question])
    tracker.receive_clusters(clusters)
    return tracker


@pytest.mark.slow
def test_the_demo_clips_two_speakers_are_told_apart(diarizer: EmbeddedDiarizer) -> None:
    audio, rate = soundfile.read(DEMO_CLIP / "clip.flac", dtype="int16")
    assert rate == SAMPLE_RATE_HZ
    truth = []
    for line in (DEMO_CLIP / "reference.rttm").read_text().splitlines():
        start, duration = (int(float(field) * rate) for field in line.split()[3:5])
        truth.append((Span(start, start + duration), line.split()[7]))
    tracker = speakers_of(diarizer, audio, [span for span, _ in truth])
    pairs = {
        (speaker, turn.speaker)
        for (span, speaker), turn in itertools.product(truth, tracker.turns())
        if span.overlap_samples(turn.span)
    }
    assert len(pairs) == 2
    assert tracker.speaker_count == 2


@pytest.mark.slow
def test_two_readers_are_told_apart(diarizer: EmbeddedDiarizer) -> None:
    if not LIBRISPEECH.is_dir():
        pytest.skip("needs the shared LibriSpeech excerpts in ../shared")
    readers = sorted(LIBRISPEECH.iterdir())[:2]
    files = [sorted(reader.glob("*.flac"))[i] for i in range(3) for reader in readers]
    parts = [soundfile.read(path, dtype="int16")[0] for path in files]
    ends = list(itertools.accumulate(len(part) for part in parts))
    spans = [Span(a, b) for a, b in itertools.pairwise([0, *ends])]
    tracker = speakers_of(diarizer, np.concatenate(parts), spans)
    assert [turn.speaker for turn in tracker.turns()] == ["S1", "S2"] * 3
