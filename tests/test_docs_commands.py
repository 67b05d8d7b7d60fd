"""``docs/commands.md`` lists every command with its flags; commands that are shown really run.

``test_docs_readme.py`` parses the ``captiond`` lines of all pages; here what else is shown is
checked against the program that it names, and what is quick and harmless is run.
"""

import inspect
import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from clients.stream_command import DEFAULT_URL
from server.commands import app
from server.config import Settings, variable_of

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "commands.md").read_text("utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OTHERS_MODULES = {"json.tool", "pytest", "venv"}
"""Shown as ``python -m``, and not ours to check."""
QUICK = {"config", "doctor", "--help", "--version"}
"""Commands of captiond that end by themselves within seconds and change nothing."""


def group() -> TyperGroup:
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    return found


COMMANDS = sorted(group().commands)


def own_parameters(name: str) -> list[Any]:
    """Without the settings, which some commands take all of: ``docs/configuration.md`` has them."""
    parameters = group().commands[name].params
    takes_settings = Settings.model_fields.keys() <= {parameter.name for parameter in parameters}
    hidden = Settings.model_fields if takes_settings else {}
    return [parameter for parameter in parameters if parameter.name not in hidden]


def flag_text(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper()).strip("[]").replace("|", "\\|")
    return " ".join([parameter.opts[0], *parameter.secondary_opts])


def documented_row(parameter: Any) -> str:
    """As it should stand in the table of its command."""
    default = parameter.default
    shown = getattr(default, "value", default)
    has_default = isinstance(shown, str | int | float) and not isinstance(shown, bool)
    variable = f"`{parameter.envvar}`" if parameter.envvar else ""
    text = (parameter.help or "").replace("|", "\\|")
    default_text = f"`{shown}`" if has_default else ""
    return f"| `{flag_text(parameter)}` | {variable} | {default_text} | {text} |"


def section(name: str) -> str:
    found = re.search(rf"^## captiond {name}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/commands.md has no section on captiond {name}"
    return found[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_section_with_its_flags(name: str) -> None:
    wanted = [documented_row(parameter) for parameter in own_parameters(name)]
    found = [line for line in section(name).splitlines() if line.startswith("| `")]
    assert [row for row in wanted if row not in found] == [], "add these rows"
    assert [row for row in found if row not in wanted] == [], "remove these rows"


def test_there_is_no_section_on_a_command_that_is_none() -> None:
    assert sorted(re.findall(r"^## captiond (\S+)$", PAGE, re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_flag(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    result = CliRunner().invoke(app, [name, "--help"], terminal_width=400)
    assert result.exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.output)
    for parameter in group().commands[name].params:
        if parameter.param_type_name == "option":
            assert all(flag in text for flag in (*parameter.opts, *parameter.secondary_opts))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_says_of_each_command_what_its_help_says(name: str) -> None:
    help_text = inspect.cleandoc(group().commands[name].help or "").split("\n\n")[0]
    assert " ".join(help_text.split()) in " ".join(section(name).split())


def test_the_default_server_is_the_one_that_serve_starts() -> None:
    assert f"ws://{Settings().host}:{Settings().port}" == DEFAULT_URL


def variables_read() -> set[str]:
    """Environment variables that our code asks for by name; not those that it only sets."""
    pattern = re.compile(
        r"""environ(?:ment)?(?:\.get|\.pop)?[\[(]\s*["']([A-Z][A-Z_]+)["'](?!\]\s*=[^=])"""
    )
    files = [p for folder in ("server", "clients") for p in (ROOT / folder).rglob("*.py")]
    envvars = re.compile(r"""envvar=["']([A-Z_]+)["']""")
    texts = [path.read_text("utf-8") for path in files]
    return {name for text in texts for find in (pattern, envvars) for name in find.findall(text)}


PYTHONS_OWN = {"PYTHONPATH", "XDG_CACHE_HOME"}


def test_every_environment_variable_is_documented() -> None:
    names = variables_read() | {variable_of(field) for field in Settings.model_fields}
    assert {"CAPTIOND_API_KEY", "HF_HUB_OFFLINE", "CAPTIOND_PORT"} <= names
    pages = "\n".join(page.read_text("utf-8") for page in PAGES)
    assert sorted(name for name in names - PYTHONS_OWN if name not in pages) == []


# Commands as they are shown


@cache
def shown_commands() -> list[tuple[str, str]]:
    """Page and line of every command in a shell block; continued lines joined, comments gone."""
    found = []
    for page in PAGES:
        text = page.read_text("utf-8")
        for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.sub(r"(^|\s)#.*$", "", line).strip().removeprefix("$ ")
                if command:
                    found.append((page.relative_to(ROOT).as_posix(), command))
    return found


def words_of(command: str) -> list[str]:
    """Of one of our programs in the line, without variables before it and what is done with it."""
    if not re.match(r"([A-Z_]+=\S+ )*(\.venv/bin/)?(captiond|make|python)\b", command):
        return []
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words = list(itertools.takewhile(lambda word: not set(word) <= set("|&;<>"), lexer))
    return list(itertools.dropwhile(lambda word: re.match(r"^[A-Z_]+=", word), words))


def shown(program: str) -> list[list[str]]:
    """Distinct calls of one program, its own name left out."""
    calls = {tuple(words_of(command)) for _, command in shown_commands()}
    return sorted([*call[1:]] for call in calls if call and Path(call[0]).name == program)


MODULES = [call for call in shown("python") if call[:1] == ["-m"] and call[1] not in OTHERS_MODULES]


def flags_in(call: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in call if word.startswith("--") and word != "--"}


@pytest.mark.slow
@pytest.mark.parametrize("module", sorted({call[1] for call in MODULES}))
def test_modules_that_are_shown_have_the_flags_that_are_shown(module: str) -> None:
    wanted = set().union(*(flags_in(call) for call in MODULES if call[1] == module))
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists() or (
        ROOT / module.replace(".", "/") / "__main__.py"
    ).exists()
    if not wanted:
        return
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(flag for flag in wanted if flag not in done.stdout) == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")
@pytest.mark.parametrize("call", [*shown("make"), ["help"]], ids=shlex.join)
def test_make_knows_what_is_shown(call: list[str]) -> None:
    """Its recipes are printed, not run."""
    done = subprocess.run(
        ["make", "--dry-run", *call], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


QUICK_CALLS = [
    call
    for call in [*shown("captiond"), ["--help"], ["--version"]]
    if call and call[0] in QUICK and "first" not in call
]


@pytest.mark.parametrize("call", [c for c in QUICK_CALLS if c[0] != "doctor"], ids=shlex.join)
def test_quick_commands_that_are_shown_run(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_as_shown(call, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("call", [c for c in QUICK_CALLS if c[0] == "doctor"], ids=shlex.join)
def test_doctors_that_are_shown_run(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_as_shown(call, tmp_path)


def run_as_shown(call: list[str], folder: Path) -> None:
    """In an empty folder; a settings file that the reader has is an empty one."""
    settings = folder / "captiond.toml"
    settings.write_text("")
    words = [str(settings) if word.endswith("captiond.toml") else word for word in call]
    if "none" in words:  # shown for its refusal
        return
    # A doctor's verdict is this machine's; that it gives one is what is checked.
    result = CliRunner().invoke(app, words)
    assert result.exit_code in ((0, 1) if words[0] == "doctor" else (0,)), result.output
    assert result.output.strip()


def deployed_commands() -> list[list[str]]:
    """What the units and the containers start, after the program's name."""
    unit = (ROOT / "deploy" / "captiond.service").read_text("utf-8")
    compose = (ROOT / "deploy" / "compose.yaml").read_text("utf-8")
    started = [
        shlex.split(line)[1:] for line in re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    ]
    started += [
        json.loads(line) for line in re.findall(r"^ +command: (.+)$", compose, re.MULTILINE)
    ]
    return started


@pytest.mark.parametrize("words", deployed_commands(), ids=shlex.join)
def test_what_is_deployed_parses(words: list[str]) -> None:
    group().commands[words[0]].make_context(words[0], words[1:])


def test_variables_of_the_unit_are_settings() -> None:
    unit = (ROOT / "deploy" / "captiond.service").read_text("utf-8")
    named = set(re.findall(r"^Environment=(CAPTIOND_\w+)=", unit, re.MULTILINE))
    assert named
    assert named <= {variable_of(field) for field in Settings.model_fields}
    socket_unit = (ROOT / "deploy" / "captiond.socket").read_text("utf-8")
    assert f"\nListenStream={Settings().host}:{Settings().port}\n" in socket_unit


def test_the_readers_of_the_pages_find_what_is_there() -> None:
    """So that a change of the pages' form cannot empty the tests above."""
    assert len(shown("captiond")) > 10
    assert len(shown("make")) > 5
    assert MODULES
    assert {call[0] for call in QUICK_CALLS} == QUICK
