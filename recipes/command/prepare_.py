"""`zoo prepare --data PATH... --out SHARDS`: text tokenised once, for many runs."""

import dataclasses
import json
import re
from pathlib import Path

from recipes.command.parsing import parse
from recipes.data.preparation import EVERYTHING, Prepared, Share, prepare
from recipes.data.text import open_corpus
from recipes.engine.origin import find_tokenizer
from zoo.errors import UserError
from zoo.files import require_outside

MOST_SHARDS = 256  # of a split: a training has all of them open


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Tokenise text once, for many runs: zoo train gpt-pretrain and bert-pretrain take SHARDS as their --data, and
    train on it as on the text itself.

    The same command goes on where it was stopped. --shard lets several machines, or processes, share the work.
    """

    data: tuple[Path, ...]
    """Text files, tables with a text in each row, and folders of them."""
    out: Path
    """Directory to make, or to go on in."""
    tokenizer: str = "bpe"
    """bpe, wordpiece or char, trained on the data; or the directory of a model or a tokenizer."""
    vocabulary_size: int = 8192
    """Tokens of a tokenizer that is trained."""
    text_column: str | None = None
    """Column of the text in tables; guessed where its name is plain."""
    validation_data: Path | None = None
    """Held-out text; without it a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the data to hold out: whole files of several, the end of a single one."""
    shards: int = 8
    """Files to write the training text to; the held-out text has as many as make them about as large."""
    shard: str | None = None
    """Write only every n-th shard, from the i-th on: i/n, such as 2/4 on the second machine of four."""
    force: bool = False
    """Replace what is in --out if it was prepared otherwise, or from other data."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"--validation-fraction is {self.validation_fraction}, and must be between 0 and 1")
        if not 1 <= self.shards <= MOST_SHARDS:
            raise UserError(f"--shards is {self.shards}, and must be from 1 to {MOST_SHARDS}")
        if self.shard is not None and self.force:
            raise UserError("--force would throw away what the other machines write: leave out --shard, or --force")
        _ = self.share

    @property
    def share(self) -> Share:
        """What `shard` says."""
        if self.shard is None:
            return EVERYTHING
        match = re.fullmatch(r"([1-9]\d{0,3})/([1-9]\d{0,3})", self.shard)
        if match is None or int(match[1]) > int(match[2]):
            raise UserError(f"--shard is {self.shard!r:.40}, and must be i/n, from 1/n to n/n, such as 2/4")
        return Share(int(match[1]), int(match[2]))


def run(arguments: list[str]) -> int:
    settings = parse(Prepare, arguments, "zoo prepare")
    tokenizer = find_tokenizer(settings.tokenizer, settings.vocabulary_size)
    require_outside(settings.out, (*settings.data, settings.validation_data, Path(settings.tokenizer)))
    corpus = open_corpus(settings.data, settings.validation_data, settings.validation_fraction, settings.text_column)
    prepared = prepare(corpus, tokenizer, settings.out, settings.shards, settings.share, settings.force)
    if settings.json:
        print(json.dumps(dataclasses.asdict(prepared)))
    else:
        _print(prepared)
    return 0


def _print(prepared: Prepared) -> None:
    missing = f"; {prepared.missing} are missing" if prepared.missing else ""
    print(
        f"{prepared.directory}: {prepared.tokens:,} tokens of {prepared.bytes / 1e6:,.1f} MB in {prepared.shards} "
        f"shards, {prepared.written} of them written in {prepared.seconds:,.1f} s, "
        f"{prepared.megabytes_per_second:.2f} MB/s{missing}"
    )
