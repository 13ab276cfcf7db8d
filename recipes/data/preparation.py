"""Tokenising a corpus once, for many runs: into shards that are written one by one, on one machine or on many."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recipes.data.documents import Reading
from recipes.data.packing import TokenizerTraining, count_bytes, train_on
from recipes.data.plan import Plan, Shard, make_plan, plan_shards, read_plan
from recipes.data.problems import HOPELESS_ROWS
from recipes.data.shards import load_tokenizer, read_counts, require_usable, write_counts
from recipes.data.text import PLAN, Corpus, is_prepared
from recipes.data.tokens import Progress, write_tokens
from zoo.errors import UserError
from zoo.files import remove_remains, require_free, whole_directory, whole_file
from zoo.text import Tokenizer


class Share(NamedTuple):
    """Every `of`-th shard, from the `number`-th on, which is counted from 1."""

    number: int = 1
    of: int = 1


EVERYTHING = Share()


@dataclass(frozen=True)
class Prepared:
    """How far a directory of shards is.

    Attributes:
        directory: where they are.
        shards: how many there are to be.
        written: how many of them were written now.
        missing: how many are not there yet.
        tokens: in those that are there.
        bytes: of the texts that these stand for.
        vocabulary_size: of the tokenizer.
        seconds: that the tokenising took.
        megabytes_per_second: of text, in that time.
    """

    directory: str
    shards: int
    written: int
    missing: int
    tokens: int
    bytes: int
    vocabulary_size: int
    seconds: float
    megabytes_per_second: float


def prepare(
    corpus: Corpus,
    request: TokenizerTraining | Tokenizer,
    out: Path,
    count: int,
    share: Share = EVERYTHING,
    force: bool = False,
) -> Prepared:
    """Encode a corpus into shards, those that are not there yet. Each appears whole, with its record behind it, so that
    a call that was killed is made good by the same call again.

    Args:
        corpus: what to read.
        request: the tokenizer, or what to train on the training text.
        out: the directory, which is made, or gone on with.
        count: shards of the training text; see `plan_shards`.
        share: which of the shards to write.
        force: replace what `out` holds if it was prepared from other data, with another tokenizer, or otherwise.

    Raises:
        UserError: `out` holds something else, or cannot be written; the share needs a tokenizer that is not there; the
            corpus changed meanwhile, or cannot be read.
    """
    shards = plan_shards(corpus, count)
    tokenizer, plan = _begin(corpus, request, shards, out, share, force)
    own = shards[share.number - 1 :: share.of]
    todo = [shard for shard in own if read_counts(out, shard.name, plan, tokenizer) is None]
    reading, progress = Reading(), Progress(sum(count_bytes(shard.documents) for shard in todo))
    began = time.monotonic()
    for shard in todo:
        _write(out, shard, plan, tokenizer, reading, progress)
    seconds = time.monotonic() - began
    reading.warn()
    names = [name for _, name in plan.names()]
    found = [counts for name in names if (counts := read_counts(out, name, plan, tokenizer)) is not None]
    if len(found) == len(names):
        require_usable(out, found)
    return Prepared(
        str(out),
        len(names),
        len(todo),
        len(names) - len(found),
        sum(counts.tokens for counts in found),
        sum(counts.bytes for counts in found),
        tokenizer.vocabulary_size,
        round(seconds, 2),
        round(reading.bytes / 1e6 / max(seconds, 1e-9), 2) if todo else 0.0,
    )


def _begin(
    corpus: Corpus,
    request: TokenizerTraining | Tokenizer,
    shards: Sequence[Shard],
    out: Path,
    share: Share,
    force: bool,
) -> tuple[Tokenizer, Plan]:
    """The tokenizer and the plan in `out`, which are put there if they are not."""
    wanted = asdict(request) if isinstance(request, TokenizerTraining) else None
    if is_prepared(out):
        try:
            return _go_on(request, shards, out, wanted)
        except UserError:
            if not force:
                raise
    if share.of > 1 and isinstance(request, TokenizerTraining):
        raise UserError(
            f"--shard needs a tokenizer that is there: train it first with zoo prepare --out {out} without --shard, "
            "or give a saved one with --tokenizer DIR"
        )
    require_free(out, force, PLAN)  # before the work that it would be for
    if share.of == 1 and out.parent.is_dir():  # else others may just be making the same
        remove_remains(out.resolve().parent, out.resolve().name)
    tokenizer = request if isinstance(request, Tokenizer) else train_on(corpus.train, request)
    plan = make_plan(shards, tokenizer.fingerprint, wanted)
    try:
        with whole_directory(out, force=force, marker=PLAN) as partial:
            tokenizer.save(partial)
            (partial / PLAN).write_text(plan.to_json(), encoding="utf-8")
    except (OSError, UserError) as error:
        if is_prepared(out) and read_plan(out).fingerprint == plan.fingerprint:
            return tokenizer, plan  # another machine was a moment sooner
        raise _cannot_be_written(out, error) if isinstance(error, OSError) else error from None
    return tokenizer, plan


def _go_on(
    request: TokenizerTraining | Tokenizer, shards: Sequence[Shard], out: Path, wanted: dict[str, Any] | None
) -> tuple[Tokenizer, Plan]:
    """The tokenizer and the plan in `out`; a UserError where they are not those for these shards."""
    plan = read_plan(out)
    tokenizer = request if isinstance(request, Tokenizer) else load_tokenizer(out, plan)
    difference = plan.find_difference(make_plan(shards, tokenizer.fingerprint, wanted))
    if wanted is not None and wanted != plan.request:
        difference = "was prepared with another tokenizer"
    if difference:
        raise UserError(f"{out} {difference}: choose another --out, or --force to replace it")
    return tokenizer, plan


def _write(out: Path, shard: Shard, plan: Plan, tokenizer: Tokenizer, reading: Reading, progress: Progress) -> None:
    try:
        for suffix in (".bin", ".json"):
            remove_remains(out, shard.name + suffix)
        with whole_file(out / f"{shard.name}.bin") as partial:
            counts = write_tokens(partial, shard.documents, tokenizer, reading, progress)
            if reading.problems.seen > HOPELESS_ROWS:  # a few of them tell nothing of the rest
                reading.problems.require_few()
        write_counts(out, shard.name, plan, counts)
    except OSError as error:
        raise _cannot_be_written(out, error) from None


def _cannot_be_written(out: Path, error: OSError) -> UserError:
    return UserError(
        f"{out} cannot be written ({error.strerror or error}): make room there, and give the same command again, "
        "which goes on"
    )
