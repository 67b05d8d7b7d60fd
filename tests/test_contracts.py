"""What the code promises about itself: sizes, who may import whom, and a few banned calls.

Each rule reads the source of one file and yields complaints that name the line to change. The
second half of the file shows that each rule can fail. One test imports the server for real.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("streaming", "server", "clients", "load_tests", "tests", "tools")
SUFFIXES = {".py", ".js", ".css", ".html"}

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500

STREAMING_ORDER = (
    *(
        "timeline",
        "errors",
        "engines",
        "events",
        "tuning_ranges",
        "session_options",
        "wire",
        "stats",
        "audio",
        "intake",
        "buffer",
    ),
    *("endpointing", "windows", "agreement", "guards", "partials", "tuning"),
    *("turns", "placing", "stitching", "clustering", "speakers", "grid_speakers", "attribution"),
    *(
        "captions",
        "scripted_audio",
        "listening",
        "recognition",
        "handover",
        "speech_times",
        "eventlog",
        "delays",
        "jobs",
    ),
    *(
        "publishing",
        "asking",
        "diarizing",
        "lagging",
        "lane",
        "resting",
        "departure",
        "reading",
        "acking",
        "naming",
        "closing",
        "checkpoint",
        "keeping",
        "session",
        "batching",
        "pacing",
        "suspicion",
        "retrying",
        "stalling",
        "exports",
    ),
)
"""A module of ``streaming/`` imports only from modules that stand before it here."""

PURE_STANDARD_LIBRARY = {
    *(
        "abc",
        "array",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "fractions",
        "functools",
        "heapq",
    ),
    *("itertools", "math", "operator", "re", "string", "struct", "types", "typing", "unicodedata"),
}
EXTRA_IMPORTS_OF_STREAMING = {
    "streaming/audio.py": {"soxr"},
    "streaming/checkpoint.py": {"pydantic", "zlib"},
    "streaming/clustering.py": {"scipy.optimize"},
    "streaming/guards.py": {"zlib"},
    "streaming/session_options.py": {"pydantic"},
    "streaming/wire.py": {"orjson", "pydantic"},
    "streaming/exports/json_.py": {"orjson"},
    "streaming/exports/seglst.py": {"orjson"},
}
IMPURE_BUILTINS = {"open", "input", "print", "exec", "eval", "__import__"}

STREAMING_FOR_CLIENTS = {
    f"streaming.{module}" for module in ("wire", "exports", "errors", "events", "timeline")
}
HEAVY = {"torch", "torchaudio", "transformers", "pyannote.audio", "onnxruntime", "pocketsphinx"}
EVALUATION = "server/evaluation"
"""A client of the server with metrics' libraries, run by ``captiond eval`` alone."""
ENGINE_FILES_OF_THE_FRONT = {"__init__.py", "errors.py", "registry.py", "selection.py"}

UNPICKLERS = {"cloudpickle", "dill", "jsonpickle", "marshal", "shelve"}
PICKLE_ERRORS = {"PickleError", "PicklingError", "UnpicklingError"}
SECRET_NAME = re.compile(r"(^|_)(token|secret|password|api_key|presented|(token|key)_hash)$")
MARKER = re.compile(r"\b(T[O]DO|F[I]XME|X[X]X)\b")


@dataclass(frozen=True)
class Source:
    """One file by its path from the root, such as ``streaming/exports/srt.py``."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text if self.name.endswith(".py") else "", filename=self.name)

    @cached_property
    def imports(self) -> list[tuple[int, str]]:
        """Line and dotted name of each import, at any level; ``from a import b`` is ``a.b``."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(node.lineno, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = "." * node.level + (node.module or "")
                found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        return found

    def is_in(self, *folders: str) -> bool:
        return any(PurePosixPath(self.name).is_relative_to(folder) for folder in folders)


Complaints = Iterator[tuple[int, str]]
Rule = Callable[[Source], Complaints]


@cache
def sources() -> list[Source]:
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*")))
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))
        for path in paths
        if path.suffix in SUFFIXES
    ]


def is_within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


# Sizes


def functions_are_short(source: Source) -> Complaints:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines; split it by meaning"


def files_are_short(source: Source) -> Complaints:
    lines = len(source.text.splitlines())
    if lines > FILE_LINES_MAX:
        yield lines, f"{lines} lines; split the file by meaning"


def nothing_is_put_off(source: Source) -> Complaints:
    for number, line in enumerate(source.text.splitlines(), 1):
        if MARKER.search(line):
            yield number, "do it, or open an issue"


# streaming/: pure, and in one order


def streaming_is_pure(source: Source) -> Complaints:
    if source.is_in("streaming"):
        allowed = {"streaming", "numpy"} | EXTRA_IMPORTS_OF_STREAMING.get(source.name, set())
        for line, name in source.imports:
            is_pure = name.split(".")[0] in PURE_STANDARD_LIBRARY or is_within(name, allowed)
            if not is_pure or is_within(name, {"numpy.random"}):
                yield line, f"imports {name}; what waits, draws lots or does I/O is not for here"


def streaming_touches_no_file(source: Source) -> Complaints:
    if source.is_in("streaming"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS:
                yield node.lineno, f"uses {node.id}"


def streaming_imports_from_earlier_modules(source: Source) -> Complaints:
    if source.is_in("streaming") and source.name != "streaming/__init__.py":
        own = source.name.split("/")[1].removesuffix(".py")
        earlier = STREAMING_ORDER[: STREAMING_ORDER.index(own)]
        for line, name in source.imports:
            if name.startswith("streaming."):
                other = name.split(".")[1]
                if other not in earlier and not other == own == "exports":
                    yield line, f"imports {name}, which comes later in the order"


# server/ and clients/: who may know whom


def clients_know_the_protocol_only(source: Source) -> Complaints:
    if source.is_in("clients"):
        for line, name in source.imports:
            is_ours = is_within(name, set(PACKAGES)) or name.startswith(".")
            if is_ours and not is_within(name, STREAMING_FOR_CLIENTS | {"clients"}):
                yield line, f"imports {name}"


def only_commands_use_a_client(source: Source) -> Complaints:
    if source.is_in("server") and not source.is_in("server/commands", EVALUATION):
        for line, name in source.imports:
            if is_within(name, {"clients", "load_tests", "tests", "tools"}):
                yield line, f"imports {name}"


def only_engines_import_models(source: Source) -> Complaints:
    of_the_front = source.name.split("/")[-1] in ENGINE_FILES_OF_THE_FRONT
    is_engine = source.is_in("server/engines") and not of_the_front
    is_allowed = is_engine or source.is_in(EVALUATION)
    if source.is_in("server", "clients", "load_tests") and not is_allowed:
        for line, name in source.imports:
            if is_within(name, HEAVY):
                yield line, f"imports {name}"


def no_server_process_imports_the_evaluation(source: Source) -> Complaints:
    is_its_own = source.is_in(EVALUATION, "load_tests/bench") or source.name in (
        "server/commands/calibrate.py",
        "server/commands/evaluate.py",
    )
    if source.is_in("server", "clients", "load_tests") and not is_its_own:
        for line, name in source.imports:
            if is_within(name, {"server.evaluation"}):
                yield line, f"imports {name}, which drives a server from outside"


# Banned calls


def only_worker_frames_are_unpickled(source: Source) -> Complaints:
    if source.is_in("tests") or source.name == "server/worker_frames.py":
        return
    for line, name in source.imports:
        if is_within(name, UNPICKLERS) or name.startswith("pickle."):
            yield line, f"imports {name}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute):
            what = ast.unparse(node)
            if what.startswith("pickle.") and node.attr not in PICKLE_ERRORS:
                yield node.lineno, f"uses {what}"
            if what == "yaml.load":
                yield node.lineno, "yaml.safe_load"


def torch_loads_weights_only(source: Source) -> Complaints:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if words.get("weights_only") != "True":
                yield node.lineno, "torch.load without weights_only=True"


def secrets_are_compared_in_constant_time(source: Source) -> Complaints:
    if not source.is_in("server") or source.is_in("server/engines"):
        return
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Compare):
            names = [ast.unparse(part).split(".")[-1] for part in (node.left, *node.comparators)]
            is_timed = any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
            if is_timed and any(SECRET_NAME.search(name) for name in names):
                yield node.lineno, "compare with hmac.compare_digest"


def a_broad_except_says_why(source: Source) -> Complaints:
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "BaseException"
            is_broad = "Exception" in re.findall(r"\b(?:Base)?(Exception)\b", caught)
            again = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            reason = re.search(r"# noqa: BLE001\W+\w+ \w+", lines[node.lineno - 1])
            if is_broad and not again and not reason:
                yield node.lineno, "catch less, or say why after the noqa"


RULES: list[tuple[Rule, str, str]] = [
    # rule, a file that breaks it, and how
    (functions_are_short, "server/a.py", "def f():\n" + "    pass\n" * 70),
    (files_are_short, "clients/web/a.js", "//\n" * 501),
    (nothing_is_put_off, "clients/web/a.css", "/* {}: later */".replace("{}", "TO" + "DO")),
    (streaming_is_pure, "streaming/lane.py", "def f():\n    import asyncio"),
    (streaming_is_pure, "streaming/lane.py", "from server import app"),
    (streaming_is_pure, "streaming/lane.py", "import orjson"),
    (streaming_is_pure, "streaming/lane.py", "from numpy import random"),
    (streaming_touches_no_file, "streaming/lane.py", "data = open('a').read()"),
    (streaming_imports_from_earlier_modules, "streaming/lane.py", "from streaming import session"),
    (streaming_imports_from_earlier_modules, "streaming/lane.py", "import streaming.lane"),
    (clients_know_the_protocol_only, "clients/a.py", "from streaming.session import Session"),
    (clients_know_the_protocol_only, "clients/a.py", "from server.config import Settings"),
    (clients_know_the_protocol_only, "clients/a.py", "from ..server import config"),
    (only_commands_use_a_client, "server/app.py", "from clients.stream import CaptionStream"),
    (only_engines_import_models, "server/app.py", "def f():\n    import torch.nn"),
    (only_engines_import_models, "server/engines/registry.py", "from pyannote.audio import Model"),
    (no_server_process_imports_the_evaluation, "server/a.py", "from server.evaluation import run"),
    (only_worker_frames_are_unpickled, "server/app.py", "import pickle\npickle.loads(b'')"),
    (only_worker_frames_are_unpickled, "server/app.py", "from pickle import loads"),
    (only_worker_frames_are_unpickled, "tools/a.py", "import yaml\nyaml.load(text)"),
    (torch_loads_weights_only, "server/engines/a.py", "torch.load(path)"),
    (secrets_are_compared_in_constant_time, "server/auth.py", "token == record.resume_token"),
    (a_broad_except_says_why, "server/a.py", "try:\n  f()\nexcept Exception:\n  pass"),
    (a_broad_except_says_why, "server/a.py", "try:\n  f()\nexcept:\n  pass"),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _, _ in RULES))
def test_the_code_keeps_the_rule(rule: Rule) -> None:
    complaints = [
        f"{source.name}:{line}: {complaint}"
        for source in sources()
        for line, complaint in rule(source)
    ]
    assert complaints == []


@pytest.mark.parametrize(("rule", "name", "text"), RULES)
def test_the_rule_can_fail(rule: Rule, name: str, text: str) -> None:
    assert list(rule(Source(name, text)))


def test_the_rules_see_every_package() -> None:
    assert {source.name.split("/")[0] for source in sources()} == set(PACKAGES)


def test_the_order_names_every_module_of_streaming() -> None:
    modules = {
        source.name.split("/")[1].removesuffix(".py")
        for source in sources()
        if source.is_in("streaming")
    }
    assert sorted(modules - {"__init__"}) == sorted(STREAMING_ORDER)


@pytest.mark.parametrize("package", ["streaming", "server", "clients"])
def test_the_map_of_a_package_names_every_module(package: str) -> None:
    init = next(source for source in sources() if source.name == f"{package}/__init__.py")
    named = re.findall(r"^- (``.*?``):|\. (``\w+``(?:, ``\w+``)*):", _docstring(init), re.MULTILINE)
    listed = re.findall(r"``(\w+)``", " ".join(first or second for first, second in named))
    modules = {
        source.name.split("/")[1].removesuffix(".py")
        for source in sources()
        if source.is_in(package) and source.name.endswith(".py")
    }
    assert sorted(listed) == sorted(modules - {"__init__"})


def test_the_map_of_streaming_is_in_the_order_of_imports() -> None:
    init = next(source for source in sources() if source.name == "streaming/__init__.py")
    assert re.findall(r"^- ``(\w+)``:", _docstring(init), re.MULTILINE) == list(STREAMING_ORDER)


def _docstring(source: Source) -> str:
    return ast.get_docstring(source.tree) or ""


def test_the_front_process_never_loads_a_model_library() -> None:
    script = (
        "import sys, server.app, server.commands\n"
        f"print([name for name in {sorted(HEAVY)!r} if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
