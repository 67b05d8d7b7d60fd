"""Deepgram's query parameters, as the clients of theirs really write them."""

import contextlib
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict

from server.protocols.deepgram_query import ListenOptions, Terms, parse_query
from streaming.errors import UnsupportedOption
from streaming.wire import AudioFormat

PAUSE_MS = 600
LIVEKIT = (
    "model=nova-3&punctuate=true&smart_format=false&no_delay=true&interim_results=true"
    "&encoding=linear16&vad_events=true&sample_rate=16000&channels=1&endpointing=25"
    "&filler_words=true&profanity_filter=false&numerals=false&mip_opt_out=false&dictation=false"
    "&diarize=true&language=en-US"
)
"""As its ``_connect_ws`` puts it together."""


def parsed(query: str = "", **more: Any) -> ListenOptions:
    pairs = parse_qsl(query, keep_blank_values=True) + parse_qsl(urlencode(more, doseq=True))
    return parse_query(MultiDict(pairs), pause_ms_min=PAUSE_MS)


def test_what_livekit_sends() -> None:
    options = parsed(LIVEKIT)
    assert options.terms == Terms(interim=True, speech_events=True, diarize=True, punctuate=True)
    assert options.start.language == "en"
    assert options.start.endpointing_ms is None
    assert options.start.partials
    assert options.ignored == ("filler_words", "no_delay")


def test_nothing_but_a_container() -> None:
    options = parsed()
    assert not options.is_raw
    assert options.terms == Terms()
    assert options.start.language == "en"
    assert not options.start.diarize
    assert not options.start.partials


@pytest.mark.parametrize(
    ("asked", "pause_ms", "endpoints"),
    [
        ("10", None, True),
        ("600", None, True),
        ("900", 900, True),
        ("99999", 10_000, True),
        ("false", None, False),
        ("0", None, False),
        ("true", None, True),
    ],
)
def test_a_pause_is_never_shorter_than_the_servers(
    asked: str, pause_ms: int | None, endpoints: bool
) -> None:
    options = parsed(endpointing=asked)
    assert options.start.endpointing_ms == pause_ms
    assert options.terms.endpoints == endpoints


def test_phrases_come_in_several_ways() -> None:
    options = parsed("keyterm=big+deal&keyterm=x%20y&keywords=Caption:2.5&keywords=a:b&keywords=c")
    assert options.start.keywords == ["big deal", "x y", "Caption", "a:b", "c"]


def test_channels_are_mixed_or_told_apart() -> None:
    raw: dict[str, Any] = {"encoding": "mulaw", "sample_rate": 8_000, "channels": 2}
    apart = parsed(**raw, multichannel="TRUE")
    assert apart.start.audio == AudioFormat(encoding="mulaw", sample_rate=8_000, channels=2)
    assert not apart.is_mixed
    assert parsed(**raw).start.audio == AudioFormat(sample_rate=8_000)
    assert parsed(**raw).is_mixed


def test_languages() -> None:
    assert parsed(language="multi").start.language is None
    assert parsed(language="multi").terms.tells_language
    assert parsed(language="pt_BR").start.language == "pt"
    assert parsed(detect_language="true").start.language is None
    assert parsed().in_any_language().start.language is None


def test_either_parameter_asks_for_speakers() -> None:
    assert parsed(diarize_model="v1").terms.diarize
    assert not parsed(diarize="false").terms.diarize


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *("encoding", "sample_rate", "channels", "language", "endpointing", "keyterm"),
                    *("keywords", "utterance_end_ms", "multichannel", "diarize_model", "made_up"),
                ]
            ),
            st.text(max_size=10) | st.sampled_from(["linear16", "16000", "2", "true", "-1", "1e9"]),
        )
    )
)
def test_anything_is_taken_or_refused_in_words(pairs: list[tuple[str, str]]) -> None:
    with contextlib.suppress(UnsupportedOption):
        options = parse_query(MultiDict(pairs), pause_ms_min=PAUSE_MS)
        assert 1 <= options.start.audio.channels <= 20
