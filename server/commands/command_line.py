"""How ``captiond`` complains of its own command line: in one line, with the nearest right word."""

import functools
import re
import sys
from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import Abort, TyperException

from server.settings_sources import nearest

INTERRUPTED = 130


class OneLineErrors(TyperGroup):
    """In place of typer's framed box, which log collectors and scripts cannot read."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        run = functools.partial(super().main, words, prog_name, complete_var, False)
        if not standalone_mode:
            return run(windows_expand_args, **extra)
        try:
            code = run(windows_expand_args, **extra)
        except TyperException as error:
            self._complain(error, words)
            code = error.exit_code
        except Abort:
            code = INTERRUPTED
        sys.exit(code)

    def _complain(self, error: TyperException, words: list[str]) -> None:
        message = error.format_message().strip()
        if not message or "\n" in message:  # no arguments: the help, which may be out already
            print(message, end="")
            return
        name = next((word for word in words if word in self.commands), None)
        if unknown := re.match(r"No such option: (\S+)", message):
            known = _flags(self if name is None else self.commands[name])
            message = f"no such option: {unknown[1]}{nearest(unknown[1], known)}"
        asked = " ".join(filter(None, ("captiond", name, "--help")))
        sentence = message[:1].lower() + message[1:].rstrip(".")
        print(f"captiond: {sentence} ({asked} lists all)", file=sys.stderr)


def _flags(command: Any) -> list[str]:
    return [flag for param in command.params for flag in (*param.opts, *param.secondary_opts)]
