"""How a decoded image becomes a vision model's input: the settings, in a file of ours and in Hugging Face's."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Self

import numpy as np

from zoo.config import Config, setting
from zoo.errors import UserError
from zoo.files import read_json, write_text
from zoo.image.huggingface import CLIP_MEAN, CLIP_STD, FILTERS, HALF, fields_of, record_of

FILE = "preprocessing.json"
LARGEST_EDGE = 8192  # pixels


@dataclasses.dataclass(frozen=True)
class Preprocessing(Config):
    """Resize, crop, rescale, normalise, in this order. The defaults are ViT's.

    Attributes:
        height, width: resize to exactly this, in pixels.
        shortest_edge: or else resize so that the shorter edge has this many pixels, and the shape is kept. With none of
            the three, nothing is resized.
        resample: the filter; all but "nearest" are antialiased, as Pillow does it.
        crop_height, crop_width: then keep the middle, with black around it where the image is smaller; None for all.
        rescale_factor: multiply the bytes 0 to 255 by this.
        mean, std: then subtract, and divide by, a number for each of red, green and blue.

    Raises:
        UserError: as for every `Config`, or fields contradict each other.
    """

    height: int | None = setting(224, low=1, high=LARGEST_EDGE)
    width: int | None = setting(224, low=1, high=LARGEST_EDGE)
    shortest_edge: int | None = setting(None, low=1, high=LARGEST_EDGE)
    resample: str = setting("bilinear", choices=FILTERS)
    crop_height: int | None = setting(None, low=1, high=LARGEST_EDGE)
    crop_width: int | None = setting(None, low=1, high=LARGEST_EDGE)
    rescale_factor: float = setting(1 / 255)
    mean: tuple[float, float, float] = setting(HALF)
    std: tuple[float, float, float] = setting(HALF, low=1e-6)

    def __post_init__(self) -> None:
        super().__post_init__()
        for one, other in (("height", "width"), ("crop_height", "crop_width")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                self._reject(one, getattr(self, one), f"null exactly where {other} is")
        if self.shortest_edge is not None and self.height is not None:
            self._reject("shortest_edge", self.shortest_edge, "null where height and width are given")

    @classmethod
    def for_vit(cls, height: int, width: int) -> Self:
        """What ViT's published checkpoints do: stretch to the model's size, and map 0 to 255 onto -1 to 1."""
        return cls(height=height, width=width)

    @classmethod
    def for_clip(cls, size: int) -> Self:
        """What CLIP's published checkpoints do: keep the shape, and of that the middle square of `size` pixels."""
        return cls(
            height=None,
            width=None,
            shortest_edge=size,
            resample="bicubic",
            crop_height=size,
            crop_width=size,
            mean=CLIP_MEAN,
            std=CLIP_STD,
        )

    @property
    def output_size(self) -> tuple[int, int] | None:
        """The (height, width) that every image ends up with, or None where that depends on the image."""
        if self.crop_height is not None and self.crop_width is not None:
            return self.crop_height, self.crop_width
        if self.height is not None and self.width is not None:
            return self.height, self.width
        return None

    def with_output_size(self, height: int, width: int) -> Self:
        """The same for a model of another size: cropped to it where images are cropped, else resized to it."""
        if self.crop_height is None:
            return dataclasses.replace(self, height=height, width=width, shortest_edge=None)
        # What is cut off keeps its share.
        if self.height is not None and self.width is not None and self.crop_width is not None:
            rows, columns = self.height * height / self.crop_height, self.width * width / self.crop_width
            return dataclasses.replace(
                self, height=round(rows), width=round(columns), crop_height=height, crop_width=width
            )
        if self.shortest_edge is None:
            return dataclasses.replace(self, crop_height=height, crop_width=width)
        edge = max(1, round(self.shortest_edge * min(height, width) / min(self.crop_height, self.crop_width or 1)))
        return dataclasses.replace(self, shortest_edge=edge, crop_height=height, crop_width=width)

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) to which an image of this size is resized, before the crop."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        if self.shortest_edge is None:
            return height, width
        shorter = min(height, width)
        return self.shortest_edge * height // shorter, self.shortest_edge * width // shorter

    def table(self) -> np.ndarray:
        """What each byte becomes: float32 (256, 3), for 0 to 255 in red, green and blue.

        There are no other values, so that looking them up is as good as computing them; and then neither NumPy nor a
        graph that rather multiplies than divides can round in a way of its own.
        """
        values = np.arange(256, dtype=np.float64)[:, None].repeat(3, axis=1)
        # The reference's order of roundings: the product in float64, the rest in float32.
        rescaled = (values * self.rescale_factor).astype(np.float32)
        return (rescaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)

    def save(self, directory: Path) -> None:
        """Write `preprocessing.json` into `directory`."""
        write_text(Path(directory) / FILE, json.dumps(self.to_dict(), indent=2) + "\n")

    @staticmethod
    def is_saved_in(directory: Path) -> bool:
        """Whether `load` has something to read there."""
        return (Path(directory) / FILE).exists()

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `preprocessing.json`; a UserError names the file and what is wrong with it."""
        path = Path(directory) / FILE
        values = read_json(path)
        try:
            return cls.from_dict(values)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def from_huggingface(cls, record: dict[str, Any], family: str) -> Self:
        """Translate the content of a `preprocessor_config.json`, of any age.

        Args:
            record: the file's object. What it does not mention is as the reference's class has it; null is off.
            family: "vit" or "clip", the model's, for old files that do not name the class.

        Raises:
            UserError: the class is none of ViT's, CLIP's and DeiT's, or a setting that changes pixels is unknown or has
                a value that is not supported.
        """
        return cls.from_dict(fields_of(record, family))

    @classmethod
    def load_huggingface(cls, directory: Path, family: str) -> Self | None:
        """Read `processor_config.json` if it tells of images, or else `preprocessor_config.json`, as the reference
        does; None where neither is there. See `from_huggingface`."""
        for name in ("processor_config.json", "preprocessor_config.json"):
            path = Path(directory) / name
            record = read_json(path) if path.exists() else None
            if name == "processor_config.json" and isinstance(record, dict):
                record = record.get("image_processor")
            if record is not None:
                try:
                    return cls.from_huggingface(record, family)
                except UserError as error:
                    raise UserError(f"{path}: {error}") from None
        return None

    def to_huggingface(self, family: str) -> dict[str, Any]:
        """The content of a `preprocessor_config.json` from which the reference makes the same pixels.

        Args:
            family: "vit" or "clip", the model's.
        """
        return record_of(self.to_dict(), family)


def is_vertical_first(height: Any, width: Any, new_height: Any, new_width: Any) -> Any:
    """Whether a resize goes along the columns before it goes along the rows: where the height shrinks by more than
    twice as many pixels as the width does, as in Pillow 13. Takes integers, or integer tensors."""
    shrinks = height - new_height
    return (shrinks > 0) & (shrinks > 2 * (width - new_width))
