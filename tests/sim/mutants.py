"""Faults planted in the code under test, each of which some check must catch.

A net that catches nothing proves nothing. Every mutant breaks one promise in the smallest way that
keeps the rest working, and names the checks that may catch it. ``python -m tests.sim --mutants``
plants them one by one.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from streaming import audio, grid_speakers, listening, recognition
from streaming.audio import PcmDecoder
from streaming.batching import BatchLimits, Scheduler
from streaming.buffer import SampleBuffer
from streaming.captions import CaptionBook
from streaming.endpointing import Endpointer, Offset
from streaming.engines import Hypothesis, Word
from streaming.eventlog import Cursor, EventLog
from streaming.events import DurableEvent, Event, Final, GapReason, Partial, PassingEvent
from streaming.grid_speakers import GridTracker
from streaming.handover import LaneHandover
from streaming.intake import InterleavedIntake, TaggedIntake
from streaming.lane import Lane
from streaming.listening import Listener
from streaming.publishing import Publisher
from streaming.recognition import (
    LostText,
    PartialText,
    Recognition,
    Request,
    words_on_lane,
)
from streaming.session import Session
from streaming.stitching import runs_of
from streaming.timeline import Span
from streaming.turns import Turn
from tests.sim.whole import NOTHING_BREAKS, run_seed

SEEDS_MAX = 150
"""In which every mutant must be caught."""

Planted = AbstractContextManager[Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault in the code."""

    name: str
    plant: Callable[[], Planted]
    caught_by: tuple[str, ...]
    """Any of these checks; another one means that the mutant breaks more than it says."""
    first_seed: int = 0
    """Where the hunt begins, to save time: most worlds have nothing that would show it."""


@dataclass(frozen=True, slots=True)
class Catch:
    """What caught a mutant."""

    seed: int
    check: str


def hunt(mutant: Mutant) -> Catch | None:
    """The first seed whose world notices; None where none does."""
    with mutant.plant():
        for seed in range(mutant.first_seed, mutant.first_seed + SEEDS_MAX):
            report = run_seed(seed)
            if report.check is not None:
                return Catch(seed, report.check)
    return None


# What readers are told, and when


def _seen_before_stored() -> Planted:
    return patch.object(EventLog, "visible_end", property(lambda log: log._end))


def _read_again() -> Planted:
    def is_news(cursor: Cursor, event: Event) -> bool:
        if isinstance(event, PassingEvent):
            return event.after_seq >= cursor.seq
        cursor.seq = max(cursor.seq, event.seq)
        return True

    return patch.object(Cursor, "_is_news", is_news)


def _skipped_seq() -> Planted:
    return patch.object(
        EventLog, "next_seq", property(lambda log: log.last_seq + 1 + (log.last_seq == 3))
    )


def _changed_word() -> Planted:
    read = Cursor.read

    def changed(cursor: Cursor, limit: int) -> list[Event]:
        events = read(cursor, limit)
        return [_shouted(e) if isinstance(e, Final) and e.seq % 4 == 3 else e for e in events]

    return patch.object(Cursor, "read", changed)


def _shouted(final: Final) -> Final:
    words = tuple(replace(word, text=word.text.upper()) for word in final.words)
    return replace(final, words=words)


def _lost_withdrawal() -> Planted:
    def replace_partial(log: EventLog, partial: Partial) -> None:
        at = log._partial_of_lane.get(partial.lane, -1) - log._base
        if at >= 0 and isinstance(log._entries[at], Partial):
            log._entries[at] = None
        log._partial_of_lane[partial.lane] = log._end

    return patch.object(EventLog, "_replace_partial", replace_partial)


def _double_closing() -> Planted:
    append_done = Session._append_done

    def twice(session: Session) -> None:
        append_done(session)
        done = session.log._entries[-1]
        assert isinstance(done, DurableEvent)
        session.log.append(replace(done, seq=session.log.next_seq))

    return patch.object(Session, "_append_done", twice)


def _silent_change_of_speaker() -> Planted:
    revise = Publisher.revise

    def forgetful(publisher: Publisher, turns: Sequence[Turn], *, since: int) -> None:
        if publisher._scope.stats.revisions % 2 == 1:
            publisher._book.revise(turns, since=since)
            publisher._scope.stats.revisions += 1
        else:
            revise(publisher, turns, since=since)

    return patch.object(Publisher, "revise", forgetful)


def _unreported_gap() -> Planted:
    def gap(publisher: Publisher, lost: LostText) -> None:
        publisher._scope.stats.gap_samples[GapReason.ENGINE_FAILED] += lost.span.samples
        if lost.was_shown:
            publisher._withdraw(lost.caption_id, lost.span)

    return patch.object(Publisher, "gap", gap)


def _shared_name() -> Planted:
    def new_name(session: Session) -> str:
        session._names.speakers += 1
        return f"S{session._names.speakers}"

    return patch.object(Session, "_new_speaker_name", new_name)


def _one_voice_for_all() -> Planted:
    speakers = CaptionBook._speakers

    def first_of(book: CaptionBook, *args: Any, **options: Any) -> list[str | None]:
        found = speakers(book, *args, **options)
        return ["S1" if name and book.lane_name is None else name for name in found]

    return patch.object(CaptionBook, "_speakers", first_of)


# Audio


def _dropped_tail() -> Planted:
    end = Endpointer._end

    def short(endpointer: Endpointer, *args: Any) -> Offset:
        offset = end(endpointer, *args)
        kept = max(offset.speech[0].start + 1, offset.span.end - 4_096)
        span = Span(offset.span.start, kept)
        speech = tuple(part.clamped(span) for part in offset.speech if part.start < kept)
        return Offset(span, min(offset.at, kept), speech)

    return patch.object(Endpointer, "_end", short)


def _dropped_resampler_tail() -> Planted:
    def flush(resampler: Any, end_frame: int) -> Any:
        return resampler._empty()

    return patch.object(audio._BlockResampler, "flush", flush)


def _kept_half_frame() -> Planted:
    return patch.object(PcmDecoder, "drop_partial_frame", lambda decoder: None)


def _early_acknowledgement() -> Planted:
    through = property(lambda session: session._keeper.restart_frame)
    return patch.object(Session, "stored_through_frame", through)


def _forgotten_mute() -> Planted:
    skip = Listener.skip
    return patch.object(Listener, "skip", lambda listener, samples: skip(listener, samples // 2))


def _cut_through_a_word() -> Planted:
    return patch.object(recognition, "_cut_sample", lambda words, content: content.end)


def _early_cut_through_a_word() -> Planted:
    return patch.object(recognition, "_settled_end", lambda words, content, unsettled: content.end)


def _drain_ends_what_is_said() -> Planted:
    """As it was once: wherever the last sample is."""

    def let_go(lane: LaneHandover, *, is_talking: bool) -> None:
        lane._listener.end_here()

    stack = ExitStack()
    stack.enter_context(patch.object(LaneHandover, "is_between_utterances", True))
    stack.enter_context(patch.object(LaneHandover, "let_go", let_go))
    return stack


def _drain_commits_nothing() -> Planted:
    return patch.object(LaneHandover, "is_between_utterances", True)


def _lane_left_behind() -> Planted:
    return patch.object(TaggedIntake, "_caught_up", lambda intake, lane, content, frames: [])


# Bounds


def _unbounded_queue() -> Planted:
    init = Scheduler.__init__

    def unbounded(scheduler: Scheduler, limits: BatchLimits) -> None:
        init(scheduler, replace(limits, queue_jobs_max=10**9))

    return patch.object(Scheduler, "__init__", unbounded)


def _unbounded_buffer() -> Planted:
    init = SampleBuffer.__init__
    stack = ExitStack()
    credit = property(lambda session: session.frames_received + 10**9)
    stack.enter_context(patch.object(Session, "credit_until_frame", credit))

    def unbounded(buffer: SampleBuffer, samples_max: int, start: int = 0) -> None:
        init(buffer, 10**9, start)

    stack.enter_context(patch.object(SampleBuffer, "__init__", unbounded))
    return stack


def _unbounded_log() -> Planted:
    return patch.object(EventLog, "_trim", lambda log: None)


def _no_brake() -> Planted:
    return patch.object(EventLog, "is_congested", property(lambda log: False))


# Engines


def _late_partial_accepted() -> Planted:
    receive = Recognition._receive_partial

    def accepted(
        lane: Recognition, request: Request, hypothesis: Hypothesis | None
    ) -> PartialText | None:
        text = receive(lane, request, hypothesis)
        if text is not None or hypothesis is None:
            return text
        words = words_on_lane(hypothesis, request.window)
        return PartialText(request.caption_id, request.window.content, words, 0) if words else None

    return patch.object(Recognition, "_receive_partial", accepted)


class _NeverForgets(dict[int, Any]):
    def pop(self, number: int, default: Any = None) -> Any:
        return self.get(number, default)


def _answer_taken_twice() -> Planted:
    init = Session.__init__

    def keeping(session: Session, *args: Any, **options: Any) -> None:
        init(session, *args, **options)
        session._pending = _NeverForgets()

    return patch.object(Session, "__init__", keeping)


def _late_answers_uncounted() -> Planted:
    receive = Session.receive_result

    def uncounted(session: Session, *args: Any) -> None:
        receive(session, *args)
        session.stats.superseded_results = 0

    return patch.object(Session, "receive_result", uncounted)


def _nan_confidence() -> Planted:
    return patch.object(recognition, "_share", lambda confidence: confidence)


def _nan_probability() -> Planted:
    names = {name: getattr(np, name) for name in ("zeros", "ones", "int16", "float32", "isfinite")}
    believing = SimpleNamespace(**names, where=lambda is_finite, heard, other: heard)
    return patch.object(listening, "np", believing)


def _times_believed() -> Planted:
    def believed(hypothesis: Hypothesis, window: Any) -> tuple[Word, ...]:
        shift = window.span.start
        return tuple(replace(w, span=w.span.shifted(shift)) for w in hypothesis.words)

    return patch.object(recognition, "words_on_lane", believed)


def _restart_too_late() -> Planted:
    restart = vars(Lane)["restart"].fget
    return patch.object(Lane, "restart", property(lambda lane: restart(lane) + 1_600))


def _utterance_forgotten_in_a_crash() -> Planted:
    resume = Recognition.resume
    return patch.object(Recognition, "resume", lambda lane, states: resume(lane, states[1:]))


# Speakers of a diarizer that looks at all audio


def _last_chunk_not_taken() -> Planted:
    return patch.object(GridTracker, "_take_last", lambda tracker: [])


def _last_chunk_taken_again() -> Planted:
    take = GridTracker._take_last

    def forgetful(tracker: GridTracker) -> list[Span]:
        chunks = take(tracker)
        tracker._last_taken = tracker._taken_until = None
        return chunks

    return patch.object(GridTracker, "_take_last", forgetful)


def _chunk_left_out() -> Planted:
    take = GridTracker.take_chunks

    return patch.object(GridTracker, "take_chunks", lambda tracker: take(tracker)[:1])


def _provisional_evidence_kept() -> Planted:
    def keep(tracker: GridTracker) -> None:
        tracker._provisional = None

    return patch.object(GridTracker, "_forget_provisional", keep)


def _new_groups_not_shown() -> Planted:
    return patch.object(GridTracker, "_forget_turns", lambda tracker: None)


def _turns_too_late() -> Planted:
    def late(active: Any, grid: Any, first: int) -> list[Span]:
        return [span.shifted(32_000) for span in runs_of(active, grid, first)]

    return patch.object(grid_speakers, "runs_of", late)


def _grid_from_the_beginning() -> Planted:
    def receive(tracker: GridTracker, held: Span, *, is_last: bool) -> None:
        tracker._held, tracker._is_ended = held, is_last

    return patch.object(GridTracker, "receive_audio", receive)


def _restart_inside_a_mute() -> Planted:
    return patch.object(InterleavedIntake, "_note_skip", lambda intake, first, end: None)


WORDS = ("check_words", "check_ack_is_safe")
"""Words that are missing are noticed at the end, or when a client may forget their audio."""

TWICE = (NOTHING_BREAKS, "check_late_answers", "check_in_flight")

MUTANTS = (
    Mutant("final sent before commit", _seen_before_stored, ("check_stored",)),
    Mutant("dedupe skipped", _read_again, ("check_reading",)),
    Mutant("tail dropped", _dropped_tail, WORDS),
    Mutant("queue unbounded", _unbounded_queue, ("check_queue",), first_seed=19),
    Mutant("late result accepted", _late_partial_accepted, ("check_partials",)),
    Mutant("NaN let through", _nan_confidence, ("check_values",), first_seed=6),
    Mutant("word changed after final", _changed_word, ("check_stored",)),
    Mutant(
        "speaker changed without revision",
        _silent_change_of_speaker,
        ("check_revisions",),
        first_seed=20,
    ),
    Mutant("gap not reported", _unreported_gap, ("check_gaps", "check_ack_is_safe")),
    Mutant("ack before store", _early_acknowledgement, ("check_ack_is_safe",)),
    Mutant("seq skipped", _skipped_seq, ("check_rows",)),
    Mutant("double closing", _double_closing, ("check_closing",)),
    Mutant("withdrawal lost", _lost_withdrawal, ("check_partials",), first_seed=266),
    Mutant("name shared by two lanes", _shared_name, ("check_speakers",)),
    Mutant(
        "everybody is the first speaker", _one_voice_for_all, ("check_voices", "check_speakers")
    ),
    Mutant("resampler's tail dropped", _dropped_resampler_tail, ("check_length", NOTHING_BREAKS)),
    Mutant(
        "half a frame kept over a resume",
        _kept_half_frame,
        (*WORDS, "check_progress", NOTHING_BREAKS),
        first_seed=5,
    ),
    Mutant("mute forgotten", _forgotten_mute, ("check_length", "check_words", NOTHING_BREAKS)),
    Mutant("cut through a word", _cut_through_a_word, WORDS, first_seed=15),
    Mutant("cut through a word where a server goes", _early_cut_through_a_word, WORDS, 60),
    Mutant("drain in the middle of a word", _drain_ends_what_is_said, WORDS, 60),
    Mutant("drain that commits nothing", _drain_commits_nothing, ("check_drain",), 60),
    Mutant("lane left behind the others", _lane_left_behind, ("check_words", "check_length")),
    Mutant(
        "buffer unbounded", _unbounded_buffer, ("check_bounds", "check_congestion"), first_seed=13
    ),
    Mutant("log unbounded", _unbounded_log, ("check_bounds",)),
    Mutant("no brake while the store is stuck", _no_brake, ("check_congestion", "check_bounds")),
    Mutant("answer taken twice", _answer_taken_twice, TWICE),
    Mutant("late answers not counted", _late_answers_uncounted, ("check_late_answers",)),
    Mutant("NaN taken for silence", _nan_probability, WORDS, first_seed=10),
    Mutant("restart too late", _restart_too_late, (*WORDS, "check_bounds", NOTHING_BREAKS)),
    Mutant(
        "utterance forgotten in a crash",
        _utterance_forgotten_in_a_crash,
        (*WORDS, NOTHING_BREAKS),
        first_seed=26,
    ),
    Mutant("last chunk of the grid not taken", _last_chunk_not_taken, ("check_named",)),
    Mutant("last chunk of the grid taken again", _last_chunk_taken_again, ("check_chunks",), 19),
    Mutant("chunk of the grid left out", _chunk_left_out, ("check_named", "check_voices"), 17),
    Mutant("provisional evidence kept", _provisional_evidence_kept, ("check_evidence",)),
    Mutant("new groups not shown", _new_groups_not_shown, ("check_named", "check_voices"), 13),
    Mutant("turns of the grid too late", _turns_too_late, ("check_voices", "check_named")),
    Mutant("grid from the beginning after a crash", _grid_from_the_beginning, (NOTHING_BREAKS,)),
    Mutant("restart inside a mute", _restart_inside_a_mute, ("check_progress",), first_seed=110),
    Mutant("impossible times believed", _times_believed, ("check_captions", NOTHING_BREAKS)),
)
