"""Runs a page of docs/first-hour-*.md as a reader would: in order, in two terminals, in a browser.

The reader's machine is a temporary folder that holds links to the repository's own files. The
first terminal holds the server: a block that ends in ``captiond serve`` is typed there, after
ctrl-C on the server before. All other blocks are typed in the second terminal. Both keep their
folder and variables from block to block.

On a page, directly before a fenced block:
  ``<!-- not run: REASON -->``  a test cannot type this block; reasons are counted by the test;
  ``<!-- step: NAME -->``       stands alone: here the reader does something that is no command,
                                in the browser for example; the test has a function for it.
A fenced block is a command (``sh``), a file whose first line is its name in a comment (``python``,
``toml``, ``yaml``), or what the command before it prints (``text``; ``…`` stands for anything).
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from server.child import LISTENING_PREFIX, READY_LINE

ROOT = Path(__file__).parent.parent
START_SECONDS_MAX = 120
COMMAND_SECONDS_MAX = 120
LOG_POLL_SECONDS = 0.05
LINKED = ("clients", "streaming", "server", "deploy", "docs", "constraints.txt", "pyproject.toml")
PARTIAL = "partial "
"""Begins lines that a page shows and a busy machine leaves out."""
PORTS_ON_PAGES = ("8710", "8711")
_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$"
    r"|^<!-- step: (?P<step>[\w-]+) -->$",
    re.DOTALL | re.MULTILINE,
)
_SERVE = re.compile(r"^(?:\w+=\S+ )*captiond serve\b")


@dataclass(frozen=True, slots=True)
class Block:
    """One fence, or one step between fences, of a page."""

    place: str
    """Page and line, for messages."""
    kind: str
    """The fence's language, or ``step``."""
    body: str
    reason_not_run: str | None

    @property
    def starts_server(self) -> bool:
        return self.kind == "sh" and bool(_SERVE.match(_joined(self.body)[-1]))


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(
            f"{page.name}:{text.count(chr(10), 0, found.start()) + 1}",
            found["kind"] or "step",
            found["body"] or found["step"],
            found["reason"],
        )
        for found in _BLOCK.finditer(text)
    ]


def _joined(body: str) -> list[str]:
    """Its commands; continued lines are one."""
    return [line.strip() for line in body.replace("\\\n", " ").splitlines() if line.strip()]


PROGRAMS = ("curl", "openssl", "promtool", "sed", "sqlite3")
"""Beside captiond, Python and a shell; a page may use no other."""


def missing_programs(block: Block) -> list[str]:
    """What this machine lacks to run the block."""
    named = [name for name in PROGRAMS if re.search(rf"\b{name} ", block.body)]
    return [name for name in named if block.kind == "sh" and shutil.which(name) is None]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(slots=True)
class Terminal:
    """A shell whose folder and variables last from block to block."""

    folder: Path
    """Where it opens, and is the first time."""
    name: str
    environment: dict[str, str]

    def script(self, commands: str) -> list[str]:
        """For a new bash: take up where the last block stopped, run, remember."""
        state, place = self._remembered("env"), self._remembered("cwd")
        before = f'if [ -f "{state}" ]; then . "{state}"; cd "$(cat "{place}")"; fi\n'
        after = f'\nexport -p > "{state}"; pwd > "{place}"\n'
        return ["bash", "-e", "-o", "pipefail", "-c", f"{before}{commands}{after}"]

    @property
    def place(self) -> Path:
        """The folder that it is in."""
        remembered = self._remembered("cwd")
        return Path(remembered.read_text().strip()) if remembered.exists() else self.folder

    def _remembered(self, what: str) -> Path:
        return self.folder.parent / f"{self.name}.{what}"

    def run(self, commands: str) -> str:
        """Both outputs together. Fails the test where the last command of a block fails."""
        result = subprocess.run(
            self.script(commands),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            check=False,
        )
        assert result.returncode == 0, f"{commands}\n{result.stdout}"
        return result.stdout


@dataclass(slots=True)
class Server:
    """The program in the first terminal, and where its words go."""

    process: "subprocess.Popen[str]"
    address: str

    def interrupt(self) -> int:
        """Ctrl-C, as the page says. Returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)
        return self.process.returncode


def started(terminal: Terminal, commands: str) -> Server:
    """A server that is ready. Fails the test where it does not get so far."""
    *before, serve = _joined(commands)
    remember = terminal.script("\n".join(before))
    # The last line replaces the shell, so that ctrl-C reaches the server itself.
    remember[-1] += f"exec env {serve}"
    log = terminal.folder.parent / "server.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            remember,
            cwd=terminal.folder,
            env=terminal.environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    address = ""
    for line in process.stdout:
        if line.startswith(LISTENING_PREFIX):
            address = line.removeprefix(LISTENING_PREFIX).strip()
        if line.strip() == READY_LINE:
            return Server(process, address)
    process.communicate()
    pytest.fail(f"{commands}\n{log.read_text()}")


@dataclass(slots=True)
class Reader:
    """Somebody at a machine of their own, with a page in front of them."""

    folder: Path
    steps: Mapping[str, Callable[["Reader"], None]]
    """What the reader does at each ``step`` mark."""
    stack: ExitStack
    stand_ins: Mapping[str, str] = field(default_factory=dict)
    """Texts of the page that a test replaces: a stand-in for what must be downloaded, say."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the first terminal."""
    server: Server | None = None
    output: str = ""
    """Of the last command."""
    terminals: dict[str, Terminal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checkout, home = self.folder / "captiond", self.folder / "home"
        for folder in (checkout, home):
            folder.mkdir()
        for name in LINKED:
            (checkout / name).symlink_to(ROOT / name)
        ports = {shown: str(free_port()) for shown in PORTS_ON_PAGES}
        port = ports[PORTS_ON_PAGES[0]]
        self.stand_ins = {**self.stand_ins, **ports}
        environment = {
            **{name: os.environ[name] for name in ("LANG", "TMPDIR") if name in os.environ},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        first = {**environment, **self.variables, "CAPTIOND_PORT": port}
        second = {**environment, "CAPTIOND_URL": f"ws://127.0.0.1:{port}"}
        self.terminals = {
            "first": Terminal(checkout, "first", first),
            "second": Terminal(checkout, "second", second),
        }
        self.stack.callback(self.stop_server)

    def follow(self, block: Block) -> None:
        """Do what one block of the page says."""
        body = self.replaced(block.body)
        if block.kind == "step":
            self.steps[body](self)
        elif block.starts_server:
            self.stop_server()
            self.server = started(self.terminals["first"], body)
        elif block.kind == "sh":
            self.output = self.terminals["second"].run(body)
        elif block.kind == "text":
            self._compare(block, body)
        else:
            self._write(block, body)

    def stop_server(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            assert server.interrupt() == 0, (self.folder / "server.log").read_text()

    def wait_for_log(self, text: str) -> None:
        """Until the server has logged it; fails the test where it does not in time."""
        log = self.folder / "server.log"
        deadline = time.monotonic() + COMMAND_SECONDS_MAX
        while text not in log.read_text():
            assert time.monotonic() < deadline, f"{text!r} was not logged:\n{log.read_text()}"
            time.sleep(LOG_POLL_SECONDS)

    def replaced(self, body: str) -> str:
        """A text of the page as it is typed here."""
        for text, stand_in in self.stand_ins.items():
            body = body.replace(text, stand_in)
        return body

    def _write(self, block: Block, body: str) -> None:
        found = re.match(r"# ([\w.-]+)\n", body)
        if found is None:
            assert _is_quoted(body), f"{block.place}: neither a named file nor part of an example"
            return
        (self.terminals["second"].place / found[1]).write_text(body, "utf-8")

    def _compare(self, block: Block, body: str) -> None:
        """Each line that the page promises is printed, in this order."""
        rest = self.output
        for line in body.splitlines():
            if line == "…" or line.startswith(PARTIAL):
                continue
            pattern = ".*".join(re.escape(part) for part in line.split("…"))
            found = re.search(rf"^\s*{pattern}\s*$", rest, re.MULTILINE)
            assert found, f"{block.place}: {line!r} was not printed:\n{self.output}"
            rest = rest[found.end() :]


def _is_quoted(snippet: str) -> bool:
    examples = (ROOT / "clients" / "examples").glob("*.py")
    return any(snippet in path.read_text("utf-8") for path in examples)
