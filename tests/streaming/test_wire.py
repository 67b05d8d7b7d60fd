"""The native protocol: every message survives its JSON, nothing but BadMessage escapes."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from streaming.errors import BadMessage
from streaming.events import (
    CaptionWord,
    Degraded,
    Done,
    DurableEvent,
    Event,
    Final,
    Gap,
    GapReason,
    Lag,
    LanguageDetected,
    Partial,
    Quantiles,
    Revision,
    ServerPart,
    SessionStage,
    SpeakerRun,
    SpeechEnded,
    SpeechStarted,
)
from streaming.timeline import SAMPLES_PER_MS, Span
from streaming.wire import (
    Ack,
    AudioFormat,
    ClientMessage,
    Configure,
    DrainNotice,
    End,
    ErrorNotice,
    Flush,
    Lane,
    Ready,
    Resume,
    ServerNotice,
    Skip,
    Start,
    encode_client_message,
    encode_event,
    encode_notice,
    event_fields,
    parse_client_message,
    parse_durable_event,
    parse_server_message,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)
SPEAKER = st.none() | NAME
COUNT = st.integers(0, 2**53)
SHARE = st.none() | st.floats(0, 1)
SAMPLE = st.integers(0, 10**8).map(lambda ms: ms * SAMPLES_PER_MS)
SPAN = st.tuples(SAMPLE, SAMPLE).map(lambda pair: Span(min(pair), max(pair)))
LANGUAGE = st.none() | st.from_regex("[a-z]{2,3}", fullmatch=True)
QUANTILES = st.builds(Quantiles, SHARE, SHARE)
WORDS = st.lists(st.builds(CaptionWord, TEXT, SPAN, SHARE, SPEAKER, st.booleans())).map(tuple)

EVENTS: st.SearchStrategy[Event] = st.one_of(
    st.builds(Final, COUNT, TEXT, COUNT, SPAN, TEXT, LANGUAGE, SHARE, SPEAKER, WORDS),
    st.builds(Partial, COUNT, TEXT, COUNT, SPAN, TEXT, COUNT, SPEAKER, WORDS),
    st.builds(
        Revision,
        COUNT,
        TEXT,
        COUNT,
        st.lists(st.builds(SpeakerRun, COUNT, COUNT, SPEAKER)).map(tuple),
    ),
    st.builds(LanguageDetected, COUNT, TEXT, st.floats(0, 1)),
    st.builds(Gap, COUNT, COUNT, SPAN, st.sampled_from(GapReason)),
    st.builds(
        Done,
        COUNT,
        *[st.floats(0, 10**6)] * 4,
        SHARE,
        COUNT,
        COUNT,
        QUANTILES,
        QUANTILES,
    ),
    st.builds(SpeechStarted, COUNT, COUNT, SAMPLE),
    st.builds(SpeechEnded, COUNT, COUNT, SAMPLE),
    st.builds(Lag, COUNT, st.floats(0, 10**6)),
    st.builds(Degraded, COUNT, st.sampled_from([*SessionStage, *ServerPart]), TEXT, st.booleans()),
)
NOTICES: st.SearchStrategy[ServerNotice] = st.one_of(
    st.builds(
        Ready,
        *[TEXT, TEXT, COUNT, COUNT, COUNT, TEXT],
        st.dictionaries(TEXT, TEXT),
        st.dictionaries(TEXT, COUNT),
    ),
    st.builds(Ack, COUNT, COUNT),
    st.builds(DrainNotice, st.floats(0, 10**6)),
    st.builds(ErrorNotice, TEXT, TEXT, st.none() | COUNT),
)
AUDIO = st.builds(
    AudioFormat,
    encoding=st.sampled_from(["pcm_s16le", "pcm_f32le", "mulaw", "alaw"]),
    sample_rate=st.integers(4_000, 384_000),
    channels=st.integers(1, 20),
    channel_names=st.none() | st.lists(st.none() | NAME, max_size=20),
    tagged=st.booleans(),
)
PROMPT = st.none() | TEXT
CLIENT_MESSAGES: st.SearchStrategy[ClientMessage] = st.one_of(
    st.builds(
        Start,
        audio=AUDIO,
        language=LANGUAGE,
        task=st.sampled_from(["transcribe", "translate"]),
        prompt=PROMPT,
        keywords=st.lists(NAME, max_size=5),
        diarize=st.booleans(),
    ),
    st.builds(Resume, session_id=TEXT, resume_token=TEXT, last_seq=COUNT),
    st.builds(Lane, lane=st.integers(0, 19), name=st.none() | NAME),
    st.builds(Skip, ms=st.integers(1, 86_400_000), lane=st.none() | st.integers(0, 19)),
    st.just(Flush()),
    st.builds(
        Configure, language=LANGUAGE, prompt=PROMPT, keywords=st.none() | st.lists(NAME, max_size=5)
    ),
    st.just(End()),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(CLIENT_MESSAGES)
def test_client_messages_survive_their_json(message: ClientMessage) -> None:
    assert parse_client_message(encode_client_message(message)) == message


@given(EVENTS)
def test_events_survive_their_json(event: Event) -> None:
    assert parse_server_message(encode_event(event)) == event


@given(NOTICES)
def test_notices_survive_their_json(notice: ServerNotice) -> None:
    assert parse_server_message(encode_notice(notice)) == notice


@given(EVENTS)
def test_only_the_word_list_is_left_out(event: Event) -> None:
    expected = replace(event, words=()) if isinstance(event, Final | Partial) else event
    assert parse_server_message(encode_event(event, with_words=False)) == expected


@given(EVENTS.filter(lambda event: isinstance(event, DurableEvent)))
def test_durable_events_are_stored_as_their_fields(event: DurableEvent) -> None:
    assert parse_durable_event(event_fields(event)) == event


def test_an_example_of_a_final_has_the_documented_names() -> None:
    word = CaptionWord("Alice", Span(16_320, 22_080), 0.97, "S1")
    final = Final(42, "c17", 0, Span(16_320, 57_600), "Alice", "en", 0.95, "S1", (word,))
    assert orjson.loads(encode_event(final)) == {
        "type": "final",
        "seq": 42,
        "caption_id": "c17",
        "lane": 0,
        "start": 1.02,
        "end": 3.6,
        "text": "Alice",
        "language": "en",
        "confidence": 0.95,
        "speaker": "S1",
        "words": [
            {"word": "Alice", "start": 1.02, "end": 1.38, "confidence": 0.97, "speaker": "S1"}
        ],
    }


def test_a_bare_start_has_the_documented_defaults() -> None:
    assert parse_client_message('{"type":"start"}') == Start(
        audio=AudioFormat(encoding="pcm_s16le", sample_rate=16_000, channels=1, tagged=False),
        diarize=True,
        partials=True,
        words=True,
    )


@given(JSON)
def test_only_bad_message_escapes_any_json(value: Any) -> None:
    with pytest.raises(BadMessage):
        parse_client_message(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_only_bad_message_escapes_any_bytes(data: bytes | str) -> None:
    with pytest.raises(BadMessage):
        parse_client_message(data)


@given(CLIENT_MESSAGES, st.data())
def test_only_bad_message_escapes_a_damaged_message(message: ClientMessage, data: Any) -> None:
    fields = message.model_dump()
    target = fields
    if "audio" in fields and data.draw(st.booleans()):
        target = fields["audio"]
    key = data.draw(st.sampled_from(sorted(target)) | TEXT)
    target[key] = data.draw(JSON)
    with suppress(BadMessage):
        parse_client_message(orjson.dumps(fields))


@given(EVENTS, st.data())
def test_only_bad_message_escapes_a_damaged_event(event: Event, data: Any) -> None:
    fields = event_fields(event)
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(JSON)
    with suppress(BadMessage):
        parse_server_message(orjson.dumps(fields))


@pytest.mark.parametrize(
    "data", [b"", b"\xff", "\ud800", "[" * 5_000, "{}", "[]", "null", '{"type":[]}', '{"start":1}']
)
def test_only_bad_message_escapes_what_is_no_message(data: bytes | str) -> None:
    with pytest.raises(BadMessage):
        parse_client_message(data)
    with pytest.raises(BadMessage, match=r"captiond\.v1"):
        parse_server_message(data)


@pytest.mark.parametrize("time", ["1e308", "-1", '"x"', "null", "[]"])
def test_an_impossible_time_from_a_server_is_a_bad_message(time: str) -> None:
    with pytest.raises(BadMessage):
        parse_server_message(
            f'{{"type":"gap","seq":1,"lane":0,"start":{time},"end":{time},"reason":"overload"}}'
        )


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ('{"type":"start","audio":{"sample_rate":0}}', "audio.sample_rate"),
        ('{"type":"start","audio":{"sample_rate":1000000000}}', "audio.sample_rate"),
        ('{"type":"start","audio":{"sample_rate":"16000"}}', "audio.sample_rate"),
        ('{"type":"start","audio":{"channels":21}}', "audio.channels"),
        ('{"type":"start","audio":{"encoding":"mp3"}}', "audio.encoding"),
        ('{"type":"start","langage":"en"}', "langage"),
        ('{"type":"start","language":"english"}', "language"),
        ('{"type":"skip","ms":0}', "ms"),
        ('{"type":"lane","lane":20,"name":"x"}', "lane"),
        ('{"type":"lane","lane":1,"name":""}', "name"),
        ('{"type":"stop"}', "type"),
        ("{}", "type"),
    ],
)
def test_the_complaint_names_the_field(data: str, field: str) -> None:
    with pytest.raises(BadMessage, match=f'^"{field}": .*docs/protocol.md'):
        parse_client_message(data)


def test_messages_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Skip(ms=1).ms = 2  # type: ignore[misc]


def test_an_event_that_is_not_stored_yet_says_so_and_is_the_same_event() -> None:
    gap = Gap(3, 0, Span(0, 16_000), GapReason.OVERLOAD)
    assert orjson.loads(encode_event(gap, is_durable=False))["durable"] is False
    assert "durable" not in orjson.loads(encode_event(gap))
    assert parse_server_message(encode_event(gap, is_durable=False)) == gap
