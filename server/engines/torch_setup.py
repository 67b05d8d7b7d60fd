"""What must be done to torch before a model library is imported, in a worker process.

Call ``prepare_torch`` before the first import of transformers or pyannote.audio. Owns the traps
of those imports and nothing of any model.
"""

import os
import sys
import types
import warnings
from collections.abc import Callable
from typing import NoReturn

import torch

_TORCHAUDIO_EXTENSION = "torchaudio._extension"


def prepare_torch(threads: int | None) -> None:
    """Make the process fit for model libraries; may be called again.

    ``threads`` is this worker's share of the machine's cores; None leaves torch's own choice.
    """
    # pyannote.audio reports its usage over the network unless told not to, at import.
    os.environ["PYANNOTE_METRICS_ENABLED"] = "false"
    if threads is not None:
        torch.set_num_threads(threads)
    if torch.version.cuda is None and _TORCHAUDIO_EXTENSION not in sys.modules:
        sys.modules[_TORCHAUDIO_EXTENSION] = _extension_without_binary()
    # pyannote.audio warns at import where torchcodec finds no FFmpeg. We hand it waveforms only.
    warnings.filterwarnings(
        "ignore",
        message=r"\s*torchcodec is not installed correctly so built-in audio decoding will fail",
        category=UserWarning,
        module=r"pyannote\.audio\.core\.io",
    )


def _extension_without_binary() -> types.ModuleType:
    """A stand-in for torchaudio's compiled part, saying that there is none.

    torchaudio 2.11 from the package index is linked against CUDA and refuses to load beside a
    torch without it, and both transformers and pyannote.audio import it. They use only what it
    does in Python (resampling, filterbanks); with these names in place it loads as a build
    without extension would.
    """
    module = types.ModuleType(_TORCHAUDIO_EXTENSION)
    module.__dict__.update(
        _IS_TORCHAUDIO_EXT_AVAILABLE=False,
        _IS_ALIGN_AVAILABLE=False,
        _check_cuda_version=lambda: None,
        fail_if_no_align=_failing,
    )
    return module


def _failing(function: Callable[..., object]) -> Callable[..., NoReturn]:
    """Decorates what needs the compiled part, as torchaudio itself does in a build without."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise RuntimeError(f"{function.__name__} needs torchaudio's compiled extension")

    return fail
