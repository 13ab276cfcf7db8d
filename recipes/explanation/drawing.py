"""The picture of an explanation: its numbers, the image, the words, and the heads of attention, one below the other.

Everything is placed in inches from the upper left corner: the font's characters are all as wide, so that what is needed
is known, and nothing overlaps whatever the tokens are.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from recipes.explanation.explain import Explanation, ImagePart, TextPart
from recipes.explanation.lettering import families, letter, letter_token, measure, wrap
from zoo.files import whole_file

DOTS = 110  # an inch
WIDTH = 11.0  # inches, at the least
MARGIN = 0.3  # inches
SIGNED = "RdBu_r"  # red for what raises the score, blue for what lowers it
LABELS = 40  # along an axis: more would overlap
LARGE, MEDIUM, SMALL = 12, 9, 6.5  # points


class Section(Protocol):
    """A part of the picture, as wide as it needs at the least."""

    width: float

    def height(self, width: float) -> float:
        """What it takes when it is that wide."""

    def draw(self, page: "Page", top: float) -> None:
        """Draw it at that distance from the upper edge."""


@dataclasses.dataclass(frozen=True)
class Page:
    """A figure measured in inches from its upper left corner."""

    figure: Any
    width: float
    height: float

    def add_axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Axes that take exactly this room, labels and titles outside of it."""
        low = self.height - top - height
        return self.figure.add_axes(
            (left / self.width, low / self.height, width / self.width, height / self.height), label=f"{left} {top}"
        )

    def write(self, text: str, left: float, top: float, size: float = MEDIUM, color: str = "black") -> None:
        """One line of text; `top` is its upper edge."""
        x, y = left / self.width, 1.0 - top / self.height
        self.figure.text(x, y, text, size=size, va="top", color=color, **_font())


def draw(explanation: Explanation, path: Path, layer: int | None = None) -> None:
    """Write the picture as PNG, whole or not at all.

    Args:
        explanation: what to show.
        path: where.
        layer: the block whose heads of attention over a text are shown, from 0; the last where None.
    """
    sections: list[Section] = [_Numbers(explanation)]
    if explanation.image is not None:
        sections.append(_Pixels(explanation.image))
    if explanation.text is not None:
        if explanation.text.attributions is not None:
            sections.append(_Words(explanation.text, explanation.text.attributions))
        sections.append(_Heads(explanation.text, layer))
    width = max(WIDTH, *(section.width for section in sections))
    heights = [section.height(width) for section in sections]
    page = Page(Figure(figsize=(width, sum(heights)), dpi=DOTS, facecolor="white"), width, sum(heights))
    for i, section in enumerate(sections):
        section.draw(page, sum(heights[:i]))
    with whole_file(path) as partial:
        page.figure.savefig(partial, format="png")


def describe(explanation: Explanation) -> str:
    """The score, and how well its attributions add up, in a line."""
    found = explanation.attribution
    if found is None:
        return "no output is explained: a backbone decides nothing"
    gap = "" if found.gap is None else f", {100 * found.gap:.2g} % off"
    return (
        f"score {found.output:.4g}, of the baseline {found.baseline_output:.4g}; difference {found.difference:.4g}; "
        f"attributions add up to {found.total:.4g}{gap} ({found.evaluations} evaluations)"
    )


def _column(size: float) -> float:
    """The width in inches of a character of so many points; all of this font are as wide."""
    return 0.603 * size / 72


def _font() -> dict[str, Any]:
    # A dollar sign in a text is no formula.
    return {"parse_math": False, "family": list(families())}


class _Numbers:
    width = WIDTH

    def __init__(self, explanation: Explanation) -> None:
        self.explanation = explanation

    def _lines(self, width: float) -> list[tuple[str, float, str]]:
        attribution = self.explanation.attribution
        off = attribution is not None and not attribution.complete
        parts = (
            (letter(self.explanation.title), LARGE, "black"),
            (describe(self.explanation), MEDIUM, "red" if off else "black"),
        )
        return [
            (line, size, color)
            for text, size, color in parts
            for line in wrap(text, int((width - 2 * MARGIN) / _column(size)))
        ]

    def height(self, width: float) -> float:
        return MARGIN + sum(1.6 * size / 72 for _, size, _ in self._lines(width)) + 0.1

    def draw(self, page: Page, top: float) -> None:
        top += MARGIN
        for line, size, color in self._lines(page.width):
            page.write(line, MARGIN, top, size, color)
            top += 1.6 * size / 72


class _Words:
    """The tokens as they run, each on the colour of its attribution, with the number below."""

    width = WIDTH
    row = 0.46  # inches

    def __init__(self, text: TextPart, values: np.ndarray) -> None:
        self.tokens, self.values, self.places = [letter_token(token) for token in text.tokens], values, text.places

    def _places(self, width: float) -> list[tuple[int, int, int]]:
        """Of each token its line, its first column and its columns."""
        columns, line, column, places = int((width - 2 * MARGIN) / _column(MEDIUM)), 0, 0, []
        for token in self.tokens:
            needed = max(measure(token) + 1, 6)  # the number takes six
            if column and column + needed > columns:
                line, column = line + 1, 0
            places.append((line, column, needed))
            column += needed + 1
        return places

    def height(self, width: float) -> float:
        return 0.45 + self.row * (self._places(width)[-1][0] + 1)

    def draw(self, page: Page, top: float) -> None:
        title = f"integrated gradients, sum {self.values.sum():+.3g}: red raises the score, blue lowers it"
        page.write(title + ("; boxed is where it is read" if self.places else ""), MARGIN, top + 0.1)
        places = self._places(page.width)
        lines, columns = places[-1][0] + 1, (page.width - 2 * MARGIN) / _column(MEDIUM)
        axes = page.add_axes(MARGIN, top + 0.4, page.width - 2 * MARGIN, self.row * lines)
        axes.set(xlim=(0, columns), ylim=(lines, 0))
        axes.axis("off")
        bound = float(np.abs(self.values).max()) or 1.0
        decimals = int(np.clip(2 - math.floor(math.log10(bound)), 0, 4))
        colours = ScalarMappable(Normalize(-bound, bound), SIGNED)
        for i, (line, column, needed) in enumerate(places):
            colour, middle = colours.to_rgba(self.values[i]), column + needed / 2
            x, y = (column, column + needed), (line + 0.02, line + 0.56)
            axes.fill_between(x, *y, facecolor=colour, clip_on=False, linewidth=0)
            edge: dict[str, Any] = (
                {"color": "black", "linewidth": 1.8} if i in self.places else {"color": "#bbbbbb", "linewidth": 0.5}
            )
            axes.plot([x[0], x[1], x[1], x[0], x[0]], [y[0], y[0], y[1], y[1], y[0]], clip_on=False, **edge)
            dark = np.dot(colour[:3], (0.299, 0.587, 0.114)) < 0.5
            centred: dict[str, Any] = {"ha": "center", "va": "center", **_font()}
            axes.text(middle, line + 0.28, self.tokens[i], size=MEDIUM, color="white" if dark else "black", **centred)
            number = f"{self.values[i]:+.{decimals}f}"
            axes.text(middle, line + 0.75, number, size=SMALL, color="#444444", **centred)


class _Heads:
    """Who attends to whom: each head of a block, their mean, and what has come of it over all blocks."""

    gap = 0.15  # inches between panels
    head = 0.25  # inches for a panel's title

    def __init__(self, text: TextPart, layer: int | None) -> None:
        number = len(text.attention) - 1 if layer is None else layer
        heads = text.attention[number]
        self.title = f"attention in block {number} of {len(text.attention)}: a row for each token, by where it looks"
        self.panels = [(f"head {i}", head) for i, head in enumerate(heads)]
        self.panels += [("mean of heads", heads.mean(axis=0)), ("rollout, all blocks", text.rollout)]
        tokens = [letter_token(token) for token in text.tokens]
        self.ticks = list(range(0, len(tokens), math.ceil(len(tokens) / LABELS)))
        self.labels = [tokens[tick] for tick in self.ticks]
        self.label = max(map(measure, self.labels)) * _column(SMALL) + 0.1
        self.side = float(np.clip(0.12 * len(self.ticks), 2.0, 4.0))
        # As many beside each other as the picture is wide, or as make a square.
        rows = math.ceil(len(self.panels) / max(int(WIDTH / self.side), math.ceil(len(self.panels) ** 0.5)))
        self.columns = math.ceil(len(self.panels) / rows)
        self.rows = math.ceil(len(self.panels) / self.columns)
        self.width = 2 * MARGIN + self.label + self.columns * (self.side + self.gap)

    def height(self, width: float) -> float:
        return 0.4 + self.rows * (self.head + self.side + self.gap) + self.label + MARGIN

    def draw(self, page: Page, top: float) -> None:
        page.write(self.title, MARGIN, top + 0.1)
        for number, (name, weights) in enumerate(self.panels):
            row, column = divmod(number, self.columns)
            axes = page.add_axes(
                MARGIN + self.label + column * (self.side + self.gap),
                top + 0.4 + self.head + row * (self.head + self.side + self.gap),
                self.side,
                self.side,
            )
            axes.imshow(weights, cmap="viridis", vmin=0, interpolation="nearest", aspect="auto")
            axes.set_title(f"{name}, up to {weights.max():.2f}", size=MEDIUM - 1, pad=3, **_font())
            axes.tick_params(length=1.5, pad=2)
            below = number + self.columns >= len(self.panels)  # those above others go without, as do those beside them
            axes.set_xticks(self.ticks, self._shown(below), rotation=90, size=SMALL, **_font())
            axes.set_yticks(self.ticks, self._shown(column == 0), size=SMALL, **_font())

    def _shown(self, shown: bool) -> list[str]:
        return self.labels if shown else [""] * len(self.labels)


class _Pixels:
    """The image, what the model attends to in it, and what its output rests on."""

    width = WIDTH
    bar = 0.75  # inches for a scale of colours

    def __init__(self, image: ImagePart) -> None:
        self.image = image

    def _size(self, width: float) -> tuple[float, float]:
        """Width and height of a panel."""
        shape = self.image.pixels.shape
        across = min((width - 2 * MARGIN - 3 * self.bar) / 3, 4.0)
        return across, min(across * shape[0] / shape[1], 8.0)

    def height(self, width: float) -> float:
        return 0.4 + self._size(width)[1] + MARGIN

    def draw(self, page: Page, top: float) -> None:
        image = self.image
        gray = image.pixels.mean(axis=2)
        first = self._panel(page, top, 0, "as the model sees it")
        first.imshow(image.pixels, interpolation="nearest", aspect="auto")

        axes = self._panel(page, top, 1, "attention rollout")
        rows, columns = (number * image.patch_size for number in image.rollout.shape)
        extent = (-0.5, columns - 0.5, rows - 0.5, -0.5)
        axes.imshow(gray, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        heat = axes.imshow(
            image.rollout, cmap="inferno", alpha=0.65, interpolation="bilinear", extent=extent, aspect="auto"
        )
        axes.set(xlim=(-0.5, gray.shape[1] - 0.5), ylim=(gray.shape[0] - 0.5, -0.5))
        self._scale(page, top, 1, heat)
        if image.attributions is None:
            return

        axes = self._panel(page, top, 2, f"integrated gradients, sum {image.attributions.sum():+.3g}")
        # A few single pixels stand out by far: the colours end where one in two hundred is beyond.
        bound = float(np.quantile(np.abs(image.attributions), 0.995)) or 1.0
        colours = ScalarMappable(Normalize(-bound, bound), SIGNED)
        shown = colours.to_rgba(image.attributions)
        shown[..., 3] = np.clip(np.abs(image.attributions) / bound, 0, 1) ** 0.5
        axes.imshow(255 - (255 - gray) * 0.35, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.imshow(shown, interpolation="nearest", aspect="auto")
        self._scale(page, top, 2, colours)

    def _panel(self, page: Page, top: float, number: int, title: str) -> Any:
        width, height = self._size(page.width)
        axes = page.add_axes(MARGIN + number * (width + self.bar), top + 0.4, width, height)
        axes.axis("off")
        axes.set_title(title, size=MEDIUM, **_font())
        return axes

    def _scale(self, page: Page, top: float, number: int, colours: Any) -> None:
        width, height = self._size(page.width)
        left = MARGIN + number * (width + self.bar) + width + 0.08
        axes = page.add_axes(left, top + 0.4 + 0.1 * height, 0.12, 0.8 * height)
        page.figure.colorbar(colours, cax=axes).ax.tick_params(labelsize=SMALL)
