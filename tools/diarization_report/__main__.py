"""Who spoke when, measured: ``make diarization-report``.

    python -m tools.diarization_report [--sweep] [--pipeline FOLDER] [--minutes 60] [--out FOLDER]

Prints Markdown and, with ``--out``, writes ``report.md`` and ``sweep.md`` there. Embeddings are
kept under ``build/``: the second run takes a fraction of the first one's time.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from server.engines.embedded_diarizer import EmbeddedDiarizer
from server.engines.embedded_merging import Grouping
from server.engines.ge2e import SpeakerEncoder, find_weights
from server.engines.pyannote_loading import load_pipeline
from server.engines.registry import EngineSpec
from server.engines.torch_setup import prepare_torch
from streaming.events import SessionStage
from tools.conversations import DATA_DIR
from tools.diarization_report import tables
from tools.diarization_report.attribution import RULES, attributed
from tools.diarization_report.cached import CachedEmbeddings
from tools.diarization_report.crossing import crossings
from tools.diarization_report.embedded import Heard, lines
from tools.diarization_report.growth import growth, memory_bytes
from tools.diarization_report.hearing import hear
from tools.diarization_report.pipelines import compared
from tools.diarization_report.recordings import all_recordings, long_talks
from tools.diarization_report.sessions import through_sessions
from tools.diarization_report.tables import Promise

CACHE_FILE = Path("build") / "diarization-report" / "ge2e-openings.npz"
GROWTH_MINUTES = 60
MEMORY_MINUTES = (30, 60, 120, 180)
VARIATIONS: dict[str, tuple[Grouping, ...]] = {
    "segment_distance": tuple(Grouping(segment_distance=v) for v in (0.15, 0.18, 0.22, 0.25)),
    "segment_items_max": tuple(Grouping(segment_items_max=v) for v in (4, 8, 12)),
    "distinctness_min": tuple(
        Grouping(distinctness_min=v) for v in (3.0, 3.5, 4.0, 4.5, 5.5, 6.0, 7.0)
    ),
    "separation_weight": tuple(Grouping(separation_weight=v) for v in (7.0, 8.0, 12.0, 15.0)),
    "separation_min": tuple(Grouping(separation_min=v) for v in (1.1, 1.15, 1.25, 1.3)),
    "separation_seconds": tuple(Grouping(separation_seconds=v) for v in (0.75, 1.0, 1.5)),
    "spread": tuple(Grouping(spread=v) for v in (0.23, 0.27)),
    "spread_pairs": tuple(Grouping(spread_pairs=v) for v in (20, 80)),
    "speaker_seconds": tuple(Grouping(speaker_seconds=v) for v in (1.0, 3.0, 4.0)),
}
"""One at a time, the others as they are."""


def main(words: Sequence[str] | None = None) -> int:
    given = _arguments(words)
    prepare_torch(1)
    encoder = SpeakerEncoder(find_weights())
    cache = CachedEmbeddings(CACHE_FILE, encoder)
    recordings = list(all_recordings(given.data, given.seed))
    heard = list(zip(recordings, hear([r.samples for r in recordings]), strict=True))
    parts, promises = _embedded(heard, cache)
    through_sessions(recordings, cache, parts, promises)
    cache.save()
    if given.minutes:
        more, further = _costs(given.data, EmbeddedDiarizer(encoder), given.minutes)
        parts, promises = parts + more, promises + further
    for name, pipeline in _pipelines(given.pipeline):
        found = [compared(name, pipeline, known) for known in long_talks(given.data, given.seed)]
        parts.append(f"## {name}\n\n{tables.table_of_pipelines(found)}")
        bound = tables.OFFLINE_DIFFERENCE_MAX
        promises += [
            Promise(f"session against offline, {c.name}", c.difference, bound) for c in found
        ]
    title = "# Who spoke when, measured\n"
    report = "\n".join(
        [title, f"## What must be reached\n\n{tables.table_of_promises(promises)}", *parts]
    )
    _tell("report.md", report, given.out)
    if given.sweep:
        _tell("sweep.md", _sweep(heard, cache), given.out)
    return 0 if all(promise.is_met for promise in promises) else 1


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.diarization_report")
    parser.add_argument("--sweep", action="store_true", help="the table of parameters too")
    parser.add_argument(
        "--pipeline", type=Path, action="append", default=[], help="a pyannote pipeline's folder"
    )
    parser.add_argument("--minutes", type=int, default=GROWTH_MINUTES, help="of cost; 0: none")
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DATA_DIR, help="with ami, fsdd, librispeech")
    return parser.parse_args(words)


def _pipelines(folders: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    # After ``prepare_torch``; the imports take seconds.
    from server.engines.shipped_pipeline import build_shipped_pipeline

    yield "pyannote pipeline of captiond's segmentation and GE2E", build_shipped_pipeline()
    for folder in folders:
        name, pipeline = load_pipeline(
            EngineSpec(SessionStage.DIARIZATION, "pyannote", str(folder))
        )
        yield f"pyannote pipeline {name}", pipeline


def _embedded(heard: Heard, cache: CachedEmbeddings) -> tuple[list[str], list[Promise]]:
    found = lines(heard, cache, is_live=True)
    told = lines(heard, cache, is_live=True, is_told=True)
    words = attributed(heard, cache)
    rules = "".join(
        f"- {a.kind.value}, `{name}`: {a.right[name] / a.words:.3f} of {a.words} words\n"
        for a in words
        for name in RULES
    )
    parts = [
        f"## embedded\n\n{tables.table_of_lines(found)}",
        f"## embedded, told how many people there are\n\n{tables.table_of_lines(told)}",
        f"## Words of two people, true word times\n\n{rules}",
    ]
    return parts, [*tables.promises_of_lines(found), *tables.promises_of_attribution(words)]


def _costs(data: Path, diarizer: EmbeddedDiarizer, minutes: int) -> tuple[list[str], list[Promise]]:
    known = next(long_talks(data, 1))
    (speech,) = hear([known.samples])
    cost = growth(known.samples, speech, diarizer, minutes)
    held = memory_bytes(known.samples, speech, MEMORY_MINUTES)
    steps = range(10, minutes + 1, 10)
    spent = ", ".join(f"{m - 9}–{m}: {cost.mean_s(m - 9, m) / 60:.4f}" for m in steps)
    memory = ", ".join(
        f"{minute} min: {size / 1e6:.1f} MB"
        for minute, size in zip(MEMORY_MINUTES, held, strict=True)
    )
    part = (
        f"## Cost of one session\n\nProcessor seconds per second of audio, by minutes: {spent}.\n\n"
        f"Memory of its evidence and turns: {memory}.\n"
    )
    return [part], tables.promises_of_growth(cost) if minutes >= GROWTH_MINUTES else []


def _sweep(heard: Heard, cache: CachedEmbeddings) -> str:
    varied = [
        (f"`{name}` {attrgetter(name)(grouping):g}", grouping)
        for name, groupings in VARIATIONS.items()
        for grouping in groupings
    ]
    rows = [
        (name, lines(heard, cache, is_live=False, grouping=grouping))
        for name, grouping in itertools.chain([("as shipped", Grouping())], varied)
    ]
    found = {
        grouping.distinctness_min: result
        for (_, grouping), (_, result) in zip([("", Grouping()), *varied], rows, strict=True)
        if grouping == Grouping(distinctness_min=grouping.distinctness_min)
    }
    cache.save()
    title = "# Parameters of the embedded diarizer, one at a time\n\n"
    legend = "DER / confusion, and recordings whose number of speakers is exact.\n\n"
    crossed = "\n## `distinctness_min`, chosen without the kind that it is judged on\n\n"
    judged = tables.table_of_crossings(crossings(found), rows[0][1])
    return title + legend + tables.table_of_sweep(rows) + crossed + judged


def _tell(name: str, text: str, folder: Path | None) -> None:
    print(text)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


if __name__ == "__main__":
    sys.exit(main())
