"""Commands that the documents show exist and take these options; links lead somewhere.

Also holds: the index of documents, the form of ADRs, and facts that documents repeat from code.
"""

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from server.commands import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ADRS = sorted((ROOT / "docs" / "adr").glob("*.md"))

# Commands that are not ours: shown, but nothing here to check them against.
FOREIGN = {
    *(".", "apt-get", "bash", "cd", "cp", "curl", "docker", "echo", "export", "git", "grep"),
    *("head", "install", "kill", "mkdir", "openssl", "pip", "promtool", "python3", "rm", "sed"),
    *("sudo", "sqlite3", "systemctl", "umask", "unset"),
}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands_of(page: Path) -> list[str]:
    """The lines of all shell blocks, continued lines joined, comments gone."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    stripped = (re.sub(r"(^|\s)#.*$", "", line).strip().removeprefix("$ ") for line in lines)
    return [line for line in stripped if line]


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def check_command(line: str) -> None:
    """Raises: AssertionError, or typer's own error, where the command could not be run."""
    words = shlex.split(re.split(r"\s*(?:\||&&|>|&$)\s*", line)[0])
    while words and re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        assert {word for word in arguments if "=" not in word} <= make_targets(), line
    elif program == "captiond":
        check_captiond(arguments)
    elif program == "python" and arguments[0].endswith(".py"):
        pass  # a file that the page has the reader save: tests/test_docs_first_hour.py runs it
    elif program == "python" and arguments[0] == "-m":
        if arguments[1] == "json.tool":
            return
        package = arguments[1].replace(".", "/")
        is_ours = (ROOT / package).is_dir() or (ROOT / f"{package}.py").is_file()
        assert is_ours or package == "pytest", line
    else:
        assert program in FOREIGN, f"{line}: is {program} a command that readers have?"


def check_captiond(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    if arguments[0].startswith("-"):
        known = {option for parameter in group.params for option in parameter.opts}
        assert arguments[0] in known | {"--help"}
        return
    # Parses and checks the options as the command line would, and runs nothing.
    group.commands[arguments[0]].make_context(arguments[0], arguments[1:])


def every(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", paths, ids=named)


@every(PAGES)
def test_commands_that_are_shown_can_be_run(page: Path) -> None:
    for line in commands_of(page):
        check_command(line)


@pytest.mark.parametrize(
    "line",
    [
        "make coffee",
        "captiond brew",
        "captiond serve --milk",
        "captiond stream",
        "captiond stream a.flac --pace slow",
        "captiond --milk",
        "python -m load_test",
        "brew install captiond",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    with pytest.raises((AssertionError, KeyError, TyperException)):
        check_command(line)


def test_the_readme_shows_the_two_commands_first() -> None:
    shown = commands_of(ROOT / "README.md")
    assert [shlex.split(line) for line in shown[:2]] == [["make", "demo"], ["make", "test"]]


@every(PAGES)
def test_links_between_files_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{named(page)} links to {target}"
        if anchor:
            assert anchor in anchors_of(linked), f"{named(page)} links to {target}"


def anchors_of(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_names_every_document() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    linked = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)", index)}
    missing = [named(page) for page in (ROOT / "docs").rglob("*.md") if page not in linked]
    assert missing == ["docs/README.md"]


def test_adrs_are_numbered_without_a_gap() -> None:
    assert [int(page.name[:4]) for page in ADRS] == list(range(1, len(ADRS) + 1))


@every(ADRS)
def test_an_adr_is_one_page_in_four_parts(page: Path) -> None:
    text = page.read_text("utf-8")
    assert re.match(rf"# {int(page.name[:4])}\. .+\n\n\*\*Status\*\*: ", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.split()) <= 600


def test_invariants_that_the_architecture_cites_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    cited = re.findall(r"`(\w+)` ((?:[A-Z]\d(?:, )?)+)", text)
    assert cited
    for module, ids in cited:
        for number in re.findall(r"[A-Z]\d", ids):
            assert number in invariants_of(module), f"{module} {number}"


def invariants_of(module: str) -> set[str]:
    (path,) = (
        path
        for package in ("streaming", "server")
        for path in (ROOT / package / f"{module}.py",)
        if path.exists()
    )
    docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return set(re.findall(r"\b[A-Z]\d\b", docstring))


def test_bounds_in_the_limits_are_those_of_the_code() -> None:
    text = (ROOT / "docs" / "limits.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w.]+)\.([A-Z_]+)` \| ([\d,]+) ", text, re.MULTILINE)
    assert rows
    for module, name, value in rows:
        assert vars(importlib.import_module(module))[name] == int(value.replace(",", "")), name


def test_no_figure_is_left_to_be_filled_in() -> None:
    for page in PAGES:
        assert not re.search(r"\b(TBD|T[O]DO|X[X]X)\b", page.read_text("utf-8")), named(page)
