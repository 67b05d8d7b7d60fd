"""``captiond doctor``: what would work here, what would not, and the command that closes each gap.

Exit codes: 0 captions would work, 1 they would not, 2 the settings are wrong.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.markup import escape

from server.commands.settings_flags import given_flags, with_settings_flags
from server.config import ConfigError
from server.doctor.checks import Finding, Level, examine, would_caption
from server.doctor.facts import gather_facts
from server.settings_sources import load_settings

WRONG_USAGE = 2
_STYLES = {Level.OK: "green", Level.NOTE: "cyan", Level.WARN: "yellow", Level.FAIL: "red"}


def _doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="An object: would_caption, and findings as a list.")
    ] = False,
    config: Path | None = None,
    **flags: Any,
) -> None:
    """Look at this machine: would serve work here, with these options, and how well?

    Takes the options of serve. Each gap comes with the command that closes it. Exit status 0:
    captions would work; 1: they would not.
    """
    try:
        settings = load_settings(config, given_flags(flags))
    except ConfigError as error:
        print(f"captiond: {error}", file=sys.stderr)
        raise SystemExit(WRONG_USAGE) from None
    findings = examine(asyncio.run(gather_facts(settings)))
    if as_json:
        print(as_object(findings))
    else:
        _print(findings)
    raise SystemExit(0 if would_caption(findings) else 1)


def as_object(findings: list[Finding]) -> str:
    rows = [
        {"name": f.name, "level": f.level.value, "text": f.text, "remedy": f.remedy}
        for f in findings
    ]
    fields = {"would_caption": would_caption(findings), "findings": rows}
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode()


def _print(findings: list[Finding]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        style = _STYLES[finding.level]
        console.print(
            f"[{style}]{finding.level.value:4}[/{style}]  {finding.name:{width}}  "
            f"{escape(finding.text)}"
        )
        if finding.remedy:
            console.print(f"{'':{width + 6}}  [dim]→ {escape(finding.remedy)}[/dim]")
    if would_caption(findings):
        console.print("\nCaptions would work here.")
    else:
        console.print("\nCaptions would not work here: see what failed above.")


doctor = with_settings_flags(_doctor, "doctor")
