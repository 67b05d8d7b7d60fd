"""Facts → findings: what is well, what is worth knowing, what stops captions, and the remedy.

Pure: no check looks at anything but its facts. ``FAIL`` means that captions would not work.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from server.doctor.facts import HUB_UNREACHABLE, Facts
from server.engines.registry import names
from server.schema import SQLITE_SAFE
from streaming.events import SessionStage

PYTHON_MIN = (3, 11)
MEMORY_GIB_MIN = 4
"""The embedded engines take about 1.5 GiB, whisper-base another one."""
FREE_GIB_MIN = 1
"""A year of captions of one busy room; a full disk stops all sessions."""
GIB = 2**30
NEEDS_MODEL = frozenset({"ctc", "pyannote"})
NEEDS_TORCH = frozenset({"whisper", "demo", "ctc", "embedded", "pyannote"})


class Level(Enum):
    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for the operator."""

    name: str
    level: Level
    text: str
    remedy: str | None = None
    """A command, or what to do where no command does it."""


Check = Callable[[Facts], Iterator[Finding]]


def would_caption(findings: list[Finding]) -> bool:
    """True where nothing stops captions."""
    return all(finding.level is not Level.FAIL for finding in findings)


def check_python(facts: Facts) -> Iterator[Finding]:
    text = ".".join(map(str, facts.python))
    if facts.python >= PYTHON_MIN:
        yield Finding("python", Level.OK, text)
    else:
        yield Finding("python", Level.FAIL, f"{text} is too old", "install Python 3.11 or newer")


def check_processors(facts: Facts) -> Iterator[Finding]:
    text = f"{facts.budget} of {facts.processors} for captiond; {facts.cpu_model}"
    if facts.budget < facts.processors:
        yield Finding(
            "processors",
            Level.NOTE,
            f"{text} (affinity, container quota or --threads)",
            "docker run --cpus, or the pod's cpu limit, gives it more",
        )
    else:
        yield Finding("processors", Level.OK, text)
    yield _instructions(facts)


def _instructions(facts: Facts) -> Finding:
    """Of x86, in the order in which they matter for speech models."""
    if not facts.cpu_flags or "asimd" in facts.cpu_flags:
        return Finding("instructions", Level.NOTE, "no x86 processor; torch decides by itself")
    named = {
        "AVX2": "avx2",
        "AVX-512": "avx512f",
        "AVX-512 BF16": "avx512_bf16",
        "AMX BF16": "amx_bf16",
    }
    has = [name for name, flag in named.items() if flag in facts.cpu_flags]
    if "AVX2" not in has:
        return Finding("instructions", Level.WARN, "no AVX2: models run several times slower")
    return Finding("instructions", Level.OK, ", ".join(has))


def check_memory(facts: Facts) -> Iterator[Finding]:
    gib = facts.memory_bytes / GIB
    if gib < MEMORY_GIB_MIN:
        yield Finding("memory", Level.WARN, f"{gib:.1f} GiB is little for models", _SMALLER)
    else:
        yield Finding("memory", Level.OK, f"{gib:.1f} GiB")


_SMALLER = "captiond serve --asr pocketsphinx --diarizer none"


def check_torch(facts: Facts) -> Iterator[Finding]:
    told = facts.torch
    if told.error is not None:
        # One process loads what does not need torch; the others would die at the start.
        level = Level.FAIL if {facts.recognizer, facts.diarizer} & NEEDS_TORCH else Level.WARN
        yield Finding("torch", level, told.error, "pip install --force-reinstall torch")
        return
    cuda = told.values["cuda_build"]
    build = f"CUDA {cuda}" if cuda else "CPU only"
    capability = told.values["cpu_capability"]
    yield Finding("torch", Level.OK, f"{told.values['version']}, {build}, kernels: {capability}")


def check_gpu(facts: Facts) -> Iterator[Finding]:
    gpus = facts.torch.values.get("gpus", [])
    if gpus:
        yield Finding("GPU", Level.OK, ", ".join(gpus))
    elif facts.has_nvidia and not facts.torch.values.get("cuda_build"):
        remedy = "pip install --force-reinstall torch --index-url https://pypi.org/simple"
        yield Finding("GPU", Level.WARN, "there is one, and torch was built without CUDA", remedy)
    elif facts.has_nvidia:
        yield Finding("GPU", Level.WARN, "torch does not see the one that is there", "nvidia-smi")
    else:
        yield Finding("GPU", Level.NOTE, "none; models run on the processor")


def check_hub(facts: Facts) -> Iterator[Finding]:
    if facts.is_hub_reachable:
        yield Finding("model hub", Level.OK, "reachable")
    elif facts.is_offline_wanted:
        yield Finding("model hub", Level.NOTE, "not asked: HF_HUB_OFFLINE is set")
    else:
        yield Finding(
            "model hub",
            Level.NOTE,
            "not reachable; models must be folders, or in the cache",
            "captiond serve --asr whisper --asr-model /path/to/a/whisper/folder",
        )


def check_token(facts: Facts) -> Iterator[Finding]:
    if facts.has_token:
        yield Finding("hub token", Level.OK, "present")
    else:
        yield Finding(
            "hub token",
            Level.NOTE,
            "none; only gated models need one (pyannote's pipelines are)",
            "export HF_TOKEN=…, from https://huggingface.co/settings/tokens",
        )


def check_models(facts: Facts) -> Iterator[Finding]:
    cached = ", ".join(facts.cached_models)
    yield Finding("cached models", Level.OK if cached else Level.NOTE, cached or "none")


def check_recognizer(facts: Facts) -> Iterator[Finding]:
    name = " ".join(filter(None, (facts.recognizer, facts.recognizer_model)))
    if facts.recognizer == "pocketsphinx" and "pocketsphinx" not in facts.packages:
        yield Finding(
            "recognizer", Level.FAIL, "pocketsphinx is not installed", "pip install pocketsphinx"
        )
    elif gap := _gap(
        SessionStage.RECOGNITION,
        *("--asr", facts.recognizer, facts.recognizer_model, facts.recognizer_problem),
    ):
        yield Finding("recognizer", Level.FAIL, *gap)
    elif facts.is_second_choice:
        yield Finding(
            "recognizer",
            Level.WARN,
            f"{name}: English only, of modest accuracy; no Whisper checkpoint is at hand",
            "captiond serve --asr whisper --asr-model openai/whisper-base",
        )
    else:
        yield Finding("recognizer", Level.OK, name)


def _gap(
    stage: SessionStage, flag: str, engine: str, model: str | None, problem: str | None
) -> tuple[str, str] | None:
    """Why an engine would not load, and the remedy."""
    if engine not in names(stage):
        return f"there is no {engine}", f"give {flag} one of: {', '.join(names(stage))}"
    folder = f"give {flag}-model a folder that holds it"
    if engine in NEEDS_MODEL and model is None:
        return f"{engine} has no model of its own", f"{folder}, or a hub id (docs/engines.md)"
    if problem is None:
        return None
    if problem.endswith(HUB_UNREACHABLE):
        return problem, f"hf download {model}, where the hub can be reached; then {folder}"
    return problem, folder


def check_voice_activity(facts: Facts) -> Iterator[Finding]:
    engine = facts.voice_activity
    gap = _gap(SessionStage.ACTIVITY, "--vad", engine, None, None)
    if gap and engine != "auto":
        yield Finding("voice activity", Level.FAIL, *gap)
    else:
        yield Finding("voice activity", Level.OK, engine)


def check_diarizer(facts: Facts) -> Iterator[Finding]:
    gap = _gap(
        SessionStage.DIARIZATION,
        *("--diarizer", facts.diarizer, facts.diarizer_model, facts.diarizer_problem),
    )
    if gap and facts.diarizer != "none":
        yield Finding("diarizer", Level.FAIL, *gap)
        return
    if facts.diarizer != "embedded" or facts.has_speaker_weights:
        yield Finding("diarizer", Level.OK, facts.diarizer)
    else:
        yield Finding(
            "diarizer",
            Level.FAIL,
            "the embedded one needs the speaker weights of the resemblyzer package",
            "pip install --no-deps resemblyzer==0.1.4",
        )


def check_packages(facts: Facts) -> Iterator[Finding]:
    """What may be left out, and what for."""
    for name, use, remedy in (
        ("meeteval", "captiond eval scores conversations with it", "pip install 'captiond[eval]'"),
        ("matplotlib", "captiond eval --output draws with it", "pip install 'captiond[eval]'"),
    ):
        if name in facts.packages:
            yield Finding(name, Level.OK, "installed")
        else:
            yield Finding(name, Level.NOTE, f"not installed; {use}", remedy)
    for name in ("onnxruntime", "silero_vad"):
        if name not in facts.packages:
            text = "not installed; nothing tells speech from silence without it"
            yield Finding(name, Level.FAIL, text, "pip install --force-reinstall captiond")


def check_microphone(facts: Facts) -> Iterator[Finding]:
    """Only ``captiond stream mic`` needs one here: a browser has its own."""
    told = facts.microphones
    names = told.values.get("microphones", [])
    if names:
        yield Finding("microphone", Level.OK, ", ".join(names))
    elif "sounddevice" not in facts.packages:
        text = "not looked for: sounddevice is not installed"
        yield Finding("microphone", Level.NOTE, text, "pip install 'captiond[mic]'")
    elif told.error is not None:
        remedy = "apt-get install libportaudio2"
        yield Finding("microphone", Level.NOTE, f"not looked for: {told.error}", remedy)
    else:
        yield Finding("microphone", Level.NOTE, "none on this machine; a browser may have one")


def check_sqlite(facts: Facts) -> Iterator[Finding]:
    text = ".".join(map(str, facts.sqlite))
    if facts.sqlite >= SQLITE_SAFE:
        yield Finding("SQLite", Level.OK, text)
    else:
        safe = ".".join(map(str, SQLITE_SAFE))
        yield Finding(
            "SQLite",
            Level.WARN,
            f"{text} is older than {safe}: another program's checkpoint can corrupt the store",
            "open the store's file with no other program while captiond runs, or use a newer "
            "Python build",
        )


def check_store(facts: Facts) -> Iterator[Finding]:
    if facts.store_problem is not None:
        remedy = f"mkdir -p {facts.store_folder}, or give --store a path that can be written"
        yield Finding("store", Level.FAIL, facts.store_problem, remedy)
    elif facts.free_bytes is not None and facts.free_bytes < FREE_GIB_MIN * GIB:
        free = f"{facts.free_bytes / GIB:.1f} GiB free in {facts.store_folder}"
        yield Finding("store", Level.WARN, free, "free some, or give --store another disk")
    elif "://" in facts.store_folder:
        yield Finding("store", Level.OK, f"{facts.store_folder}, which is tried at the start only")
    else:
        yield Finding("store", Level.OK, f"{facts.store_folder} can be written")


def check_port(facts: Facts) -> Iterator[Finding]:
    if facts.port_problem is None:
        yield Finding("address", Level.OK, f"{facts.address} is free")
    elif facts.is_captiond_there:
        yield Finding("address", Level.OK, f"{facts.address} has a captiond that is running")
    else:
        yield Finding(
            "address",
            Level.FAIL,
            f"{facts.address}: {facts.port_problem}",
            "captiond serve --port 8711, or stop what listens there",
        )


def check_tls(facts: Facts) -> Iterator[Finding]:
    if facts.tls_problem is not None:
        yield Finding("TLS", Level.FAIL, facts.tls_problem)
    elif facts.tls_warning is not None:
        yield Finding("TLS", Level.WARN, facts.tls_warning)


CHECKS: tuple[Check, ...] = (
    *(check_python, check_processors, check_memory, check_torch, check_gpu),
    *(check_hub, check_token, check_models, check_recognizer),
    *(
        check_voice_activity,
        check_diarizer,
        check_packages,
        check_microphone,
        check_sqlite,
        check_store,
        check_port,
        check_tls,
    ),
)


def examine(facts: Facts) -> list[Finding]:
    """All findings, in the order in which they are read."""
    return [finding for check in CHECKS for finding in check(facts)]
