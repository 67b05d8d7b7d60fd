"""The kernel's accounts, from files written by hand."""

import os
from pathlib import Path

from load_tests.peers.disturbance import family, others_share, read, scheduler_waits_s


def test_what_others_used_is_what_neither_we_nor_idling_took(tmp_path: Path) -> None:
    tick = os.sysconf("SC_CLK_TCK")
    stat = tmp_path / "stat"

    def written(user: int, idle: int, stolen: int) -> None:
        stat.write_text(f"cpu  {user * tick} 0 0 {idle * tick} 0 0 0 {stolen * tick} 0 0\nintr 1\n")

    written(100, 50, 0)
    before = read(10.0, stat)
    written(112, 55, 1)
    after = read(20.0, stat)
    assert others_share(before, after, own_s=9.0, cores=2) == 0.2
    assert others_share(before, after, own_s=99.0, cores=2) == 0.0
    assert others_share(before, before, own_s=0.0, cores=2) == 0.0


def test_without_the_kernels_account_nothing_is_claimed(tmp_path: Path) -> None:
    nothing = read(1.0, tmp_path / "absent")
    assert others_share(nothing, read(2.0, tmp_path / "absent"), 0.0, 2) == 0.0


def test_waits_of_all_threads_add_up(tmp_path: Path) -> None:
    for pid, thread, waited_ns in ((7, 7, 1_000_000_000), (7, 8, 500_000_000), (9, 9, 250_000_000)):
        folder = tmp_path / str(pid) / "task" / str(thread)
        folder.mkdir(parents=True)
        (folder / "schedstat").write_text(f"123 {waited_ns} 5\n")
    assert scheduler_waits_s([7, 9, 11], tmp_path) == 1.75


def test_a_family_is_a_process_and_its_children() -> None:
    assert os.getpid() in family(os.getpid())
    assert family(2**30) == []
