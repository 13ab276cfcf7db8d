"""Text that was tokenised once, for many runs: a directory of flat files, each with a record of what it holds."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from recipes.data.packing import PackedText, Split, SplitCounts, entropy
from recipes.data.plan import Plan, read_plan
from recipes.data.problems import MOST_CORRUPT
from recipes.data.tokens import TokenCounts, token_dtype
from zoo.errors import UserError
from zoo.files import read_json, write_text
from zoo.text import Tokenizer


def open_shards(directory: Path) -> PackedText:
    """What was prepared in a directory: the very ids, one after another, that `pack` makes of the corpus.

    Raises:
        UserError: it is not complete, or damaged, or too many rows could not be used.
    """
    plan = read_plan(directory)
    tokenizer = load_tokenizer(directory, plan)
    found: dict[Split, dict[str, TokenCounts]] = {"train": {}, "validation": {}}
    missing: list[str] = []
    for split, name in plan.names():
        counts = read_counts(directory, name, plan, tokenizer)
        if counts is None:
            missing.append(name)
        else:
            found[split][name] = counts
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{directory} is not complete: {', '.join(missing[:3])}{more} of {len(plan.names())} shards are missing; "
            "give its zoo prepare command again, which goes on"
        )
    train, validation = (list(each.values()) for each in found.values())
    every = [*train, *validation]
    require_usable(directory, every)
    return PackedText(
        directory,
        tokenizer,
        _total(train),
        _total(validation),
        entropy(np.sum([counts.by_id for counts in every], axis=0)),
        sum(counts.replaced for counts in every),
        {split: [(f"{name}.bin", counts.tokens) for name, counts in each.items()] for split, each in found.items()},
    )


def _total(every: Iterable[TokenCounts]) -> SplitCounts:
    tokens, size = np.sum([(counts.tokens, counts.bytes) for counts in every], axis=0)
    return SplitCounts(int(tokens), int(size))


def load_tokenizer(directory: Path, plan: Plan) -> Tokenizer:
    """The tokenizer that the shards in a directory were made with; a UserError if it is another one by now."""
    tokenizer = Tokenizer.load(directory)
    if tokenizer.fingerprint != plan.tokenizer:
        raise UserError(f"the tokenizer in {directory} is not the one that its text was prepared with: put it back")
    return tokenizer


def require_usable(directory: Path, counts: Iterable[TokenCounts]) -> None:
    """Raise UserError if too many rows of tables could not be used, all shards taken together."""
    rows, unusable = np.sum([(each.rows, each.unusable) for each in counts], axis=0)
    if unusable > MOST_CORRUPT * rows:
        raise UserError(
            f"{directory}: {unusable:,} of {rows:,} rows could not be used; correct the data and prepare it again, "
            f"since no more than {MOST_CORRUPT:.0%} may be left out"
        )


def write_counts(directory: Path, name: str, plan: Plan, counts: TokenCounts) -> None:
    """Record what a shard holds: it counts as whole from then on."""
    content = {"plan": plan.fingerprint, **vars(counts), "by_id": counts.by_id.tolist()}
    write_text(directory / f"{name}.json", json.dumps(content) + "\n")


def read_counts(directory: Path, name: str, plan: Plan, tokenizer: Tokenizer) -> TokenCounts | None:
    """What is recorded of a shard; None if it is not there, not whole, or of another plan."""
    try:
        content = read_json(directory / f"{name}.json")
        made_by, by_id = content.pop("plan"), np.array(content.pop("by_id"), np.int64)
        counts = TokenCounts(**{key: int(value) for key, value in content.items()}, by_id=by_id)
        size = (directory / f"{name}.bin").stat().st_size
    except (UserError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
    is_whole = size == counts.tokens * token_dtype(tokenizer.vocabulary_size).itemsize
    is_ours = made_by == plan.fingerprint and by_id.shape == (tokenizer.vocabulary_size,)
    return counts if is_whole and is_ours else None
