"""An environment for each peer, and the one checkpoint in the format that they read.

Nothing of theirs is installed into ours. Everything lies in one folder that git ignores.
"""

import asyncio
import hashlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load_tests.peers.system import PeerFailed
from server.cpu_budget import cpu_budget

TORCH = "torch==2.13.0"
"""First and pinned: other ranges pull several GB of CUDA libraries onto a machine without a GPU."""
CONVERTER = ("ctranslate2", "transformers>=4.56")
"""Not in a peer's own: whisper-live pins a tokenizers that only older transformers take."""
MULTILINGUAL_TOKENS_MIN = 51_865
INSTALL_SECONDS_MAX = 1_800.0
_WITHOUT_CUDA = '''
"""torchaudio's compiled part is linked against CUDA and refuses to load beside a CPU's torch."""
import sys, types
_extension = types.ModuleType("torchaudio._extension")
_extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
_extension._IS_ALIGN_AVAILABLE = False
_extension._check_cuda_version = lambda: None
_extension.fail_if_no_align = lambda function: function
sys.modules["torchaudio._extension"] = _extension
'''


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment that is ready."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def cores(self) -> int:
        return cpu_budget()

    def versions(self, *names: str) -> Mapping[str, str]:
        """Of installed distributions."""
        program = (
            "import importlib.metadata as m, sys\n"
            "print('\\n'.join(n + '=' + m.version(n) for n in sys.argv[1:]))"
        )
        result = subprocess.run(
            [self.python, "-c", program, *names], capture_output=True, text=True, check=True
        )
        return dict(line.split("=", 1) for line in result.stdout.splitlines())


async def environment(
    name: str,
    requirements: Sequence[str],
    parent: Path,
    python: Path,
    *,
    alone: Sequence[str] = (),
) -> Environment:
    """Made where it is not there yet, or was made of something else. Raises: PeerFailed.

    ``alone`` are installed without their dependencies, the rest with theirs.
    """
    made = Environment(parent / name)
    told = "\n".join([TORCH, *requirements, *alone])
    stamp = made.folder / f"installed-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if stamp.exists():
        return made
    await ran([str(python), "-m", "venv", "--clear", str(made.folder)])
    install = [str(made.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    await ran([*install, TORCH])
    await ran([*install, TORCH, *requirements])
    if alone:
        await ran([*install, "--no-deps", *alone])
    site = await ran(
        [str(made.python), "-c", "import sysconfig as s; print(s.get_path('purelib'))"]
    )
    (Path(site.strip()) / "sitecustomize.py").write_text(_WITHOUT_CUDA)
    stamp.touch()
    return made


async def converted(checkpoint: Path, parent: Path, python: Path) -> Path:
    """The same weights for CTranslate2, float16 as they are. Raises: PeerFailed."""
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()[:12]
    folder = parent / f"ctranslate2-{weights}"
    if not folder.exists():
        beside = [
            name
            for name in ("tokenizer.json", "preprocessor_config.json")
            if (checkpoint / name).exists()
        ]
        made = await environment("converter", CONVERTER, parent, python)
        command = [str(made.python), "-m", "ctranslate2.converters.transformers"]
        command += ["--model", str(checkpoint), "--output_dir", str(folder)]
        command += ["--quantization", "float16", "--copy_files", *beside]
        await ran(command)
    return folder


def named_for_english(checkpoint: Path, parent: Path) -> Path:
    """The same files in a folder whose name ends in ``.en``, where they hold an English model:
    some programs read the kind of tokenizer from the name alone."""
    vocabulary = json.loads((checkpoint / "config.json").read_bytes())["vocab_size"]
    if vocabulary >= MULTILINGUAL_TOKENS_MIN or checkpoint.name.endswith(".en"):
        return checkpoint
    folder = parent / f"{checkpoint.name}.en"
    folder.mkdir(exist_ok=True)
    for path in checkpoint.iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path.resolve())
    return folder


async def ran(command: Sequence[str]) -> str:
    """Its output. Raises: PeerFailed where it fails."""
    print("$", " ".join(command), flush=True)
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(INSTALL_SECONDS_MAX):
        told, _ = await process.communicate()
    text = told.decode(errors="replace")
    if process.returncode:
        raise PeerFailed(f"{' '.join(command)} ended with {process.returncode}:\n{text[-4000:]}")
    return text
