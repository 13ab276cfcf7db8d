"""How well texts find what belongs to them: ranks, their figures, and the texts that were led farthest astray."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from recipes.reports.markdown import cell, escape, shorten
from zoo.files import write_text

MOST_TEXTS = 50
NEIGHBOURS = 3
ROWS_AT_ONCE = 1024  # whose similarities with all others are in memory


def partner_ranks(firsts: np.ndarray, seconds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """For each text the place of its partner among all partners by falling cosine, (rows,) from 1.

    Others that are as near count as nearer, so that vectors which are all alike find nothing. What belongs to a text as
    well, and what is the text itself, counts for nothing.

    Args:
        firsts, seconds: (rows, width) of length 1; the vectors of texts, and of their partners.
        numbers: (rows, 2) which texts these are, the same number for the same text.
    """
    ranks = np.empty(len(firsts), np.int64)
    for start in range(0, len(firsts), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(firsts)))
        cosines = firsts[rows] @ seconds.T
        own = cosines[np.arange(len(rows)), rows]
        ranks[rows] = (~_known(numbers, rows) & ~(cosines < own[:, None])).sum(axis=1)
    return ranks


def retrieval_figures(ranks: np.ndarray) -> dict[str, float]:
    """Recall at 1 and at 10, and the mean reciprocal rank."""
    return {
        "recall_at_1": float((ranks <= 1).mean()),
        "recall_at_10": float((ranks <= 10).mean()),
        "mean_reciprocal_rank": float((1 / ranks).mean()),
    }


def write_neighbours(
    run: Path,
    firsts: np.ndarray,
    seconds: np.ndarray,
    numbers: np.ndarray,
    texts: Callable[[int], tuple[str, str]],
) -> list[str]:
    """Write `neighbours.md`.

    Args:
        run: the run directory.
        firsts, seconds, numbers: as for `partner_ranks`.
        texts: a text and its partner, by row.

    Returns:
        Markdown that leads to it.
    """
    ranks = partner_ranks(firsts, seconds, numbers)
    shown = np.argsort(-ranks, kind="stable")[:MOST_TEXTS]
    found = f"{int((ranks == 1).sum()):,} of {len(ranks):,} held-out texts are nearest to their partner"
    lines = [
        "# Neighbours",
        "",
        f"{found}. Here are {len(shown)}, those first whose partner is farthest down the list of their neighbours.",
    ]
    cosines = np.where(_known(numbers, shown), -np.inf, firsts[shown] @ seconds.T)
    for row, near in zip(shown.tolist(), cosines, strict=True):
        nearest = np.argsort(-near, kind="stable")[:NEIGHBOURS].tolist()
        places = {other: place for place, other in enumerate(nearest, 1)} | {row: int(ranks[row])}
        lines += ["", f"**{escape(shorten(texts(row)[0]))}**", ""]
        lines += ["| place | cosine | right | text |", "| ---: | ---: | --- | --- |"]
        lines += [
            f"| {place:,} | {near[other]:.2f} | {'yes' if other == row else ''} | {cell(texts(other)[1])} |"
            for other, place in sorted(places.items(), key=lambda item: item[1])
        ]
    write_text(run / "neighbours.md", "\n".join(lines) + "\n")
    return [f"{found}: [neighbours](neighbours.md), the worst first."]


def _known(numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Of the texts `rows`, (some,), which partners are no wrong answers to them beside their own: (some, all) bool."""
    first, second = numbers[rows, 0][:, None], numbers[rows, 1][:, None]
    known = (numbers[:, 0] == first) | (numbers[:, 1] == second) | (numbers[:, 1] == first)
    known[np.arange(len(rows)), rows] = False
    return known
