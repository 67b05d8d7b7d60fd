"""How many recognition processes a machine gets by itself, and when it gets one."""

from pathlib import Path

import pytest

from server.config import Settings
from server.engines.registry import EngineSpec
from server.processes import PROCESSES_MAX, recognizer_processes, weights_bytes, worker_specs
from streaming.events import SessionStage

GIB = 1024**3


def checkpoint(folder: Path, size: int) -> str:
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(size)
    return str(folder)


def processes(
    model: str | None,
    *,
    budget: int = 4,
    memory_bytes: int = 64 * GIB,
    gpus: bool = False,
    **options: str,
) -> int:
    name = "demo" if model is None else "whisper"
    spec = EngineSpec(SessionStage.RECOGNITION, name, model, {**options})
    return recognizer_processes(spec, budget, memory_bytes=memory_bytes, gpus=gpus)


def test_a_small_checkpoint_gets_a_process_for_each_processor(tmp_path: Path) -> None:
    tiny = checkpoint(tmp_path, 75_000_000)
    assert processes(tiny) == 4
    assert processes(tiny, budget=1) == 1
    assert processes(tiny, budget=64) == PROCESSES_MAX


def test_memory_bounds_them(tmp_path: Path) -> None:
    tiny = checkpoint(tmp_path, 75_000_000)
    assert processes(tiny, memory_bytes=4 * GIB) == 2
    assert processes(tiny, memory_bytes=GIB) == 1


def test_a_large_checkpoint_gets_one_with_all_threads(tmp_path: Path) -> None:
    assert processes(checkpoint(tmp_path, 967_000_000)) == 1


def test_a_checkpoint_that_is_not_here_yet_gets_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert processes("openai/whisper-tiny") == 1
    cached = tmp_path / "models--openai--whisper-tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc").mkdir(parents=True)
    checkpoint(cached / "snapshots" / "abc", 151_000_000)
    assert weights_bytes("openai/whisper-tiny") == 151_000_000
    assert processes("openai/whisper-tiny") == 4


def test_a_gpu_has_one_process_unless_it_is_not_used(tmp_path: Path) -> None:
    tiny = checkpoint(tmp_path, 75_000_000)
    assert processes(tiny, gpus=True) == 1
    assert processes(tiny, gpus=True, device="cpu") == 4
    assert processes(tiny, device="cuda") == 1


def test_other_engines_get_one() -> None:
    spec = EngineSpec(SessionStage.RECOGNITION, "pocketsphinx")
    assert recognizer_processes(spec, 8) == 1


def test_the_operators_number_goes_first(tmp_path: Path) -> None:
    settings = Settings(
        asr="whisper", asr_model=checkpoint(tmp_path, 967_000_000), asr_workers=3, threads=6
    )
    specs = worker_specs(settings)
    assert [spec.threads for spec in specs[SessionStage.RECOGNITION]] == [2, 2, 2]
    assert len(specs[SessionStage.ACTIVITY]) == 1


def test_threads_are_shared_out(tmp_path: Path) -> None:
    settings = Settings(asr="whisper", asr_model=checkpoint(tmp_path, 75_000_000), threads=2)
    specs = worker_specs(settings)[SessionStage.RECOGNITION]
    assert sum(spec.threads for spec in specs) == 2
