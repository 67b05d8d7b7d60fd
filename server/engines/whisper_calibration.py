"""The file in which ``captiond calibrate`` writes what a short context for finals costs.

Owns its format and the refusal of a file that was made for other weights: a word error rate says
nothing about a checkpoint that it was not measured with. JSON, one object, the fields below.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from server.engines.errors import EngineUnavailable

VERSION = 1
_BLOCK_BYTES = 1 << 20
_AGAIN = "run captiond calibrate again for this checkpoint"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Word error rates of one checkpoint on the operator's own recordings."""

    checkpoint_sha256: str
    """``fingerprint`` of the weights that it was measured with."""
    context_margin_s: float
    """Silence behind the window that the short context held."""
    wer_exact: float
    wer_short: float
    recordings_s: float
    measured_on: str
    """ISO 8601 date."""
    version: int = VERSION


def fingerprint(folder: Path) -> str:
    """SHA-256 over the names and bytes of a checkpoint's weight files."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def write_calibration(path: Path, calibration: Calibration) -> None:
    path.write_text(json.dumps(asdict(calibration), indent=2) + "\n", encoding="utf-8")


def read_calibration(path: Path, folder: Path | None) -> Calibration:
    """Raises: EngineUnavailable for a file that is not one, or not of the weights in ``folder``."""
    try:
        calibration = _parsed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "not a calibration"
        raise EngineUnavailable(f"{path} cannot be read ({reason}); {_AGAIN}") from error
    if folder is None or calibration.checkpoint_sha256 != fingerprint(folder):
        raise EngineUnavailable(f"{path} was measured with other weights; {_AGAIN}")
    return calibration


def _parsed(found: object) -> Calibration:
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise ValueError(f"it is no calibration of version {VERSION}")
    if missing := sorted({field.name for field in fields(Calibration)} - found.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    names = ("context_margin_s", "wer_exact", "wer_short", "recordings_s")
    margin_s, wer_exact, wer_short, recordings_s = (float(found[name]) for name in names)
    if not all(0 <= value < float("inf") for value in (margin_s, wer_exact, wer_short)):
        raise ValueError("its numbers must be finite and not negative")
    return Calibration(
        checkpoint_sha256=str(found["checkpoint_sha256"]),
        context_margin_s=margin_s,
        wer_exact=wer_exact,
        wer_short=wer_short,
        recordings_s=recordings_s,
        measured_on=str(found["measured_on"]),
    )
