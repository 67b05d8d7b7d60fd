"""Opens a pyannote.audio pipeline, or says in one line what is wrong with it and what to do.

A folder, a hub id, or ``shipped``. Models of the former are pickles, and pyannote opens them with
``weights_only=False``, which runs whatever is in them: so there is no default, and only an operator
can name one.
"""

import contextlib
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from server.engines.errors import EngineUnavailable
from server.engines.hub import (
    SHIPPED_PIPELINE,
    ModelSource,
    find_source,
    hub_errors,
    is_folder_name,
)
from server.engines.hub_files import first_line
from server.engines.registry import EngineSpec, check_options
from streaming.timeline import SAMPLE_RATE_HZ

FLAG = "--diarizer-model"
OPTIONS = {"device"}
_EXAMPLE = "pyannote/speaker-diarization-community-1"
_CONFIG_FILE = "config.yaml"
_PIPELINE_CLASS = "SpeakerDiarization"
_PARTS = ("segmentation", "embedding", "plda")
_IN_ITSELF = "$model/"
"""How a pipeline names the folders beside its own config."""


def load_pipeline(spec: EngineSpec) -> tuple[str, Any]:
    """Its name for people, and the pipeline. Raises: EngineUnavailable.

    Option: ``device`` (``cpu``, ``cuda``; by default what there is).
    """
    check_options(spec, OPTIONS)
    if spec.model is None:
        raise EngineUnavailable(
            f"pyannote needs a pipeline: give {FLAG} {SHIPPED_PIPELINE} for captiond's own, a "
            f"folder, or a hub id such as {_EXAMPLE}, whose conditions must be accepted on its page"
        )
    if spec.model == SHIPPED_PIPELINE:
        return _shipped(spec)
    source = find_source(spec.model, FLAG)
    from server.engines.torch_setup import prepare_torch

    prepare_torch(spec.threads)
    if not source.is_folder and source.is_offline:
        _stay_offline()
    with _one_line(source):
        for part in read_parts(_config_file(source), source):
            if not is_folder_name(part) and find_source(part, FLAG).is_offline:
                _stay_offline()
        return source.name, _open(source, spec)


def _shipped(spec: EngineSpec) -> tuple[str, Any]:
    if (device := spec.options.get("device", "cpu")) != "cpu":
        raise EngineUnavailable(
            f"{SHIPPED_PIPELINE} computes on the processor, not on {device}; leave the option "
            f"device away, or give {FLAG} another pipeline"
        )
    from server.engines.torch_setup import prepare_torch

    prepare_torch(spec.threads)
    # After ``prepare_torch``; the imports take seconds.
    from server.engines.shipped_pipeline import build_shipped_pipeline

    return SHIPPED_PIPELINE, build_shipped_pipeline()


def read_parts(config_file: Path, source: ModelSource) -> list[str]:
    """Models that the pipeline takes from elsewhere: folders or hub ids.

    Raises: EngineUnavailable where it is no pipeline that tells speakers apart.
    """
    try:
        config = yaml.safe_load(config_file.read_text(encoding="utf-8"))
        pipeline = config["pipeline"]
        kind, params = str(pipeline["name"]), dict(pipeline.get("params") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise EngineUnavailable(
            f"{_CONFIG_FILE} of {source.name} is no pyannote pipeline's "
            f"({type(error).__name__}: {first_line(error)}); give {FLAG} another folder or hub id"
        ) from error
    if kind.rsplit(".", 1)[-1] != _PIPELINE_CLASS:
        raise EngineUnavailable(
            f"{source.name} is a {kind.rsplit('.', 1)[-1]} pipeline, not a {_PIPELINE_CLASS}; "
            f"give {FLAG} another folder or hub id"
        )
    named = [params.get(part) for part in _PARTS]
    named = [part.get("checkpoint") if isinstance(part, dict) else part for part in named]
    return [part for part in named if isinstance(part, str) and not part.startswith(_IN_ITSELF)]


def _config_file(source: ModelSource) -> Path:
    if not source.is_folder:
        from huggingface_hub import hf_hub_download

        only = source.is_offline
        return Path(hf_hub_download(source.location, _CONFIG_FILE, local_files_only=only))
    file = Path(source.location) / _CONFIG_FILE
    if not file.is_file():
        raise EngineUnavailable(
            f"{source.location} has no {_CONFIG_FILE}, so it is no pyannote pipeline; give {FLAG} "
            "another folder or hub id"
        )
    return file


def _open(source: ModelSource, spec: EngineSpec) -> Any:
    # After ``prepare_torch``; the import takes seconds.
    import torch
    from pyannote.audio import Pipeline

    # Where a download fails, pyannote prints a page of advice for Python programs.
    with contextlib.redirect_stdout(io.StringIO()):
        pipeline: Any = Pipeline.from_pretrained(source.location)
    if not pipeline.instantiated:
        pipeline.instantiate(pipeline.default_parameters())
    if pipeline.clustering.expects_num_clusters:
        raise EngineUnavailable(
            f"{source.name} groups voices by {pipeline.klustering}, which must be told how many "
            f"there are; give {FLAG} a pipeline that finds out"
        )
    _check_sample_rate(source, pipeline)
    device = str(spec.options.get("device", "cuda" if torch.cuda.is_available() else "cpu"))
    return pipeline.to(torch.device(device))


def _check_sample_rate(source: ModelSource, pipeline: Any) -> None:
    rate_hz = pipeline._segmentation.model.audio.sample_rate
    if rate_hz != SAMPLE_RATE_HZ:
        raise EngineUnavailable(
            f"{source.name} hears audio at {rate_hz} Hz, not at {SAMPLE_RATE_HZ}; give {FLAG} "
            "another folder or hub id"
        )


@contextlib.contextmanager
def _one_line(source: ModelSource) -> Iterator[None]:
    try:
        with hub_errors(source.name, FLAG):
            yield
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError),
        *(EOFError, pickle.UnpicklingError),
    ) as error:
        raise EngineUnavailable(
            f"{source.name} does not load ({type(error).__name__}: {first_line(error)}); copy it "
            f"again with all its folders, or give {FLAG} another folder or hub id"
        ) from error


def _stay_offline() -> None:
    """Read by huggingface_hub at its import: pyannote asks the hub about every file otherwise."""
    os.environ["HF_HUB_OFFLINE"] = "1"
