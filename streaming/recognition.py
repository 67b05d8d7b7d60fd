"""One lane's utterances become words: which window to ask for, and what its answer commits.

Owns the queue of utterances that are not finished, their windows, drafts and caption ids. Words
come in as hypotheses and go out as partial or final text on the lane's clock. Knows nothing of
audio data, speakers or wire formats.

Invariants: R1 finals come in audio order, and each sample of an utterance is covered by exactly
one final or one failure; R2 one final and one partial are asked for at a time; R3 a partial whose
utterance was committed meanwhile is dropped; R4 what is committed depends on the audio and the
answers to finals alone, not on which partials came in time, and on where another server was to go
on (``leave``); R5 the words of finals never overlap.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import isfinite

from streaming.agreement import agreed_count, cut_point, stable_count
from streaming.endpointing import Onset
from streaming.engines import Hypothesis, Word
from streaming.events import GapReason
from streaming.partials import PartialContext, PartialOptions
from streaming.timeline import SAMPLES_PER_MS, Span
from streaming.windows import OpenWindowState, Window, WindowOptions, WindowPlanner

GAP_SAMPLES_MIN = 200 * SAMPLES_PER_MS
"""A pause this long between words is a safe place to cut (design: commit rule)."""
WORDS_MAX = 1_000
"""Per window: 30 s of the fastest speech holds under 200; more is an engine gone wild."""
WORD_CHARACTERS_MAX = 200
DRAFT_TOKENS_MAX = 1_000
"""Whisper's decoder holds 448."""
UNSETTLED_SAMPLES = 1_000 * SAMPLES_PER_MS
"""At the end of a window that is cut, words may still change with what follows: a default hop."""
EARLY_CUT_SAMPLES_MIN = 200 * SAMPLES_PER_MS
"""Before what is not settled; less than this, a short word, is not worth a cut."""
_CONTROL_TO_SPACE = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], " ")


@dataclass(frozen=True, slots=True)
class EarlyCut:
    """How an open utterance is cut that another server goes on with."""

    end: int
    """Of the audio that is listened to."""
    unsettled_samples: int
    """Before it; words that end in them are left to the other one."""


@dataclass(frozen=True, slots=True)
class Request:
    """A window that wants words."""

    window: Window
    is_final: bool
    is_cut: bool
    """The utterance goes on: only the words before the cut are committed."""
    caption_id: str
    draft: tuple[int, ...]
    context_widening: int = 0
    """See ``SpeechWindow``; 0 for finals, which may not depend on partials (R4)."""
    early_cut: EarlyCut | None = None
    """Where it is one: without settled words, or without an answer, nothing is committed."""


@dataclass(frozen=True, slots=True)
class PartialText:
    """The open utterance as understood so far. No words: what was shown is withdrawn."""

    caption_id: str
    span: Span
    words: tuple[Word, ...]
    stable_words: int


@dataclass(frozen=True, slots=True)
class FinalText:
    """Committed words of ``span``; there may be none."""

    caption_id: str
    span: Span
    words: tuple[Word, ...]
    hypothesis: Hypothesis
    was_shown: bool
    """A partial with this id has been published."""
    stable_words: int = 0
    """Words that the last partial had called stable."""
    broken_stable_words: int = 0
    """Those of them that are not the same here."""


@dataclass(frozen=True, slots=True)
class LostText:
    """No engine could say what was spoken in ``span``."""

    caption_id: str
    span: Span
    was_shown: bool
    reason: GapReason = GapReason.ENGINE_FAILED


Outcome = PartialText | FinalText | LostText


@dataclass(frozen=True, slots=True)
class UtteranceState:
    """What is not committed of an utterance; partials and drafts are made anew."""

    window: OpenWindowState
    end: int | None
    caption_id: str | None
    was_shown: bool


class _Utterance:
    def __init__(self, options: WindowOptions, stability: int) -> None:
        self._hypotheses_kept = max(1, stability - 1)
        self.planner = WindowPlanner(options)
        self.end: int | None = None
        self.caption_id: str | None = None
        """Given with the first window, so that ids count up in the order of the audio."""
        self.begin_caption()

    def resume(self, state: UtteranceState) -> None:
        self.planner.resume(state.window)
        self.end, self.caption_id = state.end, state.caption_id
        self.was_shown = state.was_shown

    def begin_caption(self) -> None:
        self.caption_id = None
        self.earlier: tuple[tuple[Word, ...], ...] = ()
        """Hypotheses of its last partials, the newest last."""
        self.stable: tuple[Word, ...] = ()
        self.draft: tuple[int, ...] = ()
        self.was_shown = False

    def heard(self, words: tuple[Word, ...]) -> None:
        """Keep a partial's hypothesis for the next ones to be compared with."""
        self.earlier = (*self.earlier, words)[-self._hypotheses_kept :]


class Recognition:
    """The windows of one lane, in order."""

    def __init__(
        self,
        options: WindowOptions,
        new_caption_id: Callable[[], str],
        *,
        partials: bool,
        partial_options: PartialOptions | None = None,
    ) -> None:
        self._options = options
        self._new_caption_id = new_caption_id
        self._partials = partials
        self._partial_options = partial_options or PartialOptions()
        self._context = PartialContext()
        self._utterances: deque[_Utterance] = deque()
        self._final: Request | None = None
        self._partial: Request | None = None
        self._is_leaving = False
        self._early_cut: EarlyCut | None = None
        """Wanted, and not asked for yet."""
        self.thinning = 1.0
        """Hops between two partials; above 1 while the server is short of engine time."""

    @property
    def is_idle(self) -> bool:
        return not self._utterances

    @property
    def earliest_needed(self) -> int | None:
        """Samples before it will not be asked for again; None when nothing is needed."""
        starts = (utterance.planner.earliest_needed for utterance in self._utterances)
        return next((start for start in starts if start is not None), None)

    @property
    def uncommitted_from(self) -> int | None:
        """The first sample whose words are not committed; None when there is none."""
        if self._final is not None:
            return self._final.window.content.start
        return self._utterances[0].planner.content_start if self._utterances else None

    def open(self, onset: Onset) -> None:
        """Speech began."""
        utterance = self._new_utterance()
        utterance.planner.open(onset.start, onset.at)

    def _new_utterance(self) -> _Utterance:
        utterance = _Utterance(self._options, self._partial_options.stability)
        self._utterances.append(utterance)
        return utterance

    @property
    def restart(self) -> int | None:
        """As ``earliest_needed``, for one that goes on from ``state``; it asks again."""
        starts = [] if self._final is None else [self._final.window.span.start]
        if self.earliest_needed is not None:
            starts.append(self.earliest_needed)
        return min(starts, default=None)

    def state(self) -> tuple[UtteranceState, ...]:
        """What ``resume`` needs: all that is not committed, as if nothing of it had been asked."""
        windows = [utterance.planner.state for utterance in self._utterances]
        if windows and windows[0] is None:
            # Its last window is asked for already.
            assert self._final is not None
            asked = self._final.window
            start = asked.content.start
            windows[0] = OpenWindowState(asked.span.start, start, start, start)
        return tuple(
            UtteranceState(window, utterance.end, utterance.caption_id, utterance.was_shown)
            for window, utterance in zip(windows, self._utterances, strict=True)
            if window is not None
        )

    def resume(self, utterances: Sequence[UtteranceState]) -> None:
        """Go on as the recognition whose state it was would have."""
        for state in utterances:
            self._new_utterance().resume(state)

    def close(self, end: int) -> PartialText | None:
        """The utterance that is open ended. Returns the withdrawal of what was shown of a rest
        that has turned out to be nothing."""
        last = self._utterances[-1]
        last.end = end
        content_start = last.planner.content_start
        if content_start is None or content_start < end:
            return None
        self._utterances.pop()
        nothing = Span(content_start, content_start)
        shown_id = last.caption_id if last.was_shown else None
        return None if shown_id is None else PartialText(shown_id, nothing, (), 0)

    def take_request(self, judged: int, speech_end: int) -> Request | None:
        """The next window to decode, given audio up to ``judged``.

        An open utterance is cut no later than ``speech_end``, where its last speech so far ends:
        it may turn out to have ended there.
        """
        if not self._utterances or self._final is not None:
            return None
        head = self._utterances[0]
        end = judged if head.end is None else head.end
        cut = head.planner.next_cut(speech_end if head.end is None else head.end)
        if cut is not None:
            return self._final_request(head, cut, is_cut=True)
        if head.end is not None:
            return self._final_request(head, head.planner.close(head.end), is_cut=False)
        if self._is_leaving:
            return self._early_request(head)
        return self._partial_request(head, end)

    def _final_request(self, head: _Utterance, window: Window, *, is_cut: bool) -> Request:
        self._final = Request(window, True, is_cut, self._caption_id(head), head.draft)
        return self._final

    def _early_request(self, head: _Utterance) -> Request | None:
        early, self._early_cut = self._early_cut, None
        if early is None:
            return None
        samples_min = early.unsettled_samples + EARLY_CUT_SAMPLES_MIN
        window = head.planner.next_early_cut(early.end, samples_min)
        if window is None:
            return None
        request = self._final_request(head, window, is_cut=True)
        self._final = replace(request, early_cut=early)
        return self._final

    def leave(self, cut: EarlyCut | None) -> None:
        """Another server goes on from here: no more partials, and one ``cut`` of what is open."""
        self._is_leaving, self._early_cut = True, cut

    def stay(self) -> None:
        """No other one does."""
        self._is_leaving, self._early_cut = False, None

    @property
    def is_left(self) -> bool:
        """All that is to be committed before another server goes on is committed."""
        is_wanted = self._early_cut is not None and not self.is_idle
        is_open = all(utterance.end is None for utterance in self._utterances)
        return self._final is None and is_open and not is_wanted

    def _caption_id(self, head: _Utterance) -> str:
        if head.caption_id is None:
            head.caption_id = self._new_caption_id()
        return head.caption_id

    def _partial_request(self, head: _Utterance, end: int) -> Request | None:
        if not self._partials or self._partial is not None:
            return None
        window = head.planner.next_partial(end, self.thinning)
        if window is not None:
            self._partial = Request(
                window, False, False, self._caption_id(head), head.draft, self._context.widening
            )
            return self._partial
        return None

    def receive(
        self,
        request: Request,
        hypothesis: Hypothesis | None,
        reason: GapReason = GapReason.ENGINE_FAILED,
    ) -> Outcome | None:
        """The answer to a request; None, for a reason, where there is none to be had.

        Returns None when superseded, and where an early cut comes to nothing.
        """
        if not request.is_final:
            return self._receive_partial(request, hypothesis)
        assert request is self._final
        self._final = None
        head = self._utterances[0]
        words = () if hypothesis is None else words_on_lane(hypothesis, request.window)
        end = _end_of(request, words)
        if end is None:
            head.planner.keep()
            return None
        if hypothesis is None:
            return self._lose(head, request, reason)
        return self._commit(head, request, words, hypothesis, end)

    def _receive_partial(
        self, request: Request, hypothesis: Hypothesis | None
    ) -> PartialText | None:
        self._partial = None
        head = self._utterances[0] if self._utterances else None
        is_stale = head is None or head.caption_id != request.caption_id or self._final is not None
        if is_stale or hypothesis is None:
            return None
        assert head is not None
        words = words_on_lane(hypothesis, request.window)
        stable = stable_count(head.earlier, words, self._partial_options.stability)
        head.heard(words)
        head.draft, head.stable = hypothesis.tokens[:DRAFT_TOKENS_MAX], words[:stable]
        shown = head.stable if self._partial_options.stable_only else words
        if not shown and not head.was_shown:
            return None
        head.was_shown = True
        return PartialText(request.caption_id, request.window.content, shown, stable)

    def _commit(
        self,
        head: _Utterance,
        request: Request,
        words: tuple[Word, ...],
        hypothesis: Hypothesis,
        end: int,
    ) -> FinalText:
        content = Span(request.window.content.start, end)
        if request.is_cut:
            # By the same rule as in the next window, so that each word is in one of them.
            words = tuple(_clamped(word, content) for word in words if _is_before(word, content))
        stable = head.stable[: len(words)] if request.is_cut else head.stable
        if head.earlier:
            self._context.compare(head.earlier[-1], words, content.end)
        text = FinalText(
            caption_id=request.caption_id,
            span=content,
            words=words,
            hypothesis=hypothesis,
            was_shown=head.was_shown,
            stable_words=len(head.stable),
            # What was not committed yet (a cut took less than the partial) is not broken.
            broken_stable_words=len(stable) - agreed_count(stable, words),
        )
        self._go_on(head, request, content.end)
        return text

    def _lose(self, head: _Utterance, request: Request, reason: GapReason) -> LostText:
        content = request.window.content
        lost = LostText(request.caption_id, content, head.was_shown, reason)
        self._go_on(head, request, content.end)
        return lost

    def _go_on(self, head: _Utterance, request: Request, at: int) -> None:
        if request.is_cut and at != head.end:
            head.planner.cut(at)
            head.begin_caption()
        else:
            self._utterances.popleft()


def _end_of(request: Request, words: tuple[Word, ...]) -> int | None:
    """Up to where the answer is committed; None for nothing of it."""
    content = request.window.content
    if request.early_cut is not None:
        return _settled_end(words, content, request.early_cut.unsettled_samples)
    return _cut_sample(words, content) if request.is_cut else content.end


def _settled_end(words: tuple[Word, ...], content: Span, unsettled_samples: int) -> int | None:
    """Behind the last word that nothing that follows will change; None where there is none.

    Not at a longer pause before it, as in a full window: whose client stays away loses what is
    left to the next server.
    """
    settled_through = content.end - unsettled_samples
    kept = len([*takewhile(lambda word: word.span.end <= settled_through, words)])
    if kept == 0:
        return None
    end = words[kept - 1].span.end
    at = (end + words[kept].span.start) // 2 if kept < len(words) else end
    return at if at > content.start else None


def _cut_sample(words: tuple[Word, ...], content: Span) -> int:
    """Where to cut a full window: at a pause, else where its words are settled, else before what
    may be a word that the window's end has cut off: that one is heard whole in the next window.

    The design's LocalAgreement boundary is that with a partial one hop older. Which partial came
    last depends on packets and load, and commits may not (R4): words of that age are taken
    instead, as if such a partial had agreed with them.
    """
    settled = [word for word in words if word.span.end <= content.end - UNSETTLED_SAMPLES]
    found = cut_point(words, settled, content, GAP_SAMPLES_MIN)
    if found is not None:
        return found[1]
    at = words[-1].span.start if words else content.end - UNSETTLED_SAMPLES
    return at if at > content.start else content.end


def words_on_lane(hypothesis: Hypothesis, window: Window) -> tuple[Word, ...]:
    """The hypothesis' words on the lane's clock, without the left context and what cannot be.

    An engine's output is not trusted: times are clamped to the window and put in order, what is
    not valid Unicode, not text or not a confidence is dropped, nothing is longer than its bound.
    """
    size = Span(0, window.span.samples)
    words: list[Word] = []
    for word in hypothesis.words[:WORDS_MAX]:
        text = _clean(word.text)
        span = word.span.clamped(size).shifted(window.span.start)
        if text and _is_inside(span, window):
            span = Span(int(span.start), int(span.end)).clamped(window.content)
            words.append(Word(text, span, _share(word.confidence), word.is_glued))
    return tuple(sorted(words, key=lambda word: word.span.start))


def _clean(text: str) -> str:
    # Cut first: cleaning megabytes of garbage would take time from other sessions.
    start = text[: 2 * WORD_CHARACTERS_MAX].encode("utf-8", "ignore").decode()
    return " ".join(start.translate(_CONTROL_TO_SPACE).split())[:WORD_CHARACTERS_MAX].strip()


def _share(confidence: float | None) -> float | None:
    if confidence is None or not isfinite(confidence):
        return None
    return min(1.0, max(0.0, float(confidence)))


def _clamped(word: Word, bounds: Span) -> Word:
    return Word(word.text, word.span.clamped(bounds), word.confidence, word.is_glued)


def _is_before(word: Word, content: Span) -> bool:
    return word.span.middle < content.end


def _is_inside(span: Span, window: Window) -> bool:
    """The middle decides, so that a word on the edge belongs to one window only."""
    is_last_moment = span.middle == window.content.end == window.span.end
    return window.content.start <= span.middle < window.content.end or is_last_moment
