"""Text as a picture can show it: whatever a token holds, in characters that the font has."""

import functools
import unicodedata
from pathlib import Path

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font

# After matplotlib's own font, those that hold Chinese, Japanese, Korean and more, where they are installed.
FAMILIES = (
    "DejaVu Sans Mono",
    "DejaVu Sans",
    "Noto Sans Mono CJK JP",
    "Noto Sans CJK JP",
    "Noto Sans",
    "Source Han Sans",
    "Arial Unicode MS",
    "Unifont",
)
UNKNOWN = "\N{WHITE SQUARE}"
SHOWN = {
    "\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}",
    "\t": "\N{RIGHTWARDS ARROW}",
    " ": "\N{OPEN BOX}",
}
LONGEST_TOKEN = 24  # characters


@functools.cache
def families() -> tuple[str, ...]:
    """The names of the fonts there are, the one to be tried first in front."""
    installed = set(font_manager.get_font_names())
    return tuple(name for name in FAMILIES if name in installed)


@functools.cache
def _characters() -> frozenset[int]:
    found: set[int] = set()
    for name in families():
        path = font_manager.findfont(FontProperties(family=name))
        found |= FT2Font(str(Path(path))).get_charmap().keys()
    return frozenset(found)


def letter(text: str) -> str:
    """A text with a box for each character that no font has, and its control characters named."""
    return "".join(_letter(character) for character in text)


def letter_token(token: str) -> str:
    """A token on one line, its white space visible, shortened where it is very long."""
    shown = letter("".join(SHOWN.get(character, character) for character in token))
    return shown if len(shown) <= LONGEST_TOKEN else shown[: LONGEST_TOKEN - 1] + "\N{HORIZONTAL ELLIPSIS}"


def measure(text: str) -> int:
    """The width in columns of a fixed-width font."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" and c != UNKNOWN else 1
        for c in text
    )


def wrap(text: str, columns: int) -> list[str]:
    """Lines of at most so many columns; a word that is longer is cut."""
    lines: list[str] = []
    for word in text.split():
        for part in (word[i : i + columns] for i in range(0, len(word), columns)):
            if lines and measure(lines[-1]) + 1 + measure(part) <= columns:
                lines[-1] += f" {part}"
            else:
                lines.append(part)
    return lines


def _letter(character: str) -> str:
    if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs"):
        return f"<{ord(character):X}>"
    return character if ord(character) in _characters() else UNKNOWN
