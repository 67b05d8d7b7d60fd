"""A meeting of three virtual hours, stored as a server would have left it; some of it hostile.

The browser reads it from a real server over that store, event by event.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

from server.store import SessionRecord, TranscriptStore
from streaming.events import (
    CaptionWord,
    Done,
    DurableEvent,
    Final,
    Quantiles,
    Revision,
    SpeakerRun,
    main_speaker,
    text_of,
)
from streaming.timeline import Span, samples_from_seconds
from streaming.wire import event_fields

HOURS = 3
WORDS_PER_SECOND = 2.5
"""150 a minute: lively talk without a pause."""
WORDS_PER_CAPTION = (4, 16)
SPEAKERS = 5
REVISED_SHARE = 0.1

HOSTILE = {
    "markup": '<script>document.title="broken"</script><img src=x onerror=alert(1)>',
    "bidi": "pay \u202e\u2066evil\u2069 100 now",
    "unbroken": "a" * 10_000,
    "marks": "Z\u0335\u0300\u0301\u0302" * 50,
    "controls": "a\u0000b\u0007c\u001bd",
}
"""By what it tries; each is one word of a caption of its own, at the end."""


@dataclass(frozen=True, slots=True)
class Long:
    session_id: str
    captions: int
    words: int
    last_word: str


def _events(random: Random, vocabulary: list[str]) -> Iterator[DurableEvent]:
    seq, number, at_s = 0, 0, 0.0
    while at_s < HOURS * 3600:
        number += 1
        count = random.randint(*WORDS_PER_CAPTION)
        speaker = f"S{random.randint(1, SPEAKERS)}"
        words = [random.choice(vocabulary) for _ in range(count)]
        yield _final(seq := seq + 1, f"c{number}", at_s, words, speaker)
        if random.random() < REVISED_SHARE:
            run = SpeakerRun(0, count // 2, f"S{random.randint(1, SPEAKERS)}")
            yield Revision(seq := seq + 1, f"c{number}", 1, (run,))
        at_s += count / WORDS_PER_SECOND
    for what, word in HOSTILE.items():
        number += 1
        yield _final(seq := seq + 1, f"c{number}", at_s, [what, "before", word, "after"], "S1")
        at_s += 2
    nothing = Quantiles(None, None)
    yield Done(seq + 1, at_s, at_s, 0.0, 0.0, None, number * 8, SPEAKERS, nothing, nothing)


def _final(seq: int, caption_id: str, start_s: float, texts: list[str], speaker: str) -> Final:
    words = tuple(
        CaptionWord(text, _span(start_s + i / WORDS_PER_SECOND), 0.9, speaker)
        for i, text in enumerate(texts)
    )
    span = Span(words[0].span.start, words[-1].span.end)
    who = main_speaker(words)
    return Final(seq, caption_id, 0, span, text_of(words), "en", 0.9, who, words)


def _span(start_s: float) -> Span:
    start = samples_from_seconds(round(start_s, 3))
    return Span(start, start + samples_from_seconds(1 / WORDS_PER_SECOND))


async def long_session(store_path: Path, vocabulary: list[str]) -> Long:
    """Write it into a store that no server has open."""
    events = list(_events(Random(11), vocabulary))
    finals = [event for event in events if isinstance(event, Final)]
    now = datetime.now(UTC)
    record = SessionRecord(
        session_id="3" * 24,
        tenant="local",
        created_at=now - timedelta(hours=HOURS),
        ended_at=None,
        state="open",
        options={},
        resume_token_hash="0" * 64,
    )
    store = await TranscriptStore.open(f"sqlite+aiosqlite:///{store_path}")
    try:
        await store.create_session(record)
        await store.append(record.session_id, [event_fields(event) for event in events])
        await store.finish_session(record.session_id, "done", now)
    finally:
        await store.close()
    words = sum(len(final.words) for final in finals)
    return Long(record.session_id, len(finals), words, finals[-1].words[-1].text)
