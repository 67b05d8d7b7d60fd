"""A small pyannote.audio pipeline with random weights, in the layout of published ones."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from server.engines.torch_setup import prepare_torch

CHUNK_SECONDS = 4.0
LOCAL_SPEAKERS = 3
DIMENSION = 24
_VBX = {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8}
_AHC = {"method": "centroid", "min_cluster_size": 2, "threshold": 0.7}
_GROUPING: dict[str, dict[str, Any]] = {"VBxClustering": _VBX, "AgglomerativeClustering": _AHC}


def build_pipeline(
    folder: Path,
    *,
    clustering: str = "VBxClustering",
    powerset: bool = True,
    has_numbers: bool = True,
    grouping: dict[str, float] | None = None,
    **changes: Any,
) -> Path:
    """``changes`` go to the pipeline's parameters in ``config.yaml``.

    ``grouping`` to its clustering's. Without ``has_numbers``, every embedding is NaN.
    """
    prepare_torch(None)
    import torch

    torch.manual_seed(4)
    _save(_segmentation(powerset=powerset), folder / "segmentation")
    _save(_embedding(has_numbers=has_numbers), folder / "embedding")
    _save_plda(folder / "plda")
    params = {
        "clustering": clustering,
        "segmentation": "$model/segmentation",
        "embedding": "$model/embedding",
        "embedding_batch_size": 32,
        "embedding_exclude_overlap": True,
        "plda": "$model/plda",
    }
    thresholds: dict[str, Any] = {"min_duration_off": 0.0}
    thresholds |= {} if powerset else {"threshold": 0.5}
    config = {
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": params | changes,
        },
        "params": {
            "segmentation": thresholds,
            "clustering": _GROUPING.get(clustering, {}) | (grouping or {}),
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def _segmentation(*, powerset: bool) -> Any:
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.segmentation import PyanNet

    model = PyanNet(
        lstm={"hidden_size": 8, "num_layers": 1, "monolithic": True, "bidirectional": True},
        linear={"hidden_size": 8, "num_layers": 1},
    )
    problem = Problem.MONO_LABEL_CLASSIFICATION if powerset else Problem.MULTI_LABEL_CLASSIFICATION
    model.specifications = Specifications(
        problem=problem,
        resolution=Resolution.FRAME,
        duration=CHUNK_SECONDS,
        classes=[f"speaker#{i + 1}" for i in range(LOCAL_SPEAKERS)],
        powerset_max_classes=2 if powerset else None,
        permutation_invariant=True,
    )
    model.build()
    model.setup()
    with torch.no_grad():
        model.classifier.weight.mul_(60)
    return model


def _embedding(*, has_numbers: bool) -> Any:
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding import XVectorMFCC

    model = XVectorMFCC(mfcc={"n_mfcc": 20, "melkwargs": {"n_mels": 20}}, dimension=DIMENSION)
    model.specifications = Specifications(
        problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=CHUNK_SECONDS
    )
    model.build()
    if not has_numbers:
        torch.nn.init.constant_(model.embedding.bias, float("nan"))
    return model


def _save(model: Any, folder: Path) -> None:
    """As lightning's trainer would."""
    import lightning
    import torch

    folder.mkdir(parents=True)
    checkpoint = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "epoch": 0,
        "global_step": 0,
    }
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, folder / "pytorch_model.bin")


def _save_plda(folder: Path) -> None:
    rng = np.random.default_rng(3)
    folder.mkdir()
    size = DIMENSION // 2
    np.savez(
        folder / "xvec_transform.npz",
        mean1=np.zeros(DIMENSION),
        mean2=np.zeros(size),
        lda=np.linalg.qr(rng.normal(size=(DIMENSION, size)))[0],
    )
    np.savez(
        folder / "plda.npz", mu=np.zeros(size), tr=8 * np.eye(size), psi=np.linspace(60, 10, size)
    )
