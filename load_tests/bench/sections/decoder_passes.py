"""How many rows of decoder calls a word costs: partials, drafts and finals, everything counted."""

from load_tests.bench.section import Effort, Figures, section

SECONDS, SESSIONS = 300, 8
QUICK_SECONDS, QUICK_SESSIONS = 8, 2
WORDS_PER_SECOND_MIN = 2


@section(
    "decoder passes",
    bounds={
        "decoder_passes_per_token": 1.6,
        "words_per_speech_second": None,
        "partials_per_speech_second": None,
    },
)
def measure(effort: Effort) -> Figures:
    """Over the text tokens of finals; the trained checkpoint, whose partials come each second."""
    from load_tests.bench.live_speech import PACKET_MS
    from load_tests.bench.speech import sentences
    from load_tests.bench.whisper_runs import engine_of, live, threads_of, trained

    small = (QUICK_SECONDS, QUICK_SESSIONS)
    speech = sentences(*(small if effort.is_quick else (SECONDS, SESSIONS)), effort.seed)
    engine = engine_of(trained(threads_of(effort)))
    # Asked at every packet, so that no partial is left out for the final that follows it.
    played = live(speech, engine, "live, demo checkpoint", PACKET_MS)
    counters = engine.counters
    density = speech.words / played.final_seconds
    if density < WORDS_PER_SECOND_MIN and not effort.is_quick:
        raise RuntimeError(f"only {density:.2f} words a second are said in {speech.description}")
    return {
        "decoder_passes_per_token": round(
            counters.decoder_passes / max(1, counters.final_text_tokens), 3
        ),
        "words_per_speech_second": round(density, 2),
        "partials_per_speech_second": round(counters.partials / played.final_seconds, 3),
        "decoder_passes": {
            "passes": counters.decoder_passes,
            "text tokens of finals": counters.final_text_tokens,
            "partials": counters.partials,
            "finals": counters.finals,
            "partials left out": played.dropped_partials,
            "speech": speech.description,
        },
    }
