"""Real voice activity across a crash: the model's memory goes on where the last owner's ended."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import soundfile

from server.engines.registry import EngineSpec
from server.engines.silero import SileroVoiceActivity
from streaming.checkpoint import decode, encode
from streaming.events import Final, SessionStage
from streaming.keeping import SavedPoint
from streaming.wire import Start
from tests.fakes import Desk, Engines, of_type
from tests.owners import Client, check_same, crash_at, finals, fingerprints, undisturbed

CLIP = Path(__file__).parents[2] / "server" / "assets" / "demo_clip" / "clip.flac"
SECONDS = 20


@dataclass
class SpokenClient(Client):
    """Its owners hear speech with the real model; each word is the hash of the samples under it."""

    engine: SileroVoiceActivity | None = None

    def desk(self, last: Desk | None = None, epoch: int = 1) -> Desk:
        desk = super().desk(last, epoch)
        assert self.engine is not None
        desk.engines = Engines(changes=fingerprints, _activity=self.engine)  # type: ignore[arg-type]
        return desk


@pytest.fixture(scope="module")
def client() -> SpokenClient:
    audio, rate = soundfile.read(CLIP, dtype="int16", frames=SECONDS * 16_000)
    assert rate == 16_000
    engine = SileroVoiceActivity.from_spec(EngineSpec(SessionStage.ACTIVITY, "silero"))
    return SpokenClient(Start(diarize=False), audio.tobytes(), engine=engine)


@pytest.fixture(scope="module")
def reference(client: SpokenClient) -> Desk:
    desk = undisturbed(client)
    assert len(of_type(Final, desk.stored)) >= 4
    return desk


@pytest.mark.parametrize("seed", range(4))
def test_speech_is_heard_as_if_nothing_had_happened(
    seed: int, client: SpokenClient, reference: Desk
) -> None:
    lots = random.Random(seed)
    cuts = sorted(lots.sample(range(client.frames), 3))
    check_same(crash_at(client, cuts, lots), reference)


def test_it_is_the_memory_that_does_it(client: SpokenClient, reference: Desk) -> None:
    """A model that forgets at each cut hears other edges: the test above can fail."""
    heard = set()
    for cut in range(client.frames // 3, client.frames, client.frames // 5):
        desk = client.desk()
        client.send(desk, cut, 1_600)
        assert desk.point is not None
        held = decode(desk.point.body)
        assert held.lanes[0].listener.activity
        lanes = tuple(
            replace(lane, listener=replace(lane.listener, activity=None)) for lane in held.lanes
        )
        desk.point = SavedPoint(held.frame, encode(held.model_copy(update={"lanes": lanes})))
        desk = client.desk(desk, 2)
        client.send(desk, client.frames, 1_600)
        desk.end()
        heard.add(finals(desk.stored) == finals(reference.stored))
    assert False in heard
