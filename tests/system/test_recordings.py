"""Recorded speech through a real server with the embedded engines: nothing lost, words as said."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
import soxr

from clients.audio_source import FileSource
from clients.live import CaptionFold
from clients.pacing import packet_frames
from clients.stream import CaptionStream
from server.child import ServerChild, running_server
from server.engines.pocketsphinx import PocketSphinxRecognizer
from server.engines.registry import EngineSpec
from server.engines.silero import SileroVoiceActivity
from server.scoring import diarization_error_rate, turns_of_words
from streaming.endpointing import EndpointingOptions
from streaming.engines import Hypothesis, SpeechWindow
from streaming.events import Done, Final, SessionStage
from streaming.jobs import Answer, Job, JobKind
from streaming.lane import LaneOptions
from streaming.session import Session
from streaming.timeline import SAMPLE_RATE_HZ, Span, samples_from_seconds
from streaming.turns import Turn
from streaming.windows import WindowOptions
from streaming.wire import Start
from tests.fakes import Desk, Engines

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

AMI = Path(__file__).resolve().parents[3] / "shared/data/ami"


def pyannote_sample() -> Path:
    """The two-speaker telephone recording that pyannote.audio ships."""
    spec = importlib.util.find_spec("pyannote")
    assert spec is not None
    folders = [Path(place) for place in spec.submodule_search_locations or ()]
    return next(f for f in (p / "audio/sample/sample.wav" for p in folders) if f.exists())


def reference_turns(rttm: Path) -> list[Turn]:
    turns = []
    for line in rttm.read_text().splitlines():
        fields = line.split()
        start, duration = float(fields[3]), float(fields[4])
        span = Span(samples_from_seconds(start), samples_from_seconds(start + duration))
        turns.append(Turn(span, fields[7]))
    return turns


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recordings")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[ServerChild]:
    arguments = ["--asr", "pocketsphinx", "--diarizer", "embedded"]
    async with running_server(arguments, folder) as child:
        yield child


async def captions_of(url: str, recording: Path, *, partials: bool = True) -> CaptionFold:
    """What a client holds at the end, the recording sent at full speed."""
    fold, source = CaptionFold(), FileSource(recording, None)
    start = Start(audio=source.audio, partials=partials)
    async with CaptionStream.open(url, start) as stream:

        async def send() -> None:
            async for packet in source.packets(packet_frames(100, source.audio.sample_rate)):
                await stream.send(packet)
            await stream.end()

        sending = asyncio.create_task(send())
        async for event in stream:
            fold.apply(event)
        await sending
    return fold


def done_of(fold: CaptionFold) -> Done:
    assert fold.done is not None
    return fold.done


@dataclass
class RealEngines(Engines):
    """Voice activity and recognition by the real engines; keeps what finals were made of."""

    def __post_init__(self) -> None:
        spec = EngineSpec(SessionStage.ACTIVITY, "silero")
        self.vad, self.asr = SileroVoiceActivity.from_spec(spec), PocketSphinxRecognizer()
        self.finals: list[tuple[SpeechWindow, Hypothesis]] = []

    def answer(self, job: Job) -> list[Answer] | None:
        if job.kind is JobKind.DETECT:
            return list(self.vad.detect(job.questions))  # type: ignore[arg-type]
        windows: list[SpeechWindow] = list(job.questions)  # type: ignore[arg-type]
        hypotheses = self.asr.recognize(windows)
        if job.is_final:
            self.finals += zip(windows, hypotheses, strict=True)
        return list(hypotheses)


def offline_texts(recording: Path) -> list[str]:
    """The session run alone, in one packet; each window's words come from a fresh engine too."""
    audio, rate = soundfile.read(recording, dtype="int16")
    assert rate == SAMPLE_RATE_HZ
    options = LaneOptions(
        120 * SAMPLE_RATE_HZ, EndpointingOptions(), WindowOptions(), diarizer=None, partials=False
    )
    engines = RealEngines()
    desk = Desk(Session("alone", Start(), options, seed=1), engines)
    desk.play(audio, packet_ms=1000 * len(audio) / SAMPLE_RATE_HZ)
    texts = [event.text for event in desk.end() if isinstance(event, Final)]
    alone = PocketSphinxRecognizer()
    for window, hypothesis in engines.finals:
        assert alone.recognize([window])[0] == hypothesis
    return texts


@pytest.mark.skipif(not AMI.exists(), reason="../shared/data/ami is not on this machine")
async def test_far_field_meeting_is_accounted_for_and_worded_as_by_the_engine_alone(
    server: ServerChild,
) -> None:
    recording = AMI / "trn03.flac"
    fold = await captions_of(server.url, recording, partials=False)
    done = done_of(fold)
    total = done.decoded_seconds + done.silent_seconds + done.gap_seconds
    assert total == pytest.approx(30.0, abs=0.01)
    assert done.gap_seconds == 0
    assert [c.text for c in fold.captions] == await asyncio.to_thread(offline_texts, recording)
    assert done.speakers >= 1


async def test_telephone_call_has_two_speakers(
    server: ServerChild, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = pyannote_sample()
    fold = await captions_of(server.url, recording)
    words = [word for caption in fold.captions for word in caption.words]
    reference = reference_turns(recording.with_suffix(".rttm"))
    der = diarization_error_rate(reference, turns_of_words(words))
    with capsys.disabled():
        print(f"\nsample.wav: DER {der:.3f} from words (no collar, overlap scored)")
    assert len({word.speaker for word in words} - {None}) == 2
    assert done_of(fold).speakers == 2


async def test_speech_at_another_rate_and_in_stereo_keeps_its_length(
    server: ServerChild, folder: Path
) -> None:
    audio, rate = soundfile.read(pyannote_sample(), dtype="float32")
    resampled = soxr.resample(audio[: 6 * rate], rate, 44_100)
    stereo = folder / "stereo.wav"
    soundfile.write(stereo, np.stack([resampled, np.zeros_like(resampled)], 1), 44_100)
    done = done_of(await captions_of(server.url, stereo))
    assert done.audio_seconds == pytest.approx(12.0, abs=0.01)
    total = done.decoded_seconds + done.silent_seconds + done.gap_seconds
    assert total == pytest.approx(done.audio_seconds, abs=0.002)
    assert done.silent_seconds >= 6.0
