"""Rows of somebody's data that cannot be used: counted, shown by example, and too many of them refused."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from zoo.errors import UserError

logger = logging.getLogger("zoo")

MOST_CORRUPT = 0.05  # of the rows may be left out; more says that the file, or what it was taken for, is wrong
HOPELESS_ROWS = 1000  # after so many, more than half of them corrupt, the rest of the file is not worth the wait
INVALID_UTF8 = "invalid UTF-8"


@dataclass
class Problems:
    """What was met while rows were read: by the reader of the file, and by whoever goes on to use them.

    Attributes:
        seen: rows so far, good and bad.
        reasons: how many of them cannot be used, by reason: few different ones, so nothing of the row in them.
        examples: the first three, with their place.
        is_utf8: some text beyond ASCII was valid UTF-8, so that what is not is the exception.
    """

    seen: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    is_utf8: bool = False
    _path: Path = Path()
    _line: int | None = None

    @property
    def where(self) -> str:
        """The place of the row that was read last, `file:line`, for `add`."""
        return f"{self._path}" if self._line is None else f"{self._path}:{self._line}"

    @property
    def unusable(self) -> int:
        return self.reasons.total()

    def see(self, path: Path, line: int | None = None, rows: int = 1) -> None:
        """Count the next row; `line`, from 1, is where it starts, or its number in a file that has no lines."""
        self._path, self._line = path, line
        self.seen += rows

    def add(self, where: str, reason: str, rows: int = 1) -> None:
        """Count a row that was seen as one that cannot be used.

        Raises:
            UserError: it is hopeless: more than half of more than a thousand rows are like this.
        """
        self.reasons[reason] += rows
        if len(self.examples) < 3:
            self.examples.append(f"{where}: {reason}")
        if self.seen > HOPELESS_ROWS and self.unusable > self.seen / 2:
            self._refuse()

    def require_few(self) -> None:
        """Raise UserError if more rows cannot be used than `MOST_CORRUPT`; to be called once all of them are read."""
        if self.seen and self.unusable / self.seen > MOST_CORRUPT:
            self._refuse()

    def warn(self) -> None:
        """Say in one line what is left out, if anything is."""
        if self.unusable:
            logger.warning("left out: %s", self.describe())

    def _refuse(self) -> NoReturn:
        raise UserError(f"{self.describe()}; correct the data, since no more than {MOST_CORRUPT:.0%} may be left out")

    def describe(self) -> str:
        """How many cannot be used, why, and some of them, in a line; there must be any."""
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in self.reasons.most_common(3))
        more = " and others" if len(self.reasons) > 3 else ""
        return (
            f"{self.unusable:,} of {self.seen:,} rows ({self.unusable / self.seen:.1%}) cannot be used: "
            f"{reasons}{more}, for example {', '.join(self.examples)}{self._encoding()}"
        )

    def _encoding(self) -> str:
        if INVALID_UTF8 not in self.reasons:
            return ""
        if self.is_utf8:
            return "; encodings are mixed: other text in it is valid UTF-8"
        return (
            "; all text in it beyond ASCII is in another encoding than UTF-8: convert it first, "
            "for instance with `iconv -f LATIN1 -t UTF-8`"
        )


def printable(name: str) -> str:
    """A name as it is, or quoted where it holds what cannot be printed, such as the end of a line."""
    return name if name.isprintable() else ascii(name)
