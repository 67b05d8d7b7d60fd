"""What is wrong with a transformers checkpoint: seen in its folder, or found while it loads.

The folder is looked at without any model library; those are imported when something is loaded.
Each complaint is one line that says what to do.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from server.engines.errors import EngineUnavailable
from server.engines.hub import ModelSource, hub_errors

MESSAGE_CHARACTERS_MAX = 300


def read_architectures(folder: Path, flag: str) -> list[str]:
    """The model classes that its config names. Raises: EngineUnavailable."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise EngineUnavailable(
            f"{folder} has no config.json, so it is no transformers checkpoint; give {flag} "
            "another folder or hub id"
        )
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        return [str(name) for name in config.get("architectures") or []]
    except (OSError, ValueError, AttributeError) as error:
        raise EngineUnavailable(
            f"{config_file} cannot be read ({first_line(error)}); copy the checkpoint again"
        ) from error


def check_weights(folder: Path, engine: str, *, allow_pickle: bool) -> None:
    """Raises: EngineUnavailable where there are none, or only such as run code when opened."""
    if any(folder.glob("*.safetensors")):
        return
    if not any(folder.glob("pytorch_model*.bin")):
        raise EngineUnavailable(f"{folder} has no model.safetensors; copy the checkpoint again")
    if not allow_pickle:
        raise EngineUnavailable(
            f"{folder} has pickled weights only, and opening those runs whatever is in them; "
            f"convert them to safetensors, or set the {engine} option allow_pickle=true if you "
            "trust their source"
        )


@contextlib.contextmanager
def load_errors(source: ModelSource) -> Iterator[None]:
    """Raises: EngineUnavailable in place of what transformers raises while it loads."""
    import safetensors
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with hub_errors(source.name, source.flag):
            yield
    except safetensors.SafetensorError as error:
        raise EngineUnavailable(
            f"the weights of {source.name} are corrupt ({first_line(error)}); copy the checkpoint "
            "again"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise EngineUnavailable(
            f"{source.name} does not load ({type(error).__name__}: {first_line(error)}); give "
            f"{source.flag} another folder or hub id"
        ) from error


def first_line(error: BaseException) -> str:
    """Of a library's message, which may go on for a page."""
    lines = str(error).strip().splitlines()
    return lines[0][:MESSAGE_CHARACTERS_MAX] if lines else type(error).__name__
