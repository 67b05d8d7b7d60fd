import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.protocols.openai_form import (
    RESPONSE_FORMATS,
    BadField,
    Form,
    KnownSpeaker,
    Wishes,
    wishes_of,
    without_guidance,
)

REFERENCE = "data:audio/wav;base64,UklGRg=="


def form(*fields: tuple[str, str]) -> Form:
    found = Form(file=[b"audio"])
    for name, value in fields:
        found.add(name, value)
    return found


def wished(*fields: tuple[str, str], translates: bool = False) -> Wishes:
    return wishes_of(form(*fields), translates=translates)


def test_a_file_is_enough() -> None:
    wishes = wished()
    assert (wishes.response_format, wishes.streams) == ("json", False)
    assert wishes.granularities == ("segment",)
    assert not wishes.start.diarize
    assert not wishes.start.partials
    assert wishes.ignored == ()


@pytest.mark.parametrize(
    "fields",
    [
        [("timestamp_granularities[]", "word"), ("timestamp_granularities[]", "segment")],
        [("timestamp_granularities", "word"), ("timestamp_granularities", "segment")],
        [("timestamp_granularities[0]", "word"), ("timestamp_granularities[1]", "segment")],
        [("timestamp_granularities", '["word", "segment"]')],
        [("timestamp_granularities[]", '["word", "segment"]')],
        [("timestamp_granularities", "word,segment")],
    ],
)
def test_a_list_may_be_written_in_any_way(fields: list[tuple[str, str]]) -> None:
    assert wished(*fields).granularities == ("word", "segment")


@pytest.mark.parametrize(
    "fields",
    [
        [
            ("chunking_strategy[type]", "server_vad"),
            ("chunking_strategy[silence_duration_ms]", "700"),
        ],
        [("chunking_strategy", '{"type": "server_vad", "silence_duration_ms": 700}')],
    ],
)
def test_an_object_may_be_written_in_two_ways(fields: list[tuple[str, str]]) -> None:
    assert wished(*fields).start.endpointing_ms == 700


def test_the_engines_defaults_are_automatic() -> None:
    assert wished(("chunking_strategy", "auto")).start.endpointing_ms is None


@pytest.mark.parametrize("name", RESPONSE_FORMATS)
def test_speakers_are_looked_for_where_they_are_told(name: str) -> None:
    wishes = wished(("response_format", name))
    assert wishes.response_format == name
    assert wishes.start.diarize is (name == "diarized_json")


@pytest.mark.parametrize(
    ("given", "code"),
    [("en", "en"), ("EN", "en"), ("en-US", "en"), ("pt_BR", "pt"), ("", None), ("yue", "yue")],
)
def test_a_language_is_its_first_part(given: str, code: str | None) -> None:
    assert wished(("language", given)).start.language == code


def test_of_several_languages_the_recognizer_finds_out() -> None:
    wishes = wished(("languages[]", "en"), ("languages[]", "de"))
    assert wishes.start.language is None
    assert wishes.ignored == ("languages",)
    assert wished(("languages[]", "de")).start.language == "de"


def test_of_a_long_prompt_the_end_counts() -> None:
    prompt = wished(("prompt", "x" * 5_000 + " the end")).start.prompt
    assert prompt is not None
    assert prompt.endswith(" the end")
    assert len(prompt) == 2_000


def test_keywords_and_translation_reach_the_session() -> None:
    wishes = wished(("keywords[]", "Ada"), ("keywords[]", "Grace"), translates=True)
    assert wishes.start.keywords == ["Ada", "Grace"]
    assert wishes.start.task == "translate"


def test_what_changes_nothing_is_named() -> None:
    wishes = wished(
        ("temperature", "0.4"),
        ("include[]", "logprobs"),
        ("chunking_strategy[type]", "server_vad"),
        ("chunking_strategy[threshold]", "0.6"),
        ("some_new_field", "x"),
    )
    assert set(wishes.ignored) == {"temperature", "include", "chunking_strategy.threshold"}


def test_a_recognizer_without_guidance_gets_none() -> None:
    wishes = without_guidance(wished(("prompt", "Ada"), ("keywords[]", "Grace")))
    assert (wishes.start.prompt, wishes.start.keywords) == (None, [])
    assert wishes.ignored == ("prompt", "keywords")


PAIRS = (
    ("known_speaker_names[]", "Ann"),
    ("known_speaker_names[]", "Bob"),
    ("known_speaker_references[]", REFERENCE),
    ("known_speaker_references[]", REFERENCE),
)


def test_speakers_are_made_known_in_pairs() -> None:
    wishes = wished(("response_format", "diarized_json"), *PAIRS)
    assert wishes.known_speakers == (KnownSpeaker("Ann", REFERENCE), KnownSpeaker("Bob", REFERENCE))


def test_where_no_speaker_is_told_nobody_is_made_known() -> None:
    wishes = wished(*PAIRS)
    assert wishes.known_speakers == ()
    assert wishes.ignored == ("known_speaker_names",)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ([("response_format", "xml")], "response_format"),
        ([("timestamp_granularities[]", "letter")], "timestamp_granularities"),
        ([("timestamp_granularities", "[1]")], "timestamp_granularities"),
        ([("timestamp_granularities", "[word")], "timestamp_granularities"),
        ([("language", "english")], "language"),
        ([("language", "1")], "language"),
        ([("temperature", "hot")], "temperature"),
        ([("temperature", "2")], "temperature"),
        ([("stream", "perhaps")], "stream"),
        ([("stream", "true"), ("response_format", "srt")], "stream"),
        ([("chunking_strategy", "manual")], "chunking_strategy"),
        ([("chunking_strategy", "{")], "chunking_strategy"),
        ([("chunking_strategy", '{"type": "other"}')], "chunking_strategy"),
        ([("chunking_strategy", '{"type": "server_vad", "silence_duration_ms": []}')],
         "chunking_strategy"),
        ([("chunking_strategy[type]", "server_vad"),
          ("chunking_strategy[silence_duration_ms]", "9000000")], "chunking_strategy"),
        ([("keywords[]", "k" * 81)], "keywords"),
        ([("known_speaker_names[]", "Ann")], "known_speaker_names"),
        ([("known_speaker_names[]", "n" * 81), ("known_speaker_references[]", REFERENCE)],
         "known_speaker_names"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(fields: list[tuple[str, str]], param: str) -> None:
    with pytest.raises(BadField) as refusal:
        wished(*fields)
    assert refusal.value.param == param
    assert refusal.value.message.startswith(param)


@pytest.mark.parametrize("file", [None, [], [b""]])
def test_there_must_be_a_file(file: list[bytes] | None) -> None:
    with pytest.raises(BadField) as refusal:
        wishes_of(Form(file=file), translates=False)
    assert refusal.value.param == "file"


def test_translations_tell_no_speakers() -> None:
    with pytest.raises(BadField):
        wished(("response_format", "diarized_json"), translates=True)


NAMES = (
    *("response_format", "language", "languages", "prompt", "keywords", "temperature", "stream"),
    *("timestamp_granularities", "include", "chunking_strategy", "known_speaker_names"),
    *("known_speaker_references", "model"),
)


@given(
    st.lists(
        st.tuples(
            st.builds(
                "{}{}".format,
                st.sampled_from(NAMES),
                st.sampled_from(("", "[]", "[0]", "[type]", "[", "]", "[a")),
            ),
            st.one_of(st.text(max_size=20), st.sampled_from(('["a"]', "{}", '{"a": 1}', "1e999"))),
        ),
        max_size=6,
    )
)
def test_whatever_is_written_is_read_or_refused(fields: list[tuple[str, str]]) -> None:
    with contextlib.suppress(BadField):
        assert wished(*fields).start.task == "transcribe"
