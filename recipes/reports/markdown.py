"""Somebody's text in a page of Markdown."""

import re

LONGEST_TEXT = 300  # characters
_MARKUP = re.compile(r"([\\`*_~\[\]|#])")


def cell(text: str) -> str:
    """A text as the cell of a table of Markdown."""
    return shorten(" ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;"))


def escape(text: str) -> str:
    """A text on one line, in which nothing is markup."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")


def shorten(text: str) -> str:
    """A text, cut at its end where it is long."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
