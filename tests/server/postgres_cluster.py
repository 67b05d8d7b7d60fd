"""A PostgreSQL of the machine's own packages, in a folder of its own, while a test runs."""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = "postgres"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def reason_without_postgres() -> str | None:
    """Why no cluster can be made here; None where it can."""
    if importlib.util.find_spec("asyncpg") is None:
        return "asyncpg is not installed: pip install captiond[postgres]"
    if not PROGRAMS:
        return "PostgreSQL is not installed: apt-get install postgresql"
    if os.geteuid() == 0 and USER not in {entry.pw_name for entry in pwd.getpwall()}:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@dataclass(frozen=True, slots=True)
class Cluster:
    folder: Path

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{USER}@/postgres?host={self.folder}"

    def control(self, *words: str) -> None:
        """``pg_ctl`` with these words; PostgreSQL refuses to run as root."""
        command = [str(PROGRAMS[-1] / "pg_ctl"), "-D", str(self.folder / "data"), *words]
        run_as_user([*command, "-l", str(self.folder / "log")])

    def start(self) -> None:
        self.control("start", "-w", "-o", f"-k {self.folder} -c listen_addresses=''")

    def restart_at_once(self) -> None:
        """As a crash: every connection is lost in the middle of what it did."""
        self.control("stop", "-m", "immediate")
        self.start()

    def clear(self) -> None:
        """A database without tables."""
        psql = [str(PROGRAMS[-1] / "psql"), "-q", "-h", str(self.folder), "-U", USER]
        run_as_user([*psql, "-c", "DROP SCHEMA public CASCADE", "-c", "CREATE SCHEMA public"])


def run_as_user(command: list[str]) -> None:
    prefix = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    # Not under pytest's folder: the user postgres may not enter it, and a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="captiond-pg-", dir="/tmp"))
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
    cluster = Cluster(folder)
    initdb = [str(PROGRAMS[-1] / "initdb"), "-D", str(folder / "data")]
    run_as_user([*initdb, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"])
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.control("stop", "-m", "immediate")
        shutil.rmtree(folder)
