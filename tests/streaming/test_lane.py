"""Lane: what is asked of which engine, what is forgotten when, answers that are not sound."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest

from streaming.asking import Ask
from streaming.diarizing import CHUNKS_PER_ASK_MAX
from streaming.endpointing import EndpointingOptions
from streaming.engines import Activity, Clusters, Hypothesis, Observation, Samples, Word
from streaming.eventlog import EventLog
from streaming.events import Degraded, Event, Final, Gap, Partial, Revision, SessionStage
from streaming.jobs import Answer, Job, JobKind
from streaming.lane import Lane
from streaming.publishing import SessionScope, SpeechSettings
from streaming.speakers import LOCAL_SPEAKERS_MAX
from streaming.stats import SessionStats
from streaming.timeline import SAMPLE_RATE_HZ, Span
from streaming.windows import WindowOptions
from tests.fakes import Engines, lane_options, of_type, silence, speech, word_texts
from tests.sim.checkers import check_partials

ALL = frozenset(JobKind)


class Booth:
    """One lane, its scope and the scripted engines."""

    def __init__(self, name: str | None = None, **options: object) -> None:
        captions, speakers = count(1), count(1)
        self.scope = SessionScope(
            EventLog(),
            SessionStats(),
            SpeechSettings("en", "transcribe", "hint", ("key",), 100),
            lambda: f"c{next(captions)}",
            lambda: f"S{next(speakers)}",
        )
        self.lane = Lane(0, name, lane_options(**options), self.scope)
        self.engines = Engines()
        self.waiting: list[Ask] = []
        self.asked: list[Ask] = []
        self.now_ns = 0
        """Stands still, but for audio that comes at the pace of speech."""

    def hear(
        self,
        audio: Samples,
        *,
        step: int = 1_600,
        kinds: frozenset[JobKind] = ALL,
        is_live: bool = False,
    ) -> None:
        """Audio comes; engines of these kinds answer, asks of others wait."""
        for start in range(0, len(audio), step):
            packet = audio[start : start + step]
            self.now_ns += len(packet) * 1_000_000_000 // SAMPLE_RATE_HZ if is_live else 0
            self.lane.receive(packet, self.now_ns)
            self.settle(kinds)

    def settle(self, kinds: frozenset[JobKind] = ALL) -> None:
        while asks := self.lane.take_asks(self.now_ns):
            self.asked += asks
            for ask in asks:
                if ask.kind in kinds:
                    self.lane.answer(ask, self.answers(ask))
                else:
                    self.waiting.append(ask)

    def answers(self, ask: Ask) -> list[Answer] | None:
        return self.engines.answer(
            Job("s", 1, 0, ask.kind, ask.questions, ask.audio_samples, ask.is_final, 0)
        )

    def end(self, kinds: frozenset[JobKind] = ALL) -> None:
        self.lane.end()
        self.settle(kinds)

    @property
    def events(self) -> Sequence[Event]:
        self.scope.log.mark_stored(self.scope.log.last_seq)
        return self.scope.log.cursor().read(10_000)

    @property
    def texts(self) -> list[str]:
        return [word.text for final in of_type(Final, self.events) for word in final.words]

    def unaccounted(self) -> int:
        stats = self.scope.stats
        told = stats.decoded_samples + stats.gap_samples_total + self.lane.silent_samples
        return self.lane.received - told


def talk(seconds: float = 3.2) -> Samples:
    """Two speakers in turn, then a pause."""
    words = round(seconds / 0.32)
    first, second = range(words // 2), range(words // 2, words)
    return np.concatenate([speech(first), speech(second, speaker=1), silence(1.0)])


def test_speech_is_heard_recognized_and_given_speakers() -> None:
    booth = Booth()
    booth.hear(talk(6.4))
    booth.end()
    assert booth.texts == word_texts(range(20))
    assert booth.lane.speaker_names == {"S1", "S2"}
    assert booth.lane.is_finished
    assert booth.unaccounted() == 0
    assert {ask.kind for ask in booth.asked} == ALL


def test_questions_carry_what_the_session_was_told() -> None:
    booth = Booth()
    booth.hear(np.concatenate([silence(0.6), talk()]))
    final = next(ask for ask in booth.asked if ask.kind is JobKind.RECOGNIZE and ask.is_final)
    question: Any = final.questions[0]
    assert (question.language, question.task) == ("en", "transcribe")
    assert (question.prompt, question.keywords) == ("hint", ("key",))
    assert question.seed > 100
    assert final.audio_samples == len(question.samples)


def test_a_named_lane_is_not_diarized() -> None:
    booth = Booth("Alice")
    booth.hear(talk())
    booth.end()
    assert booth.lane.speaker_names == {"Alice"}
    assert not {ask.kind for ask in booth.asked} & {JobKind.OBSERVE, JobKind.CLUSTER}
    assert booth.lane.is_finished


def test_without_a_diarizer_nobody_is_named() -> None:
    booth = Booth(diarizer=None, partials=False)
    booth.hear(talk())
    booth.end()
    assert booth.lane.speaker_names == set()
    assert booth.lane.is_finished
    assert all(ask.is_final for ask in booth.asked)


def test_text_never_waits_for_a_speaker() -> None:
    booth = Booth()
    booth.hear(talk(), kinds=frozenset({JobKind.DETECT, JobKind.RECOGNIZE}))
    assert booth.texts == word_texts(range(10))
    assert {ask.kind for ask in booth.waiting} == {JobKind.OBSERVE}
    (late,) = booth.waiting
    booth.lane.answer(late, booth.answers(late))
    booth.end()
    assert of_type(Revision, booth.events)
    assert booth.lane.speaker_names == {"S1", "S2"}


@pytest.mark.parametrize("buffer_seconds", [20, 120])
def test_a_diarizer_that_never_answers_does_not_fill_the_buffer(buffer_seconds: int) -> None:
    booth = Booth(buffer_samples=buffer_seconds * SAMPLE_RATE_HZ)
    kinds = frozenset({JobKind.DETECT, JobKind.RECOGNIZE})
    for _ in range(20):
        booth.hear(talk(), step=16_000, kinds=kinds, is_live=True)
        assert booth.lane.stored_samples <= min(15, buffer_seconds * 0.75) * 2 * SAMPLE_RATE_HZ
    assert booth.scope.stats.dropped_chunks > 0
    assert len(booth.texts) == 200


def test_chunks_that_waited_are_asked_about_together_up_to_a_bound() -> None:
    booth = Booth()
    booth.hear(talk(25.6), kinds=frozenset({JobKind.DETECT, JobKind.RECOGNIZE}))
    (first,) = booth.waiting
    booth.lane.answer(first, booth.answers(first))
    booth.settle()
    sizes = [len(ask.questions) for ask in booth.asked if ask.kind is JobKind.OBSERVE]
    assert max(sizes) == CHUNKS_PER_ASK_MAX


def test_an_activity_engine_that_fails_is_told_of_once_and_loses_nothing() -> None:
    booth = Booth()
    booth.engines.fails = lambda job: job.kind is JobKind.DETECT
    booth.hear(talk())
    booth.end()
    assert booth.texts == word_texts(range(10))
    assert [event.stage for event in of_type(Degraded, booth.events)] == [SessionStage.ACTIVITY]
    assert booth.unaccounted() == 0


def test_a_recognizer_that_fails_leaves_a_gap_of_the_whole_utterance() -> None:
    booth = Booth()
    booth.engines.fails = lambda job: job.kind is JobKind.RECOGNIZE
    booth.hear(np.concatenate([silence(1), talk()]))
    booth.end()
    (gap,) = of_type(Gap, booth.events)
    assert gap.span.start == SAMPLE_RATE_HZ - SAMPLE_RATE_HZ % 512 - 5_120
    assert gap.span.samples == booth.scope.stats.gap_samples_total
    assert booth.unaccounted() == 0
    assert booth.scope.stats.superseded_results > 0, "partials without an answer"


@pytest.mark.parametrize("kind", [JobKind.OBSERVE, JobKind.CLUSTER])
def test_a_diarizer_that_fails_is_told_of_and_text_goes_on(kind: JobKind) -> None:
    booth = Booth()
    booth.engines.fails = lambda job: job.kind is kind
    booth.hear(talk())
    booth.end()
    assert booth.texts == word_texts(range(10))
    assert [event.stage for event in of_type(Degraded, booth.events)] == [SessionStage.DIARIZATION]
    assert booth.lane.is_finished


OBSERVATION = Observation(np.ones((10, 2), np.float32), np.eye(2, dtype=np.float32))
UNSOUND = [
    (JobKind.DETECT, []),
    (JobKind.DETECT, [OBSERVATION]),
    (JobKind.DETECT, [Activity(np.ones((2, 2), np.float32), b"")]),
    (JobKind.RECOGNIZE, [OBSERVATION]),
    (JobKind.RECOGNIZE, []),
    (JobKind.OBSERVE, []),
    (JobKind.OBSERVE, [OBSERVATION, OBSERVATION, OBSERVATION]),
    (JobKind.OBSERVE, [Hypothesis(())]),
    (JobKind.OBSERVE, [replace(OBSERVATION, activity=np.ones(10, np.float32))]),
    (JobKind.OBSERVE, [replace(OBSERVATION, activity=np.ones((0, 2), np.float32))]),
    (JobKind.OBSERVE, [replace(OBSERVATION, activity=np.ones((10, 3), np.float32))]),
    (JobKind.OBSERVE, [replace(OBSERVATION, activity=np.full((10, 2), np.nan, np.float32))]),
    (JobKind.OBSERVE, [replace(OBSERVATION, embeddings=np.ones(2, np.float32))]),
    (
        JobKind.OBSERVE,
        [
            Observation(
                np.ones((10, LOCAL_SPEAKERS_MAX + 1), np.float32),
                np.ones((LOCAL_SPEAKERS_MAX + 1, 2), np.float32),
            )
        ],
    ),
    (JobKind.CLUSTER, [OBSERVATION]),
    (JobKind.CLUSTER, [Clusters(np.array([np.nan]))]),
    (JobKind.CLUSTER, [Clusters(np.array([[0], [7]]))]),
    (JobKind.CLUSTER, [Clusters(np.array([-5]))]),
]


@pytest.mark.parametrize(("kind", "garbage"), UNSOUND)
def test_an_unsound_answer_is_as_good_as_none(kind: JobKind, garbage: list[Answer]) -> None:
    booth = Booth()
    booth.engines.changes = lambda job, answers: garbage if job.kind is kind else answers
    booth.hear(talk(6.4))
    booth.end()
    assert booth.lane.is_finished
    assert booth.unaccounted() == 0
    assert booth.texts == ([] if kind is JobKind.RECOGNIZE else word_texts(range(20)))


def test_at_the_end_a_hanging_diarizer_is_given_up_and_known_speakers_stay() -> None:
    booth = Booth()
    booth.hear(talk(6.4))
    kinds = frozenset({JobKind.DETECT, JobKind.RECOGNIZE})
    booth.hear(talk(6.4), kinds=kinds)
    booth.end(kinds)
    assert (booth.lane.is_text_finished, booth.lane.is_finished) == (True, False)
    names = booth.lane.speaker_names
    assert names
    booth.lane.give_up_speakers()
    booth.lane.give_up_speakers()
    assert booth.lane.is_finished
    assert booth.lane.speaker_names == names
    assert len(of_type(Degraded, booth.events)) == 1
    before = booth.scope.log.last_seq
    for late in booth.waiting:
        booth.lane.answer(late, booth.answers(late))
    assert booth.lane.take_asks(0) == []
    assert booth.scope.log.last_seq == before, "nothing is said after the end"


def test_a_clustering_that_comes_after_giving_up_is_dropped() -> None:
    booth = Booth()
    kinds = ALL - {JobKind.CLUSTER}
    booth.hear(talk(), kinds=kinds)
    booth.end(kinds)
    booth.lane.give_up_speakers()
    (late, *_) = booth.waiting
    before = booth.scope.log.last_seq
    booth.lane.answer(late, booth.answers(late))
    assert booth.scope.log.last_seq == before
    assert booth.lane.is_finished


def test_a_finished_lane_gives_nothing_up() -> None:
    booth = Booth()
    booth.hear(talk())
    booth.end()
    booth.lane.give_up_speakers()
    assert of_type(Degraded, booth.events) == []


def test_an_answer_to_a_diarizer_that_the_lane_does_not_have_changes_nothing() -> None:
    booth = Booth("Alice")
    booth.hear(talk())
    booth.lane.receive_clusters(Clusters(np.zeros(1, np.int64)))
    booth.lane.receive_speakers([Span(0, 16_000)], [OBSERVATION])
    assert booth.lane.speaker_names == {"Alice"}


def test_silence_is_forgotten_and_dealt_with_as_it_comes() -> None:
    booth = Booth()
    booth.hear(silence(60), step=16_000)
    assert booth.lane.stored_samples < SAMPLE_RATE_HZ
    assert booth.lane.backlog_samples < SAMPLE_RATE_HZ
    assert booth.lane.stored_through() > 59 * SAMPLE_RATE_HZ


def test_audio_counts_as_stored_only_when_its_final_is() -> None:
    booth = Booth()
    booth.hear(talk())
    assert booth.texts
    fresh = Booth()
    fresh.hear(talk())
    assert fresh.lane.stored_through() == 0
    fresh.scope.log.mark_stored(fresh.scope.log.last_seq)
    assert fresh.lane.stored_through() > 3.2 * SAMPLE_RATE_HZ


def test_speech_without_a_pause_is_forgotten_as_it_is_cut() -> None:
    booth = Booth(windows=WindowOptions(cap_ms=4_000))
    for _ in range(10):
        booth.hear(speech(range(20)))
        assert booth.lane.stored_samples <= 5 * SAMPLE_RATE_HZ


def test_audio_is_held_until_its_words_are_known() -> None:
    booth = Booth()
    booth.hear(talk(), kinds=frozenset({JobKind.DETECT}))
    assert booth.lane.stored_samples == booth.lane.received
    assert booth.lane.backlog_samples == booth.lane.received
    assert not booth.lane.is_text_done


def test_the_next_owner_holds_what_the_diarizer_will_ask_about() -> None:
    """The words are committed before the chunk is full: only the tracker needs its start."""
    windows = WindowOptions(cap_ms=1_100, first_ms=50, hop_ms=50, left_context_ms=0)
    booth = Booth(windows=windows)
    booth.hear(speech(range(4)), step=512)
    assert booth.texts, "nothing is committed"
    assert not [ask for ask in booth.asked if ask.kind is JobKind.OBSERVE]
    heir = Booth(windows=windows)
    first = booth.lane.restart
    heir.lane.resume(booth.lane.state(10_000), first)
    heir.hear(speech(range(8))[first:], step=512)
    heir.end()
    observed = [ask for ask in heir.asked if ask.kind is JobKind.OBSERVE]
    chunk = observed[0].subject
    assert isinstance(chunk, tuple)
    assert chunk[0].start == first
    assert heir.lane.is_finished


def test_a_mute_ends_the_utterance_and_keeps_the_times_true() -> None:
    booth = Booth()
    booth.hear(speech(range(5)))
    booth.lane.skip(20 * SAMPLE_RATE_HZ, 0)
    booth.hear(np.concatenate([speech(range(5, 9)), silence(1)]))
    booth.end()
    first, second = of_type(Final, booth.events)
    assert second.span.start == first.span.end + 1_024 + 20 * SAMPLE_RATE_HZ
    assert booth.unaccounted() == 0


def test_words_behind_the_end_of_an_utterance_that_was_cut_there_are_withdrawn() -> None:
    """The cap falls on the last loud sample, a partial of the silence after it hears things,
    and the cut fails, so that its gap ends where the speech does."""
    cap_ms = 4_096
    booth = Booth(
        windows=WindowOptions(cap_ms=cap_ms, first_ms=100, hop_ms=100),
        endpointing=EndpointingOptions(tail_ms=0),
    )

    def change(job: Job, answers: list[Answer]) -> list[Answer]:
        ghost = Word("ghost", Span(job.audio_samples - 10, job.audio_samples))
        return [Hypothesis((ghost,))] if job.kind is JobKind.RECOGNIZE else answers

    booth.engines.fails = lambda job: job.kind is JobKind.RECOGNIZE and job.is_final
    booth.engines.changes = change
    loud = np.full(cap_ms * 16, 8_000, np.int16)
    booth.hear(np.concatenate([loud, silence(0.4)]), step=512)
    assert not booth.lane.is_settled
    shown = [event for event in of_type(Partial, booth.events) if event.words]
    assert shown[-1].span.start == len(loud), "the ghost is shown behind the cut"
    booth.hear(silence(1))
    check_partials(booth.events)
    booth.end()
    assert booth.lane.is_settled
    assert booth.unaccounted() == 0
    assert booth.lane.is_finished
