"""Small pictures that say what they are: coloured rectangles at random places, before a slope of gray."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230)}
SIZE = 32


def make_picture(colour: str, draw: np.random.Generator) -> np.ndarray:
    """A rectangle of that colour before gray that rises in one direction, uint8 (SIZE, SIZE, 3)."""
    angle, places = draw.uniform(0, 2 * np.pi), np.linspace(-1, 1, SIZE)
    slope = 60 + 40 * (np.cos(angle) * places[:, None] + np.sin(angle) * places[None, :])
    picture = np.repeat(slope[:, :, None], 3, axis=2).astype(np.uint8)
    top, left = draw.integers(0, SIZE // 2, 2)
    height, width = draw.integers(SIZE // 3, SIZE // 2, 2)
    picture[top : top + height, left : left + width] = COLOURS[colour]
    return picture


def write_folder(folder: Path, count: int, seed: int = 0) -> Path:
    """`count` pictures of each colour, as colour/number.png."""
    draw = np.random.default_rng(seed)
    for colour in COLOURS:
        (folder / colour).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(make_picture(colour, draw)).save(folder / colour / f"{number:03}.png")
    return folder
