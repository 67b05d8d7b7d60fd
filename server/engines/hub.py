"""Checkpoints by folder or hub id, and one line for the operator where the hub gives none.

Every engine that takes a hub id uses it, so that all say the same: which page to open, which
variable holds the token, and that a folder does as well. huggingface_hub is imported where it is
needed, in a worker process; what needs no network is checked before.
Invariant H1: the line names the page, ``HF_TOKEN`` and the folder's flag, whatever went wrong.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.engines.errors import EngineUnavailable
from server.engines.selection import hub_cache, is_hub_reachable

HUB_PAGE = "https://huggingface.co"
TOKEN_PAGE = f"{HUB_PAGE}/settings/tokens"
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_REPO_OF_URL = re.compile(r"^(?:/api/models)?/([^/]+/[^/]+)/(?:resolve|revision|tree)/")
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where the files of a model come from."""

    location: str
    """A folder, or a hub id."""
    name: str
    """For people: the folder's own name, or the hub id."""
    flag: str
    """The option that named it, for messages."""
    is_folder: bool
    is_offline: bool
    """True where no file may be asked of the hub: a folder, or a hub that cannot be reached."""


SHIPPED_PIPELINE = "shipped"
"""The diarization pipeline of models that come with captiond, or are installed beside it. A folder
of that name is ``./shipped``."""


def find_source(model: str, flag: str) -> ModelSource:
    """Blocks for the probe of the hub at most. Raises: EngineUnavailable."""
    if is_folder_name(model):
        folder = Path(model).expanduser()
        if not folder.is_dir():
            raise EngineUnavailable(
                f"there is no folder {folder}; give {flag} another folder or hub id"
            )
        name = folder.resolve().name
        return ModelSource(str(folder), name, flag, is_folder=True, is_offline=True)
    is_offline = not is_hub_reachable()
    if is_offline and not has_cached_files(model):
        raise unreachable(model, flag)
    return ModelSource(model, model, flag, is_folder=False, is_offline=is_offline)


def is_folder_name(model: str) -> bool:
    """What exists here, or cannot be a hub id."""
    return Path(model).expanduser().exists() or _HUB_ID.fullmatch(model) is None


def has_cached_files(model: str) -> bool:
    """Whether some file of a hub id was fetched before; it may not be all of them."""
    return any((hub_cache() / f"models--{model.replace('/', '--')}").glob("snapshots/*/*"))


def checkpoint_folder(model: str) -> Path | None:
    """Where its files are, for a folder or a hub id; None for one that was not fetched yet."""
    if is_folder_name(model):
        return Path(model).expanduser()
    cached = hub_cache() / f"models--{model.replace('/', '--')}"
    revision = cached / "refs" / "main"
    return cached / "snapshots" / revision.read_text().strip() if revision.is_file() else None


def unreachable(model: str, flag: str) -> EngineUnavailable:
    """Neither cached nor to be had."""
    return EngineUnavailable(
        f"{model} is not complete in the cache and the model hub cannot be reached; connect "
        f"({HUB_PAGE}/{model}; HF_TOKEN, if it is gated or private), or give {flag} a folder that "
        "holds the checkpoint"
    )


@contextlib.contextmanager
def hub_errors(model: str, flag: str) -> Iterator[None]:
    """Raises: EngineUnavailable in place of whatever the hub's errors are inside the block."""
    from huggingface_hub import errors

    # Of its HTTP client, whichever that is: no OSError.
    http_error = errors.HTTPError  # type: ignore[attr-defined]
    try:
        yield
    except (OSError, ValueError, RuntimeError, http_error) as error:
        refusal = hub_refusal(error, model, flag)
        if refusal is None:
            raise
        raise refusal from error


def hub_refusal(error: BaseException, model: str, flag: str) -> EngineUnavailable | None:
    """What to do about an error of the hub's, however wrapped; None where it is not one of those.

    ``model`` is what the operator named; a part of it that lives elsewhere is named by itself.
    """
    from huggingface_hub import errors

    chain = list(_chain(error))
    answered = [link for link in chain if isinstance(link, errors.HfHubHTTPError)]
    if answered:
        return _answer_of_hub(answered[-1], model, flag)
    no_answer = errors.HTTPError  # type: ignore[attr-defined]
    silent = (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, no_answer)
    if any(isinstance(link, silent) for link in chain):
        return unreachable(model, flag)
    return None


def _answer_of_hub(error: Any, model: str, flag: str) -> EngineUnavailable:
    from huggingface_hub import errors

    status, path = error.response.status_code, error.response.request.url.path
    found = _REPO_OF_URL.match(path)
    repo = found.group(1) if found else model
    if isinstance(error, errors.GatedRepoError):
        reason = f"{repo} is gated, and {_what_the_token_is()}"
    elif isinstance(error, errors.EntryNotFoundError):
        file = path.rsplit("/", 1)[-1]
        reason = f"{repo} has no file {file} (is it another kind of model?)"
    elif isinstance(error, errors.RepositoryNotFoundError) or status == _NOT_FOUND:
        reason = (
            f"the hub shows no {repo} (misspelt, private or gated?), and {_what_the_token_is()}"
        )
    elif status in (_UNAUTHORIZED, _FORBIDDEN):
        reason = f"the hub refuses {repo} ({status}), and {_what_the_token_is()}"
    else:
        reason = f"the hub cannot deliver {repo} now (status {status})"
    return EngineUnavailable(
        f"{reason}; see {HUB_PAGE}/{repo} and accept its conditions if it has any, set HF_TOKEN to "
        f"a token of that account ({TOKEN_PAGE}), or give {flag} a folder that holds the checkpoint"
    )


def _what_the_token_is() -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return "no token is set"
    return "the token that is set opens it not"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, the first cause last."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__
