"""The scripted engines answer what the audio says, and misbehave only as told."""

import numpy as np
import pytest

from server.engines.errors import EngineUnavailable
from server.engines.registry import EngineSpec, build
from server.engines.scripted import (
    Faults,
    ScriptedDiarizer,
    ScriptedRecognizer,
    ScriptedVoiceActivity,
)
from streaming.engines import (
    ACTIVITY_FRAME_SAMPLES,
    ActivityWindow,
    ClusterQuestion,
    Samples,
    SpeakerChunk,
    SpeechWindow,
)
from streaming.events import SessionStage
from streaming.scripted_audio import CARRIER_SAMPLES, WORD_SAMPLES, encode_silence, encode_word


def speech(stream: int, numbers: range, speaker: int = 0) -> Samples:
    return np.concatenate([encode_word(stream, number, speaker) for number in numbers])


def test_words_are_read_from_the_audio_with_their_spans() -> None:
    windows = [SpeechWindow(speech(1, range(2))), SpeechWindow(encode_silence(100), language="de")]
    spoken, silent = ScriptedRecognizer().recognize(windows)
    assert [word.text for word in spoken.words] == ["w0.1", "w1.1"]
    assert spoken.words[1].span.start == WORD_SAMPLES
    assert spoken.words[1].span.samples == CARRIER_SAMPLES
    assert (spoken.language, spoken.language_probability) == ("en", 1.0)
    assert (silent.words, silent.language, silent.language_probability) == ((), "de", None)


def test_an_unstable_tail_settles_with_more_audio_or_a_final() -> None:
    engine = ScriptedRecognizer(Faults(unstable_tail=True))
    audio = speech(1, range(2))
    more = np.concatenate([audio, encode_silence(WORD_SAMPLES)])
    windows = [
        SpeechWindow(audio, is_final=False),
        SpeechWindow(more, is_final=False),
        SpeechWindow(audio),
        SpeechWindow(encode_silence(9), is_final=False),
    ]
    texts = [[word.text for word in h.words] for h in engine.recognize(windows)]
    assert texts == [["w0.1", "?w1.1"], ["w0.1", "w1.1"], ["w0.1", "w1.1"], []]


def test_activity_follows_the_words() -> None:
    audio = np.concatenate([encode_silence(WORD_SAMPLES), encode_word(1, 1)])
    (activity,) = ScriptedVoiceActivity().detect([ActivityWindow(audio, state=None)])
    frames_of_word = WORD_SAMPLES // ACTIVITY_FRAME_SAMPLES
    assert activity.probabilities.dtype == np.float32
    assert activity.probabilities.tolist() == [0.0] * frames_of_word + [1.0] * 8 + [0.0] * 2


def test_a_chunk_names_its_speakers_and_when_each_speaks() -> None:
    audio = np.concatenate([speech(1, range(1), speaker=4), speech(1, range(1, 3), speaker=9)])
    engine = ScriptedDiarizer()
    mixed, silent = engine.observe(
        [SpeakerChunk(audio), SpeakerChunk(encode_silence(engine.profile.chunk_samples))]
    )
    assert mixed.embeddings.argmax(axis=1).tolist() == [9, 4]
    assert mixed.activity[:, 1].tolist() == [1.0] * 8 + [0.0] * 22
    assert mixed.activity[:, 0].sum() == 16
    assert silent.activity.shape == (50, 0)
    assert silent.embeddings.shape == (0, 256)


@pytest.mark.parametrize(("speakers_max", "labels"), [(None, [0, 1, 0, 2]), (2, [0, 1, 0, 1])])
def test_equal_embeddings_are_one_speaker(speakers_max: int | None, labels: list[int]) -> None:
    embeddings = np.eye(3, dtype=np.float32)[[2, 0, 2, 1]]
    question = ClusterQuestion(
        embeddings, np.ones(4, np.float32), speakers_min=None, speakers_max=speakers_max
    )
    (clusters,) = ScriptedDiarizer().cluster([question])
    assert clusters.labels.tolist() == labels


def test_no_evidence_is_no_cluster() -> None:
    nothing = ClusterQuestion(np.zeros((0, 256), np.float32), np.zeros(0, np.float32))
    assert ScriptedDiarizer().cluster([nothing])[0].labels.tolist() == []


def test_every_second_call_fails_when_told_so() -> None:
    engine = ScriptedRecognizer(Faults(fail_every=2))
    assert engine.recognize([]) == []
    with pytest.raises(ValueError, match="scripted"):
        engine.recognize([])
    assert engine.recognize([]) == []


def test_a_poisoned_stream_fails_each_batch_that_holds_it() -> None:
    engine = ScriptedRecognizer(Faults(fail_stream=13))
    healthy, poisoned = SpeechWindow(speech(1, range(1))), SpeechWindow(speech(13, range(1)))
    with pytest.raises(ValueError, match="scripted"):
        engine.recognize([healthy, poisoned])
    assert len(engine.recognize([healthy])) == 1


def test_memory_runs_out_when_told_so() -> None:
    with pytest.raises(MemoryError):
        ScriptedRecognizer(Faults(memory_every=1)).recognize([])


def test_an_unknown_option_is_refused_by_name() -> None:
    spec = EngineSpec(SessionStage.RECOGNITION, "scripted", options={"fail_evry": 2})
    with pytest.raises(EngineUnavailable, match=r"fail_evry.*fail_every"):
        build(spec)
