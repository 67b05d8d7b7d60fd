"""Are finals what ``generate`` gives, and does anything else change them?

Windows, prompts and drafts are those of live sessions: the product's endpointing, one partial per
second of speech. Where a final differs, the comparison that decided must lie within 1e-4.
"""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from load_tests.bench.section import Effort, Figures, section

if TYPE_CHECKING:
    from server.engines.whisper import WhisperRecognizer
    from server.engines.whisper_checkpoint import Checkpoint
    from server.engines.whisper_options import WhisperOptions
    from server.evaluation.exactness import Exactness
    from streaming.engines import SpeechWindow

MIX_SECONDS, SESSIONS = 600, 8
QUICK_SECONDS, QUICK_SESSIONS = 6, 1
TINY_WINDOWS, QUICK_TINY_WINDOWS = 200, 2
TINY_TOKENS_MAX = 32
HOP_SAMPLES = 16_000


@section(
    "exact finals",
    bounds={
        "final_mismatches": 0,
        "final_near_ties": None,
        "guarded_final_share": 0.02,
        "batch_mismatches": 0,
        "batch_near_ties": None,
        "bfloat16_token_disagreement": 0.005,
        "bfloat16_final_dtype_token_disagreement": None,
        "float32_finals_cost": None,
        "mixed_final_mismatches": 0,
        "mixed_finals_share": None,
        "mixed_finals_cost": None,
    },
)
def measure(effort: Effort) -> Figures:
    """The trained checkpoint on the mix, and whisper-tiny's shape on windows of it."""
    from load_tests.bench.speech import mix
    from load_tests.bench.whisper_runs import engine_of, live, threads_of, trained

    quick = effort.is_quick
    speech = mix(
        *((QUICK_SECONDS, QUICK_SESSIONS) if quick else (MIX_SECONDS, SESSIONS)), effort.seed
    )
    checkpoint = trained(threads_of(effort))
    engine = engine_of(checkpoint)
    played = live(speech, engine, "live, demo checkpoint")
    report = _compared(engine, checkpoint, played.finals)
    differing, ties = _batch_differences(engine, checkpoint, played.finals)
    tiny_name, tiny_report, tiny_mixed = _tiny(effort, played.windows)
    both = (report, tiny_report)
    bfloat16, mixed = _bfloat16(checkpoint, played.finals)
    return {
        "final_mismatches": sum(len(one.failures) for one in both),
        "final_near_ties": sum(len(one.mismatches) - len(one.failures) for one in both),
        "guarded_final_share": round(report.guarded / report.windows, 4),
        "batch_mismatches": differing,
        "batch_near_ties": ties,
        **bfloat16,
        **_mixed_figures(mixed, tiny_mixed),
        "finals_mix": {**_counts(report), "speech": speech.description},
        "finals_tiny": {**_counts(tiny_report), "checkpoint": tiny_name},
    }


@dataclass(frozen=True, slots=True)
class Mixed:
    """Finals by the mixed encoder, as by default where bfloat16 pays, beside float32 throughout."""

    windows: int
    differing: int
    enough: int
    """Those that were not asked again."""
    cost: float
    """Processor seconds, over those of float32."""


def _mixed_figures(demo: Mixed, tiny: Mixed) -> Figures:
    windows = demo.windows + tiny.windows
    return {
        "mixed_final_mismatches": demo.differing + tiny.differing,
        "mixed_finals_share": round((demo.enough + tiny.enough) / windows, 4),
        "mixed_finals_cost": {"demo": demo.cost, "whisper-tiny's shape": tiny.cost},
    }


def _counts(report: "Exactness") -> Figures:
    return {
        "windows": report.windows,
        "equal": report.equal,
        "guarded": report.guarded,
        "near ties": len(report.mismatches) - len(report.failures),
        "tokens": report.tokens,
    }


def _compared(
    engine: "WhisperRecognizer", checkpoint: "Checkpoint", finals: "list[SpeechWindow]"
) -> "Exactness":
    from server.engines.whisper_reference import WhisperReference
    from server.evaluation.exactness import compare_finals

    reference = WhisperReference(checkpoint, timestamps=engine.timestamps)
    report = compare_finals(engine, reference, finals)
    for failure in report.failures:
        print(f"a final differs: {failure}", flush=True)
    return report


def _batch_differences(
    engine: "WhisperRecognizer", checkpoint: "Checkpoint", finals: "list[SpeechWindow]"
) -> tuple[int, int]:
    """Finals that neighbours in a batch change, and those of them that were too close to call."""
    from server.engines.whisper_reference import WhisperReference
    from server.evaluation.exactness import MARGIN_MAX, WINDOWS_PER_CALL, first_difference

    reference = WhisperReference(checkpoint, timestamps=engine.timestamps)
    differing = ties = 0
    for start in range(0, len(finals), WINDOWS_PER_CALL):
        batch = finals[start : start + WINDOWS_PER_CALL]
        # Partials beside them, in another order: the neighbours that they have in a server.
        beside = [replace(window, is_final=False) for window in batch]
        together = engine.recognize([*beside, *reversed(batch)])[: len(batch) - 1 : -1]
        for window, heard in zip(batch, together, strict=True):
            (alone,) = engine.recognize([window])
            at = first_difference(heard.tokens, alone.tokens)
            if at is None:
                continue
            task = engine.task(window, alone.language)
            pair = [None if at >= len(one.tokens) else one.tokens[at] for one in (heard, alone)]
            before = alone.tokens[:at]
            is_tie = reference.margin(window, task, before, *pair) <= MARGIN_MAX
            differing, ties = differing + (not is_tie), ties + is_tie
    return differing, ties


def _tiny(effort: Effort, windows: "list[SpeechWindow]") -> "tuple[str, Exactness, Mixed]":
    """Every window counts, so no guard is asked; drafts are what was heard a hop before."""
    from load_tests.bench.whisper_runs import as_final, engine_of, random_tiny, threads_of, tiny_of
    from server.engines.whisper_options import WhisperOptions

    checkpoint = tiny_of(effort) or random_tiny(threads_of(effort))
    options = WhisperOptions(
        dtype="float32", device="cpu", guards=False, tokens_max=TINY_TOKENS_MAX
    )
    engine = engine_of(checkpoint, options)
    count = QUICK_TINY_WINDOWS if effort.is_quick else TINY_WINDOWS
    long = [window for window in windows if len(window.samples) > 2 * HOP_SAMPLES]
    chosen = (long * -(-count // len(long)))[:: max(1, len(long) // count)][:count]
    drafted = []
    for window in chosen:
        before = replace(window, samples=window.samples[:-HOP_SAMPLES], is_final=False, draft=())
        draft = engine.recognize([before])[0].tokens
        drafted.append(replace(as_final(window), draft=draft))
    exact, exact_s, _ = _heard_alone(checkpoint, options, drafted)
    mixed = _mixed(checkpoint, options, drafted, exact, exact_s)
    return checkpoint.name, _compared(engine, checkpoint, drafted), mixed


def _bfloat16(checkpoint: "Checkpoint", finals: "list[SpeechWindow]") -> tuple[Figures, Mixed]:
    """What ``dtype=bfloat16`` does to finals, what ``final_dtype=bfloat16`` would do, and what it
    costs that it is not the default: processor seconds of finals, one by one."""
    from load_tests.bench.whisper_runs import FLOAT32

    exact, exact_s, _ = _heard_alone(checkpoint, FLOAT32, finals)
    all_bfloat16 = replace(FLOAT32, dtype="bfloat16", final_dtype="bfloat16")
    low, low_s, _ = _heard_alone(checkpoint, all_bfloat16, finals)
    default, default_s, _ = _heard_alone(checkpoint, replace(FLOAT32, dtype="bfloat16"), finals)
    figures = {
        "bfloat16_token_disagreement": _disagreement(exact, default),
        "bfloat16_final_dtype_token_disagreement": _disagreement(exact, low),
        "float32_finals_cost": round(default_s / low_s, 3),
    }
    return figures, _mixed(checkpoint, FLOAT32, finals, exact, exact_s)


def _mixed(
    checkpoint: "Checkpoint",
    options: "WhisperOptions",
    finals: "list[SpeechWindow]",
    exact: list[str],
    exact_s: float,
) -> Mixed:
    """In a known language, as in every session after its first words."""
    known = [replace(window, language=window.language or "en") for window in finals]
    if known != finals:
        exact, exact_s, _ = _heard_alone(checkpoint, options, known)
    found, found_s, enough = _heard_alone(checkpoint, replace(options, dtype="bfloat16"), known)
    differing = sum(one != other for one, other in zip(exact, found, strict=True))
    return Mixed(len(known), differing, enough, round(found_s / exact_s, 3))


def _heard_alone(
    checkpoint: "Checkpoint", options: "WhisperOptions", finals: "list[SpeechWindow]"
) -> tuple[list[str], float, int]:
    """Tokens of each final, as a text; processor seconds; and how many the mixed encoder gave."""
    from load_tests.bench.whisper_runs import engine_of

    engine = engine_of(checkpoint, replace(options, guards=False))
    began_s = time.process_time()
    answers = [engine.recognize([window])[0] for window in finals]
    used_s = time.process_time() - began_s
    tokens = [" ".join(map(str, answer.tokens)) for answer in answers]
    return tokens, used_s, engine.counters.mixed_finals


def _disagreement(exact: list[str], other: list[str]) -> float:
    """Token edits, per token."""
    from server.scoring import word_errors

    found = [word_errors(*pair) for pair in zip(exact, other, strict=True)]
    edits = sum(one.substitutions + one.deletions + one.insertions for one in found)
    return round(edits / max(1, sum(one.reference for one in found)), 5)
