"""From the words of a command to a dataclass of settings, by `tyro`; a mistake in them becomes one line."""

import contextlib
import io
import re
import sys
from typing import TypeVar

import tyro

from zoo.errors import UserError

Settings = TypeVar("Settings")

# Nested settings are plain options, and a flag is there to be set, not to be unset.
MARKERS = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


def parse(kind: type[Settings], arguments: list[str], program: str, description: str | None = None) -> Settings:
    """Parse `arguments` as the fields of the dataclass `kind`, of which `--help` says its docstring, or `description`.

    Raises:
        UserError: they do not fit; the message is tyro's, on one line.
        SystemExit: help was asked for, and printed.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=program, args=arguments, config=MARKERS, description=description)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_first_part(complaint.getvalue())} ({program} --help tells more)") from None


def _first_part(box: str) -> str:
    """The text of tyro's framed message up to its first rule, on one line."""
    words: list[str] = []
    for line in box.splitlines()[1:]:
        text = re.sub("[╭╮╰╯│]", "", line).strip()
        if words and (not text or set(text) == {"─"}):
            break
        words.append(text)
    return " ".join(words)


def complain(message: str) -> int:
    """Tell of a mistake in one line on standard error; the exit code for it."""
    print(f"zoo: {' '.join(message.split())}", file=sys.stderr)
    return 2
