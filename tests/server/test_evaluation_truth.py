"""Manifests and truth files as people write them, the broken ones too."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.evaluation.manifest import BadLine, EvaluationError, Recording, read_manifest
from server.evaluation.truth import (
    Segment,
    Truth,
    parse_ctm,
    parse_rttm,
    parse_stm,
    read_truth,
    text_of_segments,
    timed_words,
    with_word_times,
)
from streaming.turns import Turn
from tests.evaluations import span

STM = """;; a comment
a 1 Bob 2.0 4.0 <o,f0,male> fine thanks
a 1 Ann 0.5 1.5 how are you
"""
CTM = (
    "a 1 0.5 0.3 how 1.0\na 1 0.8 0.2 are 1.0\na 1 1.0 0.5 you\na 1 2.1 0.4 fine\na 1 3 1 thanks\n"
)
RTTM = (
    "SPEAKER a 1 2.000 2.000 <NA> <NA> Bob <NA> <NA>\n"
    "SPKR-INFO a 1 <NA> <NA> <NA> unknown Ann <NA>\n"
    "SPEAKER a 1 0.500 1.000 <NA> <NA> Ann <NA> <NA>\n"
)


def recording(folder: Path, **files: str) -> Recording:
    for key, content in files.items():
        (folder / f"a.{key}").write_text(content, encoding="utf-8")
    return Recording("a", folder / "a.wav", **{key: folder / f"a.{key}" for key in files})  # type: ignore[arg-type]


def test_a_manifest_names_files_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"audio": "b/x.wav", "stm": "x.stm", "rttm": null, "language": "de"}\n\n')
    (entry,) = read_manifest(path)
    wanted = Recording("b/x.wav", tmp_path / "b/x.wav", stm=tmp_path / "x.stm", language="de")
    assert entry == wanted


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("[]", '"audio"'),
        ('{"text": "a.txt"}', '"audio"'),
        ('{"audio": "a.wav", "txt": "a.txt"}', "unknown txt"),
        ('{"audio": "a.wav", "stm": 7}', "stm must be text"),
    ],
)
def test_a_bad_line_says_what_is_wrong_and_leaves_the_others(
    tmp_path: Path, line: str, said: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(f'{{"audio": "a.wav"}}\n{line}\n')
    good, bad = read_manifest(path)
    assert isinstance(good, Recording)
    assert isinstance(bad, BadLine)
    assert bad.name == "line 2"
    assert said in bad.problem


def test_a_manifest_that_is_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot read"):
        read_manifest(tmp_path / "none.jsonl")
    (tmp_path / "m.jsonl").write_text("\n")
    with pytest.raises(EvaluationError, match="holds no recording"):
        read_manifest(tmp_path / "m.jsonl")


def test_all_formats_together(tmp_path: Path) -> None:
    truth = read_truth(recording(tmp_path, stm=STM, ctm=CTM, rttm=RTTM))
    assert truth.text == "how are you fine thanks"
    assert truth.turns == (Turn(span(0.5, 1.5), "Ann"), Turn(span(2, 4), "Bob"))
    assert truth.segments is not None
    first, second = truth.segments
    assert (first.speaker, first.words) == ("Ann", ("how", "are", "you"))
    assert first.word_spans == (span(0.5, 0.8), span(0.8, 1.0), span(1.0, 1.5))
    assert timed_words(second) == [("fine", span(2.1, 2.5)), ("thanks", span(3, 4))]


def test_what_no_file_tells_is_unknown(tmp_path: Path) -> None:
    assert read_truth(recording(tmp_path)) == Truth(None, None, None)
    assert read_truth(recording(tmp_path, rttm="")) == Truth(None, None, ())
    assert read_truth(recording(tmp_path, text="How are\nyou?\n")).text == "How are you?"
    only_ctm = read_truth(recording(tmp_path, ctm=CTM))
    assert (only_ctm.text, only_ctm.segments) == ("how are you fine thanks", None)


@pytest.mark.parametrize(
    ("key", "content"),
    [("stm", "a 1 Ann zero 1 hi\n"), ("ctm", "a 1 0.5\n"), ("rttm", "SPEAKER a 1 5 -1 x y z\n")],
)
def test_a_broken_file_is_named(tmp_path: Path, key: str, content: str) -> None:
    with pytest.raises(EvaluationError, match=rf"a\.{key} is not a {key.upper()} file"):
        read_truth(recording(tmp_path, **{key: content}))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"cannot read .*b\.stm"):
        read_truth(Recording("a", tmp_path / "a.wav", stm=tmp_path / "b.stm"))


def test_words_at_once_stay_with_their_speakers() -> None:
    segments = parse_stm("a 1 Ann 0 2 yes we can\na 1 Bob 0.4 1.4 we can\n")
    ctm = parse_ctm("a 1 0 .3 yes\na 1 .4 .4 we\na 1 .5 .5 we\na 1 .9 .4 can\na 1 1.2 .8 can\n")
    ann, bob = with_word_times(segments, ctm)
    assert ann.word_spans is not None
    assert bob.word_spans is not None
    used = [*ann.word_spans, *bob.word_spans]
    assert sorted(used) == [word.span for word in ctm], "each word is used once"


def test_a_channel_that_is_a_speaker_says_whose_word_it_is() -> None:
    segments = parse_stm("a 1 Ann 0 2 two five\na 1 Bob 0.2 1.9 two three\n")
    lines = ("Ann .5 .1 two", "Ann .7 .1 five", "Bob .9 .1 two", "Bob 1.1 .1 three")
    ctm = parse_ctm("".join(f"a {line}\n" for line in lines))
    ann, bob = with_word_times(segments, ctm)
    assert ann.word_spans == (span(0.5, 0.6), span(0.7, 0.8))
    assert bob.word_spans == (span(0.9, 1.0), span(1.1, 1.2))


def test_a_word_that_the_ctm_lacks_leaves_its_segment_without_word_times() -> None:
    (segment,) = with_word_times(parse_stm("a 1 Ann 0 2 ab cdef\n"), parse_ctm("a 1 0 1 ab\n"))
    assert segment.word_spans is None
    ab, cdef = timed_words(segment)
    assert ab[1].start == segment.span.start
    assert ab[1].end == cdef[1].start
    assert cdef[1].end == segment.span.end
    assert cdef[1].samples > ab[1].samples


@given(
    st.lists(st.text("ab", min_size=1), min_size=1), st.integers(0, 10**6), st.integers(0, 10**6)
)
def test_estimated_words_fill_their_segment_in_order(
    words: list[str], start: int, samples: int
) -> None:
    place = span(start / 16_000, (start + samples) / 16_000)
    timed = timed_words(Segment(place, "Ann", tuple(words)))
    assert [word for word, _ in timed] == words
    assert (timed[0][1].start, timed[-1][1].end) == (place.start, place.end)
    assert all(a[1].end == b[1].start for a, b in itertools.pairwise(timed))


def test_text_of_overlapping_segments_is_by_time() -> None:
    segments = parse_stm("a 1 Ann 0 3 one two three\na 1 Bob 0.5 1.0 x\n")
    assert text_of_segments(segments) in {"one x two three"}


def test_turns_are_sorted() -> None:
    assert [turn.speaker for turn in parse_rttm(RTTM)] == ["Ann", "Bob"]
