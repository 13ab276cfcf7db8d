"""How a classifier did: figures, a confusion matrix, and the mistakes that it was surest of."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from recipes.reports.markdown import cell
from zoo.files import whole_file, write_text

MOST_MISTAKES = 50
MOST_CLASSES = 40  # that are drawn; of more, those that are confused most


def classification_figures(targets: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, and the mean of the classes' F1 (macro average), of what is most probable.

    Args:
        targets: (rows,) the right classes.
        probabilities: (rows, classes).
    """
    from sklearn.metrics import accuracy_score, f1_score

    found = probabilities.argmax(axis=1)
    return {
        "accuracy": float(accuracy_score(targets, found)),
        "macro_f1": float(f1_score(targets, found, average="macro", zero_division=0.0)),
    }


def write_classification(
    run: Path, targets: np.ndarray, probabilities: np.ndarray, labels: Sequence[str], text: Callable[[int], str]
) -> list[str]:
    """Write `confusion.png` and `mistakes.md`.

    Args:
        run: the run directory.
        targets, probabilities: as for `classification_figures`.
        labels: names of the classes.
        text: of a row.

    Returns:
        Markdown that shows them.
    """
    from sklearn.metrics import confusion_matrix

    found = probabilities.argmax(axis=1)
    matrix = confusion_matrix(targets, found, labels=range(len(labels)))
    _draw(run / "confusion.png", matrix, labels)
    wrong = np.flatnonzero(found != targets)
    surest = wrong[np.argsort(-probabilities[wrong, found[wrong]], kind="stable")][:MOST_MISTAKES]
    rows = [
        f"| {probabilities[row, found[row]]:.2f} | {cell(labels[found[row]])} | {cell(labels[targets[row]])} "
        f"| {cell(text(int(row)))} |"
        for row in surest
    ]
    lines = [
        "# Mistakes",
        "",
        f"{len(wrong):,} of {len(targets):,} are wrong; of these the {len(surest)} that the model was surest of.",
        "",
        "| probability | it said | it is | text |",
        "| ---: | --- | --- | --- |",
        *rows,
    ]
    write_text(run / "mistakes.md", "\n".join(lines) + "\n")
    return [
        "![confusion matrix](confusion.png)",
        "",
        f"{len(wrong):,} of {len(targets):,} held-out rows are wrong: [the surest mistakes](mistakes.md).",
    ]


def _draw(path: Path, matrix: np.ndarray, labels: Sequence[str]) -> None:
    """Rows: what it is; columns: what was said; each row as shares of its sum."""
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])
    shares = matrix[np.ix_(shown, shown)] / np.maximum(matrix[shown].sum(axis=1, keepdims=True), 1)
    side = 3.0 + 0.22 * len(shown)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    names = [labels[number] if len(labels[number]) <= 28 else f"{labels[number][:27]}…" for number in shown]
    axes.set_xticks(range(len(shown)), names, rotation=90, fontsize=7, parse_math=False)
    axes.set_yticks(range(len(shown)), names, fontsize=7, parse_math=False)
    axes.set_xlabel("it said")
    axes.set_ylabel("it is")
    if len(shown) < len(labels):
        axes.set_title(f"the {len(shown)} of {len(labels)} classes that are confused most", fontsize="medium")
    for row, column in zip(*np.nonzero(shares > 0.005), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        share = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, share, ha="center", va="center", fontsize=5, color=colour)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the row")
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
