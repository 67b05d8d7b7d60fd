"""Clients that nobody here wrote, each in an environment of its own, against a real server.

    make test-clients ARGS="--only openai"

A client is a folder ``protocol/name`` with what is to be installed (``requirements.txt`` or
``package.json``, versions pinned) and a program (``client.py``, ``client.js`` or ``client.mjs``).
It is started with the server's address, a key and a WAV file, and writes one JSON object with
``words`` and ``speakers``, a label for each word or nothing where its API has none. It must get
the words that the native client gets, and tell the same people apart.

Environments are kept in ``build/clients`` until what they are made of changes. One that cannot be
made is listed with the reason. Exit status 1: a client got something else than the native one.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import soundfile

from clients.stream import CaptionStream
from server.child import running_server
from server.scoring import normalized
from streaming.events import DurableEvent
from streaming.exports import Transcript
from streaming.wire import Start

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
ENVIRONMENTS = ROOT / "build" / "clients"
CLIP = ROOT / "server" / "assets" / "demo_clip" / "clip.flac"
KEY = "a-key-of-the-tests"
INSTALL_SECONDS_MAX = 900.0
RUN_SECONDS_MAX = 240.0
"""The clip lasts for 30 s; on a busy machine its last words may take much longer."""
SPEAKERS_SHARE_MIN = 0.8
"""Of the words, those with the native client's speaker in the end. Live protocols of others cannot
take a label back: of whoever is heard first, the first words may bear a label that was revised."""
PROGRAMS = ("client.py", "client.mjs", "client.js")


@dataclass(frozen=True, slots=True)
class Heard:
    """What one client was told."""

    words: tuple[str, ...]
    """Without case and punctuation."""
    speakers: tuple[str | None, ...]
    """One per word, or empty."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    client: str
    version: str
    words: str
    speakers: str
    verdict: str

    @property
    def is_miss(self) -> bool:
        return self.verdict.startswith("MISS")


class NotInstalled(Exception):
    """There is no environment for a client; the message is the reason."""


class ClientFailed(Exception):
    """A client ended in an error."""


# Environments


def clients(only: str) -> list[Path]:
    """Folders of clients whose names contain ``only``."""
    found = (path.parent for name in PROGRAMS for path in FOLDER.glob(f"*/*/{name}"))
    return sorted(folder for folder in found if only in name_of(folder))


def name_of(folder: Path) -> str:
    return folder.relative_to(FOLDER).as_posix()


def version_of(folder: Path) -> str:
    """Of the first package, as it is pinned."""
    if (folder / "package.json").exists():
        pinned = json.loads((folder / "package.json").read_text())["dependencies"]
        return str(next(iter(pinned.values())))
    lines = (folder / "requirements.txt").read_text().splitlines()
    first = next(line for line in lines if line.strip() and not line.startswith("#"))
    return first.partition("==")[2].split()[0]


def command_of(folder: Path) -> list[str]:
    """The program in its environment, which is made where need be. Raises: NotInstalled."""
    program = next(folder / name for name in PROGRAMS if (folder / name).exists())
    environment = ENVIRONMENTS / name_of(folder)
    if program.suffix == ".py":
        _make(environment, folder / "requirements.txt", _python_commands(environment, folder))
        return [str(environment / "venv" / "bin" / "python"), "-P", str(program)]
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NotInstalled("there is no node or no npm here")
    _make(environment, folder / "package.json", [["npm", "install", "--no-audit", "--no-fund"]])
    # A module is looked for beside the program.
    shutil.copy(program, environment / program.name)
    return ["node", str(environment / program.name)]


def _python_commands(environment: Path, folder: Path) -> list[list[str]]:
    python = str(environment / "venv" / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [
        [sys.executable, "-m", "venv", str(environment / "venv")],
        [*pip, "-r", str(folder / "requirements.txt")],
    ]


def _make(environment: Path, made_of: Path, commands: Sequence[Sequence[str]]) -> None:
    stamp = environment / "made-of"
    wanted = hashlib.sha256(made_of.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(environment, ignore_errors=True)
    environment.mkdir(parents=True)
    shutil.copy(made_of, environment / made_of.name)
    for command in commands:
        try:
            subprocess.run(
                command,
                cwd=environment,
                check=True,
                capture_output=True,
                text=True,
                timeout=INSTALL_SECONDS_MAX,
            )
        except subprocess.CalledProcessError as error:
            said = (error.stderr or error.stdout).strip().splitlines() or ["no reason given"]
            raise NotInstalled(said[-1][:200]) from None
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"not installed within {INSTALL_SECONDS_MAX:.0f} s") from None
    stamp.write_text(wanted)


# Runs


async def native(url: str, wav: Path) -> Heard:
    """What our own client gets, as fast as the server allows."""
    with soundfile.SoundFile(wav) as sound:
        pcm = bytes(sound.buffer_read(dtype="int16"))
    events: list[DurableEvent] = []
    async with CaptionStream.open(url, Start(), api_key=KEY) as stream:

        async def send() -> None:
            await stream.send(pcm)
            await stream.end()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send())
            events = [event async for event in stream if isinstance(event, DurableEvent)]
    captions = Transcript.from_events(events).captions
    words = [word for caption in captions for word in caption.words]
    return heard([word.text for word in words], [word.speaker for word in words])


def heard(words: Sequence[str], speakers: Sequence[object]) -> Heard:
    """Words that are nothing but punctuation are none. Raises: ValueError."""
    if speakers and len(speakers) != len(words):
        raise ValueError(f"{len(words)} words, {len(speakers)} speakers")
    labels = [None if label is None else str(label) for label in speakers] or [None] * len(words)
    plain = [
        (part, label)
        for word, label in zip(words, labels, strict=True)
        for part in normalized(word).split()
    ]
    has_speakers = any(label is not None for _, label in plain)
    return Heard(
        tuple(word for word, _ in plain),
        tuple(label for _, label in plain) if has_speakers else (),
    )


async def run_client(command: Sequence[str], url: str, wav: Path) -> Heard:
    """Raises: ClientFailed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        *(url, KEY, str(wav)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=wav.parent,
    )
    try:
        async with asyncio.timeout(RUN_SECONDS_MAX):
            output, errors = await process.communicate()
    except TimeoutError:
        raise ClientFailed(f"no end within {RUN_SECONDS_MAX:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise ClientFailed(said[-1][:200])
    try:
        told = json.loads(output.strip().splitlines()[-1])
        return heard(told["words"], told.get("speakers") or [])
    except (ValueError, LookupError) as error:
        raise ClientFailed(f"wrote no words: {error}") from None


# Verdicts


def row_of(folder: Path, told: Heard, reference: Heard) -> Row:
    equal = _equal_words(told.words, reference.words)
    share = speakers_share(told, reference)
    is_miss = told.words != reference.words or (share is not None and share < SPEAKERS_SHARE_MIN)
    people = len({label for label in told.speakers if label is not None})
    return Row(
        name_of(folder),
        version_of(folder),
        f"{equal} of {len(reference.words)}",
        "-" if share is None else f"{people}, {share:.0%} of words",
        "MISS" if is_miss else "ok",
    )


def _equal_words(one: Sequence[str], other: Sequence[str]) -> int:
    blocks = SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks)


def speakers_share(told: Heard, reference: Heard) -> float | None:
    """Of words with the native client's speaker, each label standing for whom it meets most; None
    where the client was told of none, or the words differ."""
    if not told.speakers or told.words != reference.words:
        return None
    pairs = list(zip(told.speakers, reference.speakers, strict=True))
    taken: dict[str | None, str | None] = {}
    for (label, person), _ in Counter(pairs).most_common():
        if label not in taken and person not in taken.values():
            taken[label] = person
    return sum(taken.get(label) == person for label, person in pairs) / len(pairs)


def table(rows: Sequence[Row]) -> str:
    head = Row("client", "version", "words equal", "speakers", "verdict")
    columns = [[row.client, row.version, row.words, row.speakers] for row in (head, *rows)]
    widths = [max(len(line[place]) for line in columns) for place in range(4)]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        for line in columns
    ]
    verdicts = [row.verdict for row in (head, *rows)]
    return "\n".join(f"{line}  {last}" for line, last in zip(lines, verdicts, strict=True))


@contextlib.asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[str]:
    """A server with what the package ships; its address."""
    arguments = ["--asr", "demo", "--diarizer", "embedded", "--log-level", "warning"]
    keys = {"CAPTIOND_API_KEYS": f'["tests:{KEY}"]'}
    async with running_server(arguments, folder, environment=keys) as server:
        yield server.url


async def verdicts(folders: Sequence[Path]) -> list[Row]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="captiond-clients-") as name:
        folder = Path(name)
        wav = folder / "clip.wav"
        samples, rate_hz = soundfile.read(CLIP, dtype="int16")
        soundfile.write(wav, samples, rate_hz)
        async with serving(folder) as url:
            reference = await native(url, wav)
            print(f"native client: {len(reference.words)} words")
            for client in folders:
                row = await _verdict(client, url, wav, reference)
                print(f"{row.client}: {row.words}, {row.speakers}, {row.verdict}", flush=True)
                rows.append(row)
    return rows


async def _verdict(client: Path, url: str, wav: Path, reference: Heard) -> Row:
    try:
        command = await asyncio.to_thread(command_of, client)
        told = await run_client(command, url, wav)
    except NotInstalled as reason:
        return Row(name_of(client), version_of(client), "-", "-", f"not installed: {reason}")
    except ClientFailed as reason:
        return Row(name_of(client), version_of(client), "-", "-", f"MISS: {reason}")
    return row_of(client, told, reference)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="clients whose name contains this")
    rows = asyncio.run(verdicts(clients(parser.parse_args().only)))
    print(table(rows))
    return 1 if any(row.is_miss for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
