"""Small pictures with captions that say what they show: a patch of a colour, anywhere."""

import itertools
import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 200, 60),
    "blue": (50, 60, 230),
    "yellow": (230, 220, 40),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "pink": (250, 60, 220),
    "cyan": (60, 240, 240),
}
SIZE = 32


def make_picture(colour: str, draw: np.random.Generator) -> np.ndarray:
    """A patch of that colour before noise: uint8 (SIZE, SIZE, 3)."""
    picture = draw.integers(60, 130, (SIZE, SIZE, 3)).astype(np.uint8)
    top, left = draw.integers(0, SIZE // 2, 2)
    picture[top : top + SIZE // 2, left : left + SIZE // 2] = COLOURS[colour]
    return picture


def write_pairs(table: Path, count: int, seed: int) -> Path:
    """A table in JSON, with `count` pictures of each colour beside it: in each row two captions and a word more."""
    draw = np.random.default_rng(seed)
    lines = []
    for number, colour in itertools.product(range(count), COLOURS):
        image = f"{table.stem}/{colour} {number}.png"
        (table.parent / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_picture(colour, draw)).save(table.parent / image)
        captions = [f"a {colour} patch", f"patch of {colour}"]
        lines.append(json.dumps({"image": image, "caption": captions, "words": ["flat"]}))
    table.write_text("\n".join(lines) + "\n")
    return table


def write_folder(folder: Path, count: int, seed: int) -> Path:
    """`count` pictures of each colour, as colour/number.png."""
    draw = np.random.default_rng(seed)
    for colour in COLOURS:
        (folder / colour).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(make_picture(colour, draw)).save(folder / colour / f"{number}.png")
    return folder
