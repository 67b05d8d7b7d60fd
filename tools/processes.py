"""Training in several processes, one per core, that take every step together.

Each has a thread and examples of its own, and gradients are averaged: on two cores that is a third
faster than two threads, and suffers less from other work. Rank 0 is the caller's own process: to
pause a run it is enough to stop that one, for the others wait for it.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed, multiprocessing

# Peers wait for one another; somebody may pause the run for a measurement.
PEER_TIMEOUT = timedelta(hours=6)
Options = TypeVar("Options")


def run_together(
    work: Callable[[int, Options], None], options: Options, processes: int, folder: Path
) -> None:
    """Call ``work(rank, options)`` in each; they meet in ``folder``, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rendezvous").unlink(missing_ok=True)
    spawn = multiprocessing.get_context("spawn")
    peers = [
        spawn.Process(target=work, args=(rank, options), daemon=True)
        for rank in range(1, processes)
    ]
    for peer in peers:
        peer.start()
    work(0, options)
    for peer in peers:
        peer.join()


@contextlib.contextmanager
def joined(rank: int, processes: int, folder: Path) -> Iterator[None]:
    """This process' share of the threads, and a group with the others until all are done."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    if processes == 1:
        yield
        return
    meeting_point = f"file://{(folder / 'rendezvous').resolve()}"
    distributed.init_process_group(
        "gloo", meeting_point, PEER_TIMEOUT, world_size=processes, rank=rank
    )
    yield
    distributed.barrier()
    distributed.destroy_process_group()


def average_gradients(parameters: Iterable[Tensor], processes: int) -> None:
    """In place, over all processes."""
    if processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    sizes = [gradient.numel() for gradient in gradients]
    parts = torch.split_with_sizes(flat.div_(processes), sizes)
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def of_first(value: float, processes: int) -> float:
    """Rank 0's value, in every process."""
    shared = torch.tensor([value], dtype=torch.float64)
    if processes > 1:
        distributed.broadcast(shared, src=0)
    return float(shared)
