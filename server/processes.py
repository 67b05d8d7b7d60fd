"""How many processes each stage's engine gets, and how many threads each of them.

A small Whisper checkpoint does not fill two processors from one process: much of what it computes
is too short to be shared out among threads. So it gets a process for each processor, where nothing
speaks against it; everything else gets one, with all threads. An operator's word goes first.
"""

from dataclasses import replace
from pathlib import Path

from server.config import Settings
from server.cpu_budget import cpu_budget
from server.engine_specs import WHISPER_ENGINES, engine_specs
from server.engines.demo_whisper import demo_checkpoint
from server.engines.hub import checkpoint_folder
from server.engines.registry import EngineSpec
from server.memory import memory_limit_bytes
from streaming.events import SessionStage

SMALL_WEIGHTS_BYTES_MAX = 320_000_000
"""As many as whisper-base has in float32: with one thread a final of it takes about a second."""
PROCESSES_MAX = 8
PROCESS_BYTES, WEIGHTS_TIMES = 700_000_000, 4
"""What a process takes beside its weights, and how often it may hold these: two number formats,
each in a file of half the size."""
MEMORY_SHARE = 0.5
"""Of what this machine or container has, for all of them; sessions need the rest."""
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/kfd"))


def worker_specs(settings: Settings) -> dict[SessionStage, list[EngineSpec]]:
    """A spec for each process to start. Blocks as ``engine_specs`` does."""
    specs = {stage: [spec] for stage, spec in engine_specs(settings).items()}
    (recognizer,) = specs[SessionStage.RECOGNITION]
    budget = settings.threads or cpu_budget()
    count = settings.asr_workers or recognizer_processes(recognizer, budget)
    own = replace(recognizer, threads=max(1, budget // count))
    specs[SessionStage.RECOGNITION] = [own] * count
    return specs


def recognizer_processes(
    spec: EngineSpec, budget: int, *, memory_bytes: int | None = None, gpus: bool | None = None
) -> int:
    """For ``budget`` processors; ``memory_bytes`` and ``gpus`` are this machine's if not given."""
    has_gpu = any(device.exists() for device in GPU_DEVICES) if gpus is None else gpus
    is_on_gpu = has_gpu if "device" not in spec.options else spec.options["device"] != "cpu"
    weights = None if is_on_gpu or spec.name not in WHISPER_ENGINES else weights_bytes(spec.model)
    if weights is None or weights > SMALL_WEIGHTS_BYTES_MAX:
        return 1
    memory = memory_limit_bytes() if memory_bytes is None else memory_bytes
    fitting = int(memory * MEMORY_SHARE) // (PROCESS_BYTES + WEIGHTS_TIMES * weights)
    return max(1, min(budget, PROCESSES_MAX, fitting))


def weights_bytes(model: str | None) -> int | None:
    """Of a checkpoint's files, the demo's for no name; None where they are not here yet."""
    folder = demo_checkpoint() if model is None else checkpoint_folder(model)
    sizes = [] if folder is None else [path.stat().st_size for path in folder.glob("*.safetensors")]
    return sum(sizes) or None
