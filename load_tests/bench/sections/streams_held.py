"""How many live streams of real voices a server holds on this machine, by real sockets and clock.

The search and the rule are those of the comparison with other servers (``load_tests.peers``).
"""

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from load_tests.bench.section import Effort, Figures, SectionSkipped, section

if TYPE_CHECKING:
    from load_tests.peers.probing import Bench
    from load_tests.peers.system import System

SECONDS, QUICK_SECONDS = 60.0, 8.0
KINDS = ("exact", "calibrated")


@section(
    "streams held",
    bounds={
        "streams_held": None,
        "streams_held_strict": None,
        "streams_held_calibrated": None,
        "streams_held_calibrated_strict": None,
    },
)
def measure(effort: Effort) -> Figures:
    """Whisper-tiny's shape; ``--set whisper=FOLDER`` for another, ``--set finals=exact`` for one
    kind alone."""
    from load_tests.bench.rotated_speech import NoVoices
    from load_tests.peers.system import PeerFailed
    from server.evaluation.whisper_models import TINY_REFERENCE

    model = Path(effort.options.get("whisper", TINY_REFERENCE))
    if not model.is_dir():
        raise SectionSkipped(f"no checkpoint in {model}; give --set whisper=FOLDER")
    try:
        return asyncio.run(_measure(effort, model))
    except NoVoices as missing:
        raise SectionSkipped(str(missing)) from None
    except PeerFailed as error:
        raise RuntimeError(str(error)) from None


async def _measure(effort: Effort, model: Path) -> Figures:
    from load_tests.peers.held import STRICT, USUAL
    from load_tests.peers.probing import Bench, Conditions

    seconds = QUICK_SECONDS if effort.is_quick else float(effort.options.get("seconds", SECONDS))
    found, told = Figures(), Figures()
    with tempfile.TemporaryDirectory(prefix="captiond-held-") as folder:
        for kind in KINDS:
            key = "streams_held" + ("" if kind == "exact" else f"_{kind}")
            found[key] = found[f"{key}_strict"] = None
            if effort.options.get("finals", kind) != kind or (effort.is_quick and told):
                continue
            system = await _system(kind, model, None if effort.is_quick else Path(folder))
            bench = Bench(system, Conditions(seconds, effort.seed), {})
            streams_max = 1 if effort.is_quick else int(effort.options.get("streams", 256))
            found[key] = await bench.most_held(USUAL, streams_max)
            found[f"{key}_strict"] = await bench.most_held(STRICT, streams_max)
            told[f"{key}_of"] = _told(bench, found[key])
    return {**found, **told}


async def _system(kind: str, model: Path, folder: Path | None) -> "System":
    """As short as a calibration made in ``folder`` allows; by default without one."""
    from load_tests.peers import captiond

    if folder is None:
        return captiond.exact(model)
    measured = folder / "calibration.json"
    if not measured.exists():
        await captiond.calibrate(model, folder)
    return (captiond.exact if kind == "exact" else captiond.calibrated)(model, measured)


def _told(bench: "Bench", most: int) -> Figures:
    """The curve, and what the machine did meanwhile."""
    probes = [probe for _, probe in sorted(bench.probes.items())]
    return {
        "streams": [probe.streams for probe in probes],
        "first shown p95 s": [probe.first_shown_s["p95"] for probe in probes],
        "stable p95 s": [probe.stable_s["p95"] for probe in probes],
        "WER": [probe.wer for probe in probes],
        "partials a second": [probe.partials_per_speech_s for probe in probes],
        "CPU s per stream-second": [probe.cpu_s_per_stream_s for probe in probes],
        "load late p99 s": [probe.lateness_s_p99 for probe in probes],
        "others' share of the machine": [probe.others_share for probe in probes],
        "failures": [list(probe.failures)[:1] for probe in probes],
        "void": any(probe.disturbances for probe in probes),
        "held": most,
    }
