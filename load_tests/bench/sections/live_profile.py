"""Where the recognizer's seconds go when streams are live: finals or partials, and which stage.

The speech of ``streams held``, the product's own sessions and scheduler in virtual time, and the
number formats that a server takes on a processor with bfloat16: so these are the seconds that a
server would need for the same streams, whatever else the machine does.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from load_tests.bench.section import Effort, Figures, SectionSkipped, section

if TYPE_CHECKING:
    from load_tests.bench.speech import Speech
    from server.engines.whisper import WhisperRecognizer
    from streaming.engines import Hypothesis, RecognizerProfile, SpeechWindow

SECONDS, STREAMS = 60.0, 6
QUICK_SECONDS, QUICK_STREAMS = 6.0, 2
STAGES = ("features", "encoder", "verify", "step", "words")
CALIBRATED_MARGIN_S = 1.0
Seconds = dict[str, float]


class Timed:
    """A recognizer whose seconds of the processor are noted by kind of window and stage."""

    def __init__(self, engine: "WhisperRecognizer") -> None:
        self._engine = engine
        self.seconds: Seconds = {}
        self.windows: dict[str, int] = {}

    @property
    def profile(self) -> "RecognizerProfile":
        return self._engine.profile

    def recognize(self, windows: "Sequence[SpeechWindow]") -> "list[Hypothesis]":
        before, cpu_s = asdict(self._engine.counters), time.process_time()
        answers = self._engine.recognize(windows)
        cpu_s = time.process_time() - cpu_s
        after = asdict(self._engine.counters)
        clock = {stage: after[f"{stage}_s"] - before[f"{stage}_s"] for stage in STAGES}
        kind = "finals" if windows[0].is_final else "partials"
        self.windows[kind] = self.windows.get(kind, 0) + len(windows)
        whole_s = sum(clock.values())
        for stage, seconds in clock.items():
            # Stages are timed by the clock, which other programs stretch; calls are not.
            name = f"{kind}: {stage}"
            spent_s = cpu_s * seconds / whole_s if whole_s else 0.0
            self.seconds[name] = self.seconds.get(name, 0.0) + spent_s
        return answers


@section(
    "live profile",
    bounds={
        "exact_cpu_s_per_stream_second": None,
        "calibrated_cpu_s_per_stream_second": None,
    },
)
def measure(effort: Effort) -> Figures:
    """Seconds of the processor, of the recognizer alone."""
    from load_tests.bench.rotated_speech import NoVoices, rotated
    from load_tests.bench.speech import Speech
    from load_tests.bench.whisper_runs import threads_of, tiny_of, trained
    from server.engines.whisper import WhisperRecognizer
    from server.engines.whisper_options import WhisperOptions

    seconds, streams = (QUICK_SECONDS, QUICK_STREAMS) if effort.is_quick else (SECONDS, STREAMS)
    try:
        speech = Speech(f"{streams} streams", rotated(seconds, streams, effort.seed))
    except NoVoices as missing:
        raise SectionSkipped(str(missing)) from None
    checkpoint = (None if effort.is_quick else tiny_of(effort)) or trained(threads_of(effort))
    exact = WhisperOptions(dtype="bfloat16", device="cpu")
    short = WhisperOptions(dtype="bfloat16", final_dtype="bfloat16", device="cpu")
    engines = {
        "exact": WhisperRecognizer(checkpoint, exact),
        "calibrated": WhisperRecognizer(checkpoint, short, final_margin_s=CALIBRATED_MARGIN_S),
    }
    found: Figures = {}
    for name, engine in engines.items():
        engine.warm_up()
        found |= _profiled(name, engine, speech)
    return {**found, "live_profile_of": f"{checkpoint.name}, {threads_of(effort)} threads"}


def _profiled(name: str, engine: "WhisperRecognizer", speech: "Speech") -> Figures:
    from load_tests.bench.live_speech import play

    timed = Timed(engine)
    play(speech, timed)
    whole_s = sum(timed.seconds.values())
    shares = {
        what: round(spent_s / whole_s, 4)
        for what, spent_s in sorted(timed.seconds.items(), key=lambda item: -item[1])
    }
    return {
        f"{name}_cpu_s_per_stream_second": round(whole_s / speech.seconds, 4),
        f"{name}_live_shares": shares,
        f"{name}_live_windows": timed.windows,
    }
