"""What partials lose by hearing a short context, and how often a stable word was none."""

from typing import TYPE_CHECKING

from load_tests.bench.section import Effort, Figures, section

if TYPE_CHECKING:
    from load_tests.bench.live_speech import Played
    from load_tests.bench.speech import Speech
    from server.scoring import WordErrors
    from streaming.timeline import Span

SECONDS, SESSIONS = 240, 8
QUICK_SECONDS, QUICK_SESSIONS = 4, 2


@section(
    "fast partials",
    bounds={
        "fast_partial_wer_loss": 0.03,
        "fast_partial_wer": None,
        "exact_partial_wer": None,
        "stable_words_changed": 0.01,
    },
)
def measure(effort: Effort) -> Figures:
    """The last partial before each final, at either context; the trained checkpoint."""
    from dataclasses import replace

    from load_tests.bench.speech import digits, sentences
    from load_tests.bench.whisper_runs import FLOAT32, engine_of, live, threads_of, trained

    size = (QUICK_SECONDS, QUICK_SESSIONS) if effort.is_quick else (SECONDS, SESSIONS)
    checkpoint = trained(threads_of(effort))
    said, talk = digits(*size, effort.seed), sentences(*size, effort.seed)
    fast = live(said, engine_of(checkpoint), "digits, fast")
    exact = live(said, engine_of(checkpoint, replace(FLOAT32, encoder_context="exact")), "exact")
    spoken = live(talk, engine_of(checkpoint), "sentences, fast")
    fast_errors, exact_errors = _errors(said, fast), _errors(said, exact)
    stable = fast.stable_words + spoken.stable_words
    broken = fast.broken_stable_words + spoken.broken_stable_words
    fast_wer, exact_wer = fast_errors.rate or 0.0, exact_errors.rate or 0.0
    return {
        "fast_partial_wer_loss": round(fast_wer - exact_wer, 4),
        "fast_partial_wer": fast_wer,
        "exact_partial_wer": exact_wer,
        "stable_words_changed": round(broken / max(1, stable), 4),
        "fast_partials_of": {
            "words": fast_errors.reference,
            "stable words": stable,
            "changed": broken,
            "changed in digits": fast.broken_stable_words,
            "speech": said.description,
            "speech of stable words too": talk.description,
        },
    }


def _errors(speech: "Speech", played: "Played") -> "WordErrors":
    """Of last partials against what had been said when they were asked for."""
    from server.scoring import WordErrors, normalized, word_errors

    total = WordErrors(0, 0, 0, 0)
    for caption in played.captions:
        partial = caption.partial
        if partial is None:
            continue
        words = speech.recordings[caption.recording].words
        heard = [word.text for word in words if _is_in(word.span.middle, partial.span)]
        total += word_errors(normalized(" ".join(heard)), normalized(partial.text))
    return total


def _is_in(sample: int, span: "Span") -> bool:
    return span.start <= sample < span.end
