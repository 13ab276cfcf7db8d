"""A bar chart of artefacts: how large each is, and how long it takes."""

from collections.abc import Sequence
from pathlib import Path

from zoo.files import whole_file

SIZE, LATENCY = "#4878a8", "#c8783c"


def draw_chart(path: Path, title: str, artefacts: Sequence[tuple[str, float, float | None]]) -> None:
    """Draw a PNG: for each artefact a bar for its size and one for its latency, side by side.

    Args:
        path: of the PNG.
        title: over the whole.
        artefacts: name, megabytes, and milliseconds, None where they are not known.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 1.3 + 0.32 * len(artefacts)
    figure = Figure(figsize=(9, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    names = [name for name, _, _ in artefacts]
    columns: list[tuple[str, str, Sequence[float | None]]] = [
        ("megabytes", SIZE, [size for _, size, _ in artefacts]),
        ("milliseconds a call (p50)", LATENCY, [time for _, _, time in artefacts]),
    ]
    for place, (label, colour, values) in enumerate(columns, 1):
        axes = figure.add_subplot(1, 2, place)
        bars = axes.barh(names, [value or 0.0 for value in values], color=colour)
        axes.bar_label(bars, ["-" if value is None else f"{value:.3g}" for value in values], padding=3, fontsize=8)
        axes.set_xlabel(label)
        axes.margins(x=0.18)
        axes.spines[["top", "right"]].set_visible(False)
        axes.invert_yaxis()  # the first on top
        axes.tick_params(axis="y", labelleft=place == 1)
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
