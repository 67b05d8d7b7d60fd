"""The deployed rules: what they record and alert on, checked, and a copy with faster time.

In the copy every duration (ranges of rates, ``for``) is shorter by one factor, and so must be the
interval of scrapes and evaluations: then five minutes of a live server pass in seconds, and nothing
else about a rule is another one.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus"
RULE_FILES = (RULES / "captiond.rules.yml", RULES / "captiond.alerts.yml")
TEST_FILES = tuple(sorted((RULES / "tests").glob("*.test.yml")))
CONFIG = RULES / "prometheus.yml"
SCRAPE_S = 15.0
"""Of the deployed configuration; a test compares."""
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_RANGE = re.compile(r"\[(\d+)(ms|s|m|h)\]")
_METRIC = re.compile(r"\b(?:captiond[:_][a-z0-9_:]+|process_[a-z_]+|up)\b")


@dataclass(frozen=True, slots=True)
class Rule:
    """One record or alert."""

    name: str
    expression: str
    is_alert: bool
    for_s: float
    runbook: str | None


def rules_in(files: Sequence[Path] = RULE_FILES) -> list[Rule]:
    """All of them, in their order."""
    found = []
    for path in files:
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            for rule in group["rules"]:
                is_alert = "alert" in rule
                found.append(
                    Rule(
                        rule["alert" if is_alert else "record"],
                        rule["expr"],
                        is_alert,
                        _milliseconds(rule.get("for", "0s")) / 1000,
                        rule.get("annotations", {}).get("runbook_url"),
                    )
                )
    return found


def metrics_in(expression: str) -> set[str]:
    """Names of series that a query asks for."""
    return set(_METRIC.findall(re.sub(r'"[^"]*"', '""', expression)))


def faster(files: Sequence[Path], factor: int, folder: Path) -> list[Path]:
    """Copies in which time passes ``factor`` times as fast."""
    copies = []
    for path in files:
        document = yaml.safe_load(path.read_text("utf-8"))
        for group in document["groups"]:
            for rule in group["rules"]:
                rule["expr"] = in_faster_time(rule["expr"], factor)
                if "for" in rule:
                    rule["for"] = _shorter(rule["for"], factor)
        copies.append(folder / path.name)
        copies[-1].write_text(yaml.safe_dump(document, sort_keys=False))
    return copies


def in_faster_time(expression: str, factor: int) -> str:
    """The query with its ranges shortened."""
    return _RANGE.sub(lambda found: f"[{_shorter(found[1] + found[2], factor)}]", expression)


def _shorter(duration: str, factor: int) -> str:
    return f"{_milliseconds(duration) // factor}ms"


def _milliseconds(duration: str) -> int:
    parts = re.findall(r"(\d+)(ms|s|m|h)", duration)
    return sum(int(number) * _UNIT_MS[unit] for number, unit in parts)


def promtool_complaints() -> list[str]:
    """Of configuration, rules and their unit tests; empty where all is well."""
    commands = [
        ["promtool", "check", "config", str(CONFIG)],
        ["promtool", "check", "rules", *map(str, RULE_FILES)],
        ["promtool", "test", "rules", *map(str, TEST_FILES)],
    ]
    complaints = []
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            complaints.append(f"{' '.join(command[:3])}: {done.stdout}{done.stderr}".strip())
    return complaints


def complaints_about_metrics(page: str) -> list[str]:
    """What ``promtool check metrics`` says of a server's page."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False
    )
    return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()
