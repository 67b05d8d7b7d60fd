"""The bench's sections about Whisper: what they listen to, how it is played, and that they run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from load_tests.bench import __main__ as bench
from load_tests.bench import speech
from load_tests.bench.live_speech import play
from load_tests.bench.speech import Recording, SaidWord, Speech
from server.engines.demo_whisper import demo_checkpoint
from streaming.engines import Hypothesis, RecognizerProfile, SpeechWindow, Word
from streaming.timeline import SAMPLE_RATE_HZ, Span

WHISPER_SECTIONS = ("decoder passes", "exact finals", "fast partials", "streaming overhead")


class Counting:
    """Says how many seconds it has heard, one word each; three words are left of a final."""

    profile = RecognizerProfile((10 * SAMPLE_RATE_HZ,), 30 * SAMPLE_RATE_HZ)

    def recognize(self, windows: Sequence[SpeechWindow]) -> list[Hypothesis]:
        return [self._heard(window) for window in windows]

    def _heard(self, window: SpeechWindow) -> Hypothesis:
        seconds = range(max(1, len(window.samples) // SAMPLE_RATE_HZ))
        words = [Word(f"w{n}", Span(n * SAMPLE_RATE_HZ, (n + 1) * SAMPLE_RATE_HZ)) for n in seconds]
        return Hypothesis(tuple(words[:3] if window.is_final else words), tokens=(len(words),))


@pytest.fixture(scope="module")
def clips() -> Speech:
    return speech._clips(60, 2)


def test_the_clip_stands_in_where_nothing_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ("_conversations", "_separate"):
        monkeypatch.setattr(speech, source, lambda *_: None)
    for build in (speech.mix, speech.utterances, speech.sentences, speech.digits):
        found = build.__wrapped__(60, 2, seed=1)
        assert "clip" in found.description
        assert len(found.recordings) == 2
        assert found.words > 60


def test_words_lie_inside_their_recording(clips: Speech) -> None:
    for recording in clips.recordings:
        ends = [word.span.end for word in recording.words]
        assert ends == sorted(ends)
        assert ends[-1] <= len(recording.samples)


def test_sessions_ask_live_questions_and_end(clips: Speech) -> None:
    played = play(clips, Counting())
    finals = played.finals
    assert len(finals) == len(played.captions) > 4
    assert sum(map(len, played.calls)) == len(played.windows) > 3 * len(finals)
    assert max(map(len, played.calls)) > 1, "sessions that speak at once share calls"
    assert all(len(window.draft) == 1 for window in finals)
    assert any(caption.partial for caption in played.captions)
    assert played.stable_words > 0
    assert 0 < played.broken_stable_words < played.stable_words
    # Every call has windows of one kind and encoder context.
    assert all(len({window.is_final for window in call}) == 1 for call in played.calls)


def test_asked_at_every_packet_no_partial_gives_way(clips: Speech) -> None:
    often, seldom = play(clips, Counting(), calls_apart_ms=100), play(clips, Counting())
    assert often.dropped_partials == 0
    assert len(often.windows) == len(seldom.windows) + seldom.dropped_partials
    assert [len(window.samples) for window in often.finals] == [
        len(window.samples) for window in seldom.finals
    ]


def test_partials_are_compared_with_what_had_been_said() -> None:
    from load_tests.bench.live_speech import Caption, Played
    from load_tests.bench.sections.fast_partials import _errors
    from streaming.events import Final, Partial

    words = tuple(
        SaidWord(text, Span(n * SAMPLE_RATE_HZ, (n + 1) * SAMPLE_RATE_HZ))
        for n, text in enumerate(("one", "two", "three"))
    )
    recording = Recording("r", np.zeros(3 * SAMPLE_RATE_HZ, np.int16), words)
    until = Span(0, 2 * SAMPLE_RATE_HZ)
    partial = Partial(0, "c1", 0, until, "One, too", 0, None, ())
    final = Final(1, "c1", 0, until, "", None, None, None, ())
    played = Played(captions=[Caption(0, partial, final), Caption(0, None, final)])
    found = _errors(Speech("", (recording,)), played)
    assert (found.hits, found.substitutions, found.deletions) == (1, 1, 0)


@pytest.mark.slow
@pytest.mark.skipif(demo_checkpoint() is None, reason="needs the demo checkpoint")
def test_the_sections_about_whisper_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = [word for name in WHISPER_SECTIONS for word in ("--only", name)]
    path = tmp_path / "latest.json"
    assert bench.main(["--quick", "--set", "threads=1", "--output", str(path), *only]) == 0
    table = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "| " in line]
    found = {row[0].removeprefix("| "): row[1] for row in table}
    assert found["final_mismatches"] == found["batch_mismatches"] == "0"
    assert float(found["decoder_passes_per_token"]) > 1
    assert float(found["streaming_overhead"]) > 0
    assert float(found["fast_partial_wer"]) < 0.5
    assert not path.exists(), "a quick run is not to be believed"
