"""A whole pyannote pipeline of models that need no token: our segmentation, GE2E, AHC.

Import after ``prepare_torch``; the imports take seconds.
"""

from typing import Any

from pyannote.audio.core.plda import PLDA
from pyannote.audio.pipelines import SpeakerDiarization

from server.engines.errors import EngineUnavailable
from server.engines.ge2e import SpeakerEncoder, find_weights
from server.engines.ge2e_pyannote import Ge2eModel
from server.engines.segmentation import load_segmentation, shipped_segmentation

GROUPING = {"method": "centroid", "min_cluster_size": 3, "threshold": 0.45}
"""Euclidean height between unit vectors. On the telephone sample 0.35 splits voices, 0.5 makes one
of two."""


class _NoCalibration(PLDA):  # type: ignore[misc]
    """What the pipeline's constructor asks for, and its agglomerative clustering never uses."""

    def __init__(self) -> None:
        """Nothing is loaded."""


def build_shipped_pipeline(**grouping: Any) -> Any:
    """``grouping`` goes to the clustering. Raises: EngineUnavailable."""
    segmentation = shipped_segmentation()
    if segmentation is None:
        raise EngineUnavailable("this build of captiond has no segmentation model")
    pipeline: Any = SpeakerDiarization(
        segmentation=load_segmentation(segmentation),
        embedding=Ge2eModel(SpeakerEncoder(find_weights())),
        plda=_NoCalibration(),
        clustering="AgglomerativeClustering",
        embedding_exclude_overlap=True,
        embedding_batch_size=32,
        segmentation_batch_size=32,
    )
    return pipeline.instantiate(
        {"segmentation": {"min_duration_off": 0.0}, "clustering": GROUPING | grouping}
    )
