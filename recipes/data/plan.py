"""What of a corpus goes into which shard. It follows from the files alone, so that every machine comes to the same."""

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.data.documents import Document
from recipes.data.packing import SPLITS, Split, count_bytes
from recipes.data.text import PLAN, Corpus
from zoo.errors import UserError
from zoo.files import read_json

FORMAT = 1  # to be raised when the same corpus would be shared out, or written, differently
LARGEST_PLAN = 2**28  # bytes: about a million documents
LARGEST_WHOLE = 1 / 8  # of a shard: a document that has more of it may be cut


@dataclass(frozen=True)
class Shard:
    """One of `count` files that a split is written to, and what of the corpus goes into it."""

    split: Split
    number: int
    count: int
    documents: tuple[Document, ...]

    @property
    def name(self) -> str:
        return shard_name(self.split, self.number, self.count)


def shard_name(split: Split, number: int, count: int) -> str:
    """Without a suffix."""
    return f"{split}-{number:05}-of-{count:05}"


def plan_shards(corpus: Corpus, count: int) -> list[Shard]:
    """Share a corpus out: one shard after another holds the stream of its documents, from end to end.

    Args:
        corpus: what to share out.
        count: shards of the training text; the held-out text has as many as make them about as large, and no more.
    """
    held_out = -(-count * count_bytes(corpus.validation) // max(1, count_bytes(corpus.train)))
    counts: dict[Split, int] = {"train": count, "validation": max(1, min(count, held_out))}
    return [
        Shard(split, number, counts[split], share)
        for split in SPLITS
        for number, share in enumerate(spread(getattr(corpus, split), counts[split]))
    ]


def spread(documents: Sequence[Document], count: int) -> list[tuple[Document, ...]]:
    """Share documents out in their order, about as many bytes to each; one that is large beside a share may be cut."""
    total, at = count_bytes(documents), 0
    edges = [total * number // count for number in range(1, count)]
    shares: list[list[Document]] = [[] for _ in range(count)]
    for document in documents:
        end, first = at + document.bytes, bisect_right(edges, at)
        inner = edges[first : bisect_left(edges, end)]
        is_cut = inner and document.bytes > LARGEST_WHOLE * total / count
        parts = document.cut([edge - at for edge in inner]) if is_cut else [document]
        for number, part in enumerate(parts, first):
            shares[number].append(part)
        at = end
    return [tuple(share) for share in shares]


@dataclass(frozen=True)
class Plan:
    """What `plan.json` says.

    Attributes:
        tokenizer: its fingerprint.
        request: what tokenizer was trained, or None if one was given.
        documents: the files with their sizes and times; the names are those below the folders that were given.
        train, validation: for each shard, the documents by place and the part of each.
    """

    tokenizer: str
    request: dict[str, Any] | None
    documents: list[dict[str, Any]]
    train: list[list[dict[str, Any]]]
    validation: list[list[dict[str, Any]]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the shards hang on, in hexadecimal."""
        content = [FORMAT, self.tokenizer, self.documents, self.train, self.validation]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def names(self) -> list[tuple[Split, str]]:
        """Of all shards, with their splits."""
        counts: dict[Split, int] = {"train": len(self.train), "validation": len(self.validation)}
        return [(split, shard_name(split, place, counts[split])) for split in SPLITS for place in range(counts[split])]

    def to_json(self) -> str:
        content = {"format": FORMAT, "fingerprint": self.fingerprint, **vars(self)}
        return json.dumps(content, indent=1) + "\n"

    def find_difference(self, other: "Plan") -> str:
        """What is other in another plan, to follow the name of what was prepared by this one; nothing if nothing is."""
        if self.tokenizer != other.tokenizer:
            return "was prepared with another tokenizer"
        if len(self.train) != len(other.train):
            return f"was prepared as {len(self.train)} shards, not {len(other.train)}"
        if self.fingerprint != other.fingerprint:
            return "was prepared from other data, or the data was changed since"
        return ""


def make_plan(shards: Sequence[Shard], tokenizer: str, request: dict[str, Any] | None) -> Plan:
    """The plan for these shards; see there."""
    places: dict[Path, int] = {}
    documents: list[dict[str, Any]] = []
    for document in (each for shard in shards for each in shard.documents):
        if document.path not in places:
            places[document.path] = len(documents)
            documents.append({"name": document.name, "size": document.file.size, "modified": document.file.modified})
    parts: dict[Split, list[list[dict[str, Any]]]] = {
        split: [
            [{"document": places[each.path], **each.part} for each in shard.documents]
            for shard in shards
            if shard.split == split
        ]
        for split in SPLITS
    }
    return Plan(tokenizer, request, documents, parts["train"], parts["validation"])


def read_plan(directory: Path) -> Plan:
    """The plan in a directory; a UserError if it is not one that this version made."""
    path = directory / PLAN
    try:
        content = read_json(path, LARGEST_PLAN)
        made, fingerprint = content.pop("format"), content.pop("fingerprint")
        plan = Plan(**content)
        if made != FORMAT or fingerprint != plan.fingerprint:
            raise ValueError("it is not what was written")
        plan.names()
        return plan
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged, or of another version ({type(error).__name__}: {error!s:.80}): "
            "prepare under another name, or again with --force"
        ) from None
