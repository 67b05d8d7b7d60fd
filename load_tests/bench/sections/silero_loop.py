"""How late the front process takes up what is due while Silero listens to many live voices."""

import subprocess
import sys
import time

import orjson
import psutil

from load_tests.bench.section import Effort, Figures, SectionSkipped, section

STREAMS, SECONDS = 200, 45.0
QUICK_STREAMS, QUICK_SECONDS = 4, 6.0
LAG_MS_MAX = 20
LATENESS_S_MAX = 0.02


@section(
    "silero loop",
    bounds={
        "event_loop_lag_ms_p99": LAG_MS_MAX,
        "event_loop_own_lag_ms_p99": None,
        "silero_streams_failed": 0,
        "silero_loop_us_per_packet": None,
    },
)
def measure(effort: Effort) -> Figures:
    """The load is a process of its own, and says how late it was itself."""
    from load_tests.bench.rotated_speech import NoVoices, utterances_of
    from load_tests.peers.disturbance import others_share, read
    from server.cpu_budget import cpu_budget

    try:
        utterances_of(seconds=QUICK_SECONDS, seed=effort.seed)
    except NoVoices as missing:
        raise SectionSkipped(str(missing)) from None
    streams, seconds = (QUICK_STREAMS, QUICK_SECONDS) if effort.is_quick else (STREAMS, SECONDS)
    command = [sys.executable, "-m", "load_tests.loop_cost", "--spoken", "--json", "/dev/stdout"]
    command += ["--streams", str(streams), "--seconds", str(seconds)]
    before, used_s = read(time.monotonic()), _children_s()
    result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    after, used_s = read(time.monotonic()), _children_s() - used_s
    found = orjson.loads(result.stdout)
    others = others_share(before, after, used_s, cpu_budget())
    late_s = found["load"]["lateness_s"]["p99"]
    return {
        "event_loop_lag_ms_p99": round(found["event_loop_lag_s"]["p99"] * 1000, 2),
        "event_loop_own_lag_ms_p99": round(found["event_loop_own_lag_s"]["p99"] * 1000, 2),
        "silero_streams_failed": found["load"]["failed"],
        "silero_loop_us_per_packet": found["event_loop_us_per_packet"],
        "silero_loop_of": {
            "streams": streams,
            "seconds": seconds,
            "generator late p99 s": late_s,
            "failures": found["load"]["failures"],
            "others' share of the machine": others,
            "void": bool(late_s > LATENESS_S_MAX or others > 0.05),
        },
    }


def _children_s() -> float:
    """Processor seconds of all processes that this one has started and waited for."""
    times = psutil.Process().cpu_times()
    total: float = times.children_user + times.children_system
    return total
