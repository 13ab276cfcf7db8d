"""Images with captions: read from a table, shared out, and made into batches of pairs."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from recipes.data.augmentation import NONE, Augmentation
from recipes.data.batches import ArraySpec
from recipes.data.examples import Example, in_chunks
from recipes.data.grouping import Source
from recipes.data.held_out import hold_out, number_alike
from recipes.data.lines import Row
from recipes.data.pictures import Pictures, build_pictures
from recipes.data.problems import Problems
from recipes.data.tables import Table
from recipes.data.views import Views
from zoo.image import Preprocessing
from zoo.text import Tokenizer

logger = logging.getLogger("zoo")

SEPARATOR = ", "  # between a caption and what is said besides


@dataclasses.dataclass(frozen=True)
class CaptionedImages:
    """Images, each with its captions.

    Attributes:
        pictures: all that were read, with the columns `captions` and `words`, lists of texts as JSON.
        rows: which of them these are: (rows,) int64.
    """

    pictures: Pictures
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, places: np.ndarray) -> "CaptionedImages":
        """Some of them."""
        return dataclasses.replace(self, rows=self.rows[places])

    def captions(self, place: int) -> list[str]:
        """The captions of an image, one at least; the first is the one that an evaluation reads."""
        captions: list[str] = json.loads(self.pictures.text("captions", int(self.rows[place])))
        return captions

    def words(self, place: int) -> list[str]:
        """What else is said of an image; often nothing."""
        words: list[str] = json.loads(self.pictures.text("words", int(self.rows[place])))
        return words

    def read(self, place: int) -> np.ndarray:
        """An image, uint8 (height, width, 3)."""
        return self.pictures.read(int(self.rows[place]))

    def key(self, place: int) -> bytes:
        """A hash of the pixels of an image."""
        return self.pictures.key(int(self.rows[place]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of pixels and captions, in hexadecimal; where the files lie has no part in it."""
        content = hashlib.sha256()
        for place, row in enumerate(self.rows):
            content.update(self.key(place))
            for column in ("captions", "words"):
                content.update(self.pictures.content(column, int(row)))
        return content.hexdigest()


def read_captions(table: Table, columns: tuple[str, tuple[str, ...]]) -> CaptionedImages:
    """Read a table, and look at each of its images.

    Args:
        table: the rows.
        columns: of the image, and of captions and words; see `image_columns.find_caption_columns`.

    Raises:
        UserError: the table cannot be used, or too many images are broken or have no caption.
    """
    image, (first, *others) = columns

    def add(row: Row) -> Example | str:
        captions = list(dict.fromkeys(_texts(row.get(first))))
        if not captions:
            return f"no {first}"
        words = [word for name in others for word in _texts(row.get(name))]
        return {"captions": json.dumps(captions), "words": json.dumps(words)}

    pictures = build_pictures(table, image, {"kind": "captions", "columns": columns[1]}, add)
    return CaptionedImages(pictures, np.arange(len(pictures)))


def _texts(value: Any) -> list[str]:
    """The texts that a row has in a column: one, several or none."""
    values = value if isinstance(value, list) else [value]
    return [each.strip() for each in values if isinstance(each, str) and each.strip()]


def each_text(table: Table, problems: Problems, columns: tuple[str, ...]) -> Iterator[str]:
    """All texts in some columns, to train a tokenizer on."""
    for row in table.rows(problems):
        for name in columns:
            yield from _texts(row.get(name))


def split(data: CaptionedImages, fraction: float, seed: int) -> tuple[CaptionedImages, CaptionedImages]:
    """Share rows out to training and validation, at random; rows with the same image, or with a caption in common, are
    in one of them."""

    def keys(place: int) -> list[bytes]:
        return [data.key(place), *(caption.casefold().encode() for caption in data.captions(place))]

    held_out = hold_out(_group(map(keys, range(len(data)))), fraction, seed)
    return data.select(np.flatnonzero(~held_out)), data.select(np.flatnonzero(held_out))


def _group(keys: Iterable[list[bytes]]) -> np.ndarray:
    """A number for each row, the same for rows that have a key in common, or are bound by such ones: (rows,) int64."""
    first_with: dict[bytes, int] = {}
    parents: list[int] = []  # of each row one that it is bound to, and of the first of them the row itself

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for row, some in enumerate(keys):
        parents.append(row)
        for key in some:
            parents[find(first_with.setdefault(key, row))] = find(row)
    return np.array([find(row) for row in range(len(parents))], np.int64)


class CaptionSource(Source):
    """Pairs as batches `(inputs, labels)` for `zoo.clip.model.CLIPDualEncoder`, of any captions in any order: negatives
    that were told by their length would teach nothing.

    In training, `varied`, one of the captions of an image is drawn each time, and put together with any number of its
    other words, in random order. An evaluation reads the first caption alone.

    Args:
        data: what to draw from.
        preprocessing: of the model.
        tokenizer: of the model.
        length: the most tokens of a caption; the rest of longer ones is not read.
        varied: draw captions.
        augmentation: of which crops and mirroring apply.

    Attributes:
        images: (rows,) int32, the same number for images of the same pixels.
        tokens: (rows,), how many tokens the longest text of each row has, special ones included, before it is cut.
        length: tokens of every batch.
    """

    def __init__(
        self,
        data: CaptionedImages,
        preprocessing: Preprocessing,
        tokenizer: Tokenizer,
        length: int,
        varied: bool = False,
        augmentation: Augmentation = NONE,
    ) -> None:
        self.data, self.tokenizer, self.varied = data, tokenizer, varied
        self.views = Views(preprocessing, augmentation)
        self.special = int(tokenizer.prepare([""], max_length=length)["padding_mask"].sum())
        self.images = number_alike(data.key(place) for place in range(len(data)))
        self._number_captions(length - self.special)
        self.length = min(length, int(self.tokens.max()))
        self.element: Any = (
            {
                "images": ArraySpec((None, self.views.height, self.views.width, 3), "float32"),
                "token_ids": ArraySpec((None, self.length)),
                "padding_mask": ArraySpec((None, self.length)),
            },
            {"pairs": ArraySpec((None, 2))},
        )

    def _number_captions(self, room: int) -> None:
        """Find out which captions are the same to the model, and how long they are."""
        tokens: list[int] = []

        def each_caption() -> Iterator[bytes]:
            rows = ((self._captions(place), self.data.words(place)) for place in range(len(self.data)))
            for some in in_chunks(rows, lambda row: sum(map(len, row[0]))):
                encoded = iter(self.tokenizer.encode_batch(caption for captions, _ in some for caption in captions))
                longest = (SEPARATOR.join([max(captions, key=len), *words]) for captions, words in some)
                whole = self.tokenizer.encode_batch(longest if self.varied else [])
                for place, (captions, _) in enumerate(some):
                    ids = [next(encoded) for _ in captions]
                    most = max(map(len, ids))
                    tokens.append(self.special + (max(most, len(whole[place])) if self.varied else most))
                    yield from (np.array(each[:room], np.int32).tobytes() for each in ids)

        self._numbers = number_alike(each_caption())
        self._firsts = np.cumsum([0, *(len(self._captions(place)) for place in range(len(self.data)))])
        self.tokens = np.array(tokens)

    def _captions(self, place: int) -> list[str]:
        captions = self.data.captions(place)
        return captions if self.varied else captions[:1]

    @property
    def pairs(self) -> np.ndarray:
        """Which image and which caption each row is of, of several captions the first: (rows, 2) int32."""
        return np.stack([self.images, self._numbers[self._firsts[:-1]]], axis=1)

    def lengths(self, epoch: int) -> np.ndarray:
        return np.full(len(self.data), self.length)

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        texts, numbers = [], []
        for row in rows.tolist():
            captions = self._captions(row)
            place = int(draw.integers(len(captions))) if self.varied else 0
            texts.append(self._vary(captions[place], self.data.words(row), draw) if self.varied else captions[place])
            numbers.append(self._numbers[self._firsts[row] + place])
        prepared = self.tokenizer.prepare(texts, max_length=self.length, padding="max_length")
        inputs = {
            "images": self.views.images(self.data.read, rows, draw),
            "token_ids": prepared["token_ids"],
            "padding_mask": prepared["padding_mask"],
        }
        return inputs, {"pairs": np.stack([self.images[rows], np.array(numbers, np.int32)], axis=1)}

    @staticmethod
    def _vary(caption: str, words: list[str], draw: np.random.Generator) -> str:
        said = [caption, *(words[place] for place in draw.permutation(len(words))[: draw.integers(len(words) + 1)])]
        return SEPARATOR.join(said[place] for place in draw.permutation(len(said)))


def tell(train_data: CaptionedImages, held_out: CaptionedImages, source: CaptionSource, length: int) -> None:
    """Say what there is to train on, before it begins."""
    images, captions = (f"{len(np.unique(numbers)):,}" for numbers in source.pairs.T)
    logger.info("training: %s pairs of %s images and %s captions", f"{len(train_data):,}", images, captions)
    logger.info("held out: %s pairs", f"{len(held_out):,}")
    cut = int((source.tokens > length).sum())
    logger.info(
        "%d tokens in the longest text of an image at the median, %d at most%s",
        int(np.median(source.tokens)),
        int(source.tokens.max()),
        f"; {cut:,} are longer than {length} and cut" if cut else "",
    )
