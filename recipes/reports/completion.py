"""How a model completes prompts: figures, and what it says beside what is right."""

import math
from collections.abc import Sequence
from pathlib import Path

from recipes.engine.job import Figures
from recipes.reports.markdown import escape, shorten
from zoo.files import write_text

MOST_COMPLETIONS = 50
PAGE = "completions.md"
NOTHING = "(nothing)"


def completion_figures(loss: float, right: Sequence[str], said: Sequence[str]) -> Figures:
    """Loss and perplexity; and the part of the completions that are said word for word, where any were.

    Args:
        loss: the mean of the tokens that are to be predicted, in nats.
        right: the completions.
        said: what the model says instead.
    """
    figures = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    return figures | ({"exact_match": sum(map(_is_right, right, said)) / len(said)} if said else {})


def _is_right(right: str, said: str) -> bool:
    """Whether it is the same but for white space around it."""
    return said.strip() == right.strip()


def write_completions(run: Path, rows: Sequence[tuple[str, str]], said: Sequence[str]) -> list[str]:
    """Write `completions.md`.

    Args:
        run: the run directory.
        rows: prompts with their completions.
        said: what the model says instead.

    Returns:
        Markdown that leads to it; nothing where nothing was said.
    """
    if not said:
        return []
    wrong = [not _is_right(right, text) for (_, right), text in zip(rows, said, strict=True)]
    shown = sorted(range(len(said)), key=lambda place: not wrong[place])[:MOST_COMPLETIONS]
    told = f"{sum(wrong):,} of {len(said):,} held-out prompts are not completed word for word"
    lines = ["# Completions", "", f"{told}. Here are {len(shown)}, the wrong ones first."]
    for place in shown:
        prompt, right = rows[place]
        lines += [
            "",
            f"## {escape(shorten(prompt))}",
            "",
            f"- it said: {escape(shorten(said[place])) or NOTHING}",
            f"- right: {escape(shorten(right))}",
        ]
    write_text(run / PAGE, "\n".join(lines) + "\n")
    return [f"{told}: [completions]({PAGE}), the wrong ones first."]
