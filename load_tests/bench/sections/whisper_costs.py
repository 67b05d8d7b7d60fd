"""What one call of Whisper's encoder and decoder costs, by context, rows and number format.

And the ceiling that follows: how many streams these processors could hold if they did nothing but
finals, or finals and a partial a second heard with 10 s. No server with exact finals can hold more
than the first with these weights.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from load_tests.bench.section import Effort, Figures, SectionSkipped, section

if TYPE_CHECKING:
    from server.engines.whisper import WhisperRecognizer
    from streaming.engines import Samples, SpeechWindow

ROWS = (1, 2, 4, 8)
CONTEXTS_S = (4, 6, 10, 20, 30)
DTYPES = ("float32", "bfloat16")
ROUNDS, QUICK_ROUNDS = 3, 1
STAGES = ("features", "encoder", "verify", "step", "words")
HURRIED_TOKENS = 2
"""Where the encoder is measured, keys and values for the decoder included."""
STEPPED_SECONDS = 4
"""Windows whose tokens are stepped: as long as an utterance."""
MIXED = "bfloat16 behind 4 s, 30 s, 1 rows"
"""A final of that length, with its silence in bfloat16."""
Costs = dict[str, float]


@section(
    "whisper costs",
    bounds={
        "encoder_ms_at_30_s": None,
        "mixed_encoder_ms": None,
        "encoder_ms_at_10_s": None,
        "verify_ms": None,
        "step_ms": None,
        "exact_finals_ceiling_streams": None,
        "exact_ceiling_streams": None,
        "calibrated_ceiling_streams": None,
    },
)
def measure(effort: Effort) -> Figures:
    """Milliseconds of the processor, the least of some rounds; one row where it is one number."""
    from load_tests.bench.whisper_runs import engine_of, random_tiny, threads_of, tiny_of
    from server.engines.whisper_options import WhisperOptions

    checkpoint = tiny_of(effort) or random_tiny(threads_of(effort))
    rows, contexts_s = ((1, 2), (4, 30)) if effort.is_quick else (ROWS, CONTEXTS_S)
    audio = _audio(effort)
    encoder, verify, step = Costs(), Costs(), Costs()
    for dtype in DTYPES:
        options = WhisperOptions(dtype=dtype, device="cpu", context_margin_s=0.0, guards=False)
        engine = engine_of(checkpoint, options)
        hurried = engine_of(checkpoint, replace(options, tokens_max=HURRIED_TOKENS))
        for count in rows:
            for seconds in contexts_s:
                windows = _windows(audio, seconds, count)
                cost = min(_spent(hurried, windows)[0] for _ in range(_rounds(effort)))
                encoder[f"{dtype}, {seconds} s, {count} rows"] = round(cost * 1000, 2)
            name = f"{dtype}, {count} rows"
            step[name], verify[name] = _decoder_ms(engine, audio, count, _rounds(effort))
    hurried = engine_of(
        checkpoint, WhisperOptions(dtype="bfloat16", guards=False, tokens_max=HURRIED_TOKENS)
    )
    final = [replace(one, is_final=True) for one in _windows(audio, STEPPED_SECONDS, 1)]
    cost = min(_spent(hurried, final)[0] for _ in range(_rounds(effort)))
    encoder[MIXED] = round(cost * 1000, 2)
    return {
        "encoder_ms": encoder,
        "verify_pass_ms": verify,
        "step_pass_ms": step,
        "encoder_ms_at_30_s": encoder[f"float32, {contexts_s[-1]} s, 1 rows"],
        "mixed_encoder_ms": encoder[MIXED],
        "encoder_ms_at_10_s": encoder[f"bfloat16, {10 if 10 in contexts_s else 4} s, 1 rows"],
        "verify_ms": verify["float32, 1 rows"],
        "step_ms": step["float32, 1 rows"],
        **_ceilings(encoder, verify, effort),
        "whisper_costs_of": {"checkpoint": checkpoint.name, "threads": threads_of(effort)},
    }


def _rounds(effort: Effort) -> int:
    return QUICK_ROUNDS if effort.is_quick else ROUNDS


def _audio(effort: Effort) -> "Samples":
    from load_tests.bench.speech import sentences

    return sentences(40, 1, effort.seed).recordings[0].samples


def _windows(audio: "Samples", seconds: int, count: int) -> "list[SpeechWindow]":
    """Open ones: their context is as long as they are."""
    from streaming.engines import SpeechWindow
    from streaming.timeline import SAMPLE_RATE_HZ

    return [SpeechWindow(audio[: seconds * SAMPLE_RATE_HZ], "en", is_final=False)] * count


def _decoder_ms(
    engine: "WhisperRecognizer", audio: "Samples", count: int, rounds: int
) -> tuple[float, float]:
    """Of one step, and of one pass over a prefix and a whole draft."""
    from dataclasses import replace

    windows = _windows(audio, STEPPED_SECONDS, count)
    draft = engine.recognize(windows[:1])[0].tokens
    steps, verifies = [], []
    for _ in range(rounds):
        _, _, step_s, passes = _spent(engine, [replace(one, draft=draft[:1]) for one in windows])
        if passes > count:
            steps.append(step_s / (passes / count - 1))
        verifies.append(_spent(engine, [replace(one, draft=draft) for one in windows])[1])
    if not steps:
        raise SectionSkipped("nothing was decoded step by step: the checkpoint hears no words")
    return round(min(steps) * 1000, 3), round(min(verifies) * 1000, 2)


def _spent(
    engine: "WhisperRecognizer", windows: "Sequence[SpeechWindow]"
) -> tuple[float, float, float, int]:
    """Seconds of the encoder, of the first decoder call, of those after it; rows of all calls.

    Of the processor: the engine times its stages by the clock, which other programs stretch, so
    the whole call's processor time is shared out as the clock's is.
    """
    before, cpu_s = asdict(engine.counters), time.process_time()
    engine.recognize(windows)
    cpu_s = time.process_time() - cpu_s
    after = asdict(engine.counters)
    clock_s = {name: after[f"{name}_s"] - before[f"{name}_s"] for name in STAGES}
    share = cpu_s / sum(clock_s.values())
    return (
        clock_s["encoder"] * share,
        clock_s["verify"] * share,
        clock_s["step"] * share,
        after["decoder_passes"] - before["decoder_passes"],
    )


def _ceilings(encoder: Costs, verify: Costs, effort: Effort) -> Figures:
    """From the cheapest row of any batch, and how often the speech of ``streams held`` asks."""
    from load_tests.bench.rotated_speech import NoVoices, speech_seconds, utterances_of
    from server.cpu_budget import cpu_budget

    seconds = 60.0
    try:
        finals_a_second = len(utterances_of(seconds, effort.seed)) / seconds
        speech_share = speech_seconds(seconds, effort.seed) / seconds
    except NoVoices as missing:
        raise SectionSkipped(str(missing)) from None
    whole_s = _least(encoder, verify, "float32", CONTEXTS_S[-1])
    exact_s = min(whole_s, (encoder[MIXED] + verify["float32, 1 rows"]) / 1000)
    short_s = _least(encoder, verify, "bfloat16", 10)
    finals, partials = finals_a_second * exact_s, speech_share * short_s
    cores = cpu_budget()
    return {
        "exact_finals_ceiling_streams": round(cores / finals, 1),
        "exact_ceiling_streams": round(cores / (finals + partials), 1),
        "calibrated_ceiling_streams": round(cores / (finals_a_second * short_s + partials), 1),
    }


def _least(encoder: Costs, verify: Costs, dtype: str, seconds: int) -> float:
    """Seconds for one window: its share of the batch in which it is cheapest."""

    def rows() -> Iterator[float]:
        for name, cost_ms in encoder.items():
            kind, context, count = name.split(", ")
            if kind == dtype and int(context.split()[0]) >= seconds:
                yield (cost_ms + verify[f"{kind}, {count}"]) / int(count.split()[0]) / 1000

    return min(rows())
