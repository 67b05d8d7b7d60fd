"""The built wheel holds all that runs: it is installed alone and used from an empty folder."""

import os
import re
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from server.child import LISTENING_PREFIX, READY_LINE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DATA_SUFFIXES = {
    ".html",
    ".js",
    ".css",
    ".svg",
    ".flac",
    ".json",
    ".rttm",
    ".safetensors",
    ".typed",
}
START_SECONDS_MAX = 120


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    # From a copy: setuptools leaves a build folder behind, and would put old files from it in.
    listed = ["pyproject.toml", "README.md", "LICENSE", "NOTICE"]
    packages = ["streaming", "server", "clients", "load_tests"]
    files = [ROOT / name for name in listed]
    files += [path for package in packages for path in (ROOT / package).rglob("*")]
    for path in files:
        if path.is_file() and "__pycache__" not in path.parts:
            copy = source / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)
    return next(folder.glob("captiond-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--target", target, wheel)
    return target


def captiond(installed: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(installed / "bin" / "captiond"), *arguments]


def environment(installed: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CAPTIOND_")}
    return {**kept, "PYTHONPATH": str(installed)}


def output_of(installed: Path, folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        captiond(installed, *arguments),
        cwd=folder,
        env=environment(installed),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def url(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ready server with scripted engines, run from an empty folder."""
    process = subprocess.Popen(
        captiond(installed, "serve", "--asr", "scripted", "--diarizer", "none", "--port", "0"),
        cwd=tmp_path_factory.mktemp("empty"),
        env=environment(installed),
        stdout=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(START_SECONDS_MAX, process.kill)
    watchdog.start()
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if lines[-1] == READY_LINE:
            break
    watchdog.cancel()
    try:
        assert lines[-1:] == [READY_LINE], "the server did not start; its log is above"
        yield lines[0].removeprefix(LISTENING_PREFIX)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_every_module_and_every_data_file_is_in_the_wheel(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for package in ("streaming", "server", "clients", "load_tests")
        for path in (ROOT / package).rglob("*")
        if path.suffix in DATA_SUFFIXES | {".py"}
    }
    assert ours - packed == set()


def test_the_wheel_carries_its_licence(wheel: Path) -> None:
    packed = {Path(name).name for name in zipfile.ZipFile(wheel).namelist()}
    assert {"LICENSE", "NOTICE"} <= packed


def test_the_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    assert re.fullmatch(r"captiond \d+\.\d+\.\d+\n", output_of(installed, tmp_path, "--version"))


def test_the_command_explains_its_options(installed: Path, tmp_path: Path) -> None:
    assert "--api-keys-file" in output_of(installed, tmp_path, "serve", "--help")


def test_the_server_of_the_wheel_is_alive(url: str) -> None:
    with urlopen(f"{url}/healthz") as answer:
        assert answer.status == 200


def test_the_caption_page_and_all_that_it_loads_are_served(url: str) -> None:
    with urlopen(f"{url}/") as answer:
        page = answer.read().decode()
    loaded = re.findall(r'(?:src|href)="(/?static/[^"]+)"', page)
    assert loaded
    for path in loaded:
        with urlopen(f"{url}/{path.removeprefix('/')}") as answer:
            assert answer.read()
