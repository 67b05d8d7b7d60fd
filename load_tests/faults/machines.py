"""The state machines of session and protocol with more stories than the tests draw:
``python -m load_tests.faults.machines --session 1000 --protocol 200``.

What fails is printed as the shortest story that Hypothesis finds, which can take minutes.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

STORIES_PER_RUN = 1_000
"""Hypothesis remembers all that it has told, half a megabyte for ten of them."""
EXAMPLES = "STATE_MACHINE_EXAMPLES"
PYTEST = (
    "-m",
    "pytest",
    "-q",
    "--no-header",
    "-o",
    "faulthandler_timeout=0",
    "-p",
    "no:cacheprovider",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """A test that draws stories, and how many."""

    name: str
    path: str
    examples: int

    def run(self) -> bool:
        """Prints what fails, and a line of figures."""
        began_s = time.monotonic()
        told = 0
        is_good = True
        while is_good and told < self.examples:
            batch = min(STORIES_PER_RUN, self.examples - told)
            is_good = self._run(batch)
            told += batch
        verdict = "none broke a promise" if is_good else "A PROMISE WAS BROKEN"
        seconds = time.monotonic() - began_s
        print(f"{self.name}: {told} stories, {verdict}, {seconds:.0f} s", flush=True)
        return is_good

    def _run(self, stories: int) -> bool:
        done = subprocess.run(
            [sys.executable, *PYTEST, self.path],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, EXAMPLES: str(stories)},
        )
        if done.returncode:
            print(done.stdout, done.stderr, sep="\n", flush=True)
        return done.returncode == 0


def main(words: Sequence[str] | None = None) -> int:
    """Run both; 1 where one of them fails."""
    parser = argparse.ArgumentParser(prog="python -m load_tests.faults.machines")
    parser.add_argument("--session", type=int, default=1_000, help="stories of a session [1000]")
    parser.add_argument("--protocol", type=int, default=200, help="stories over sockets [200]")
    given = parser.parse_args(words)
    machines = (
        Machine("session machine", "tests/streaming/test_session_machine.py", given.session),
        Machine("protocol machine", "tests/server/test_protocol_machine.py", given.protocol),
    )
    results = [machine.run() for machine in machines]
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main())
