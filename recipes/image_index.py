"""The images of a folder as vectors, made once and kept, and searched by how near they are to another vector.

What is kept goes by the weights of the model and by path, size and time of each file: only images that are new or
changed are embedded. Several minutes of that are kept in pieces, so that little is lost where it is stopped.
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf

from recipes.data.cache import default_cache_root, read_or_build
from zoo.errors import UserError
from zoo.image import Preprocessing, read_image
from zoo.image.pixels import fit_image, normalize
from zoo.layers import l2_normalize
from zoo.prediction import encode
from zoo.tensors import fingerprint

logger = logging.getLogger("zoo")

FORMAT = 1  # to be raised when the same images would be kept differently
SECONDS_AT_ONCE = 60.0  # of embedding, before what was made is kept
ROWS_AT_ONCE = 2**14  # of vectors, in memory
BATCHES_AHEAD = 2  # that are decoded while one is embedded
NAMED = 3  # images that cannot be read, in the line that tells of them all

State = tuple[int, int]  # of a file: its size in bytes, and its time of modification in nanoseconds
UNREADABLE: State = (-1, 0)
Show = Callable[[int, int], None]  # how many images of how many are embedded


class ImageIndex:
    """Images that can be searched.

    Attributes:
        paths: of the images, in the order of their names.
        vectors: (rows, width) float32 of length 1, mapped from disk; in any order.
        rows: which of the vectors belongs to each path: (images,) int64.
    """

    def __init__(self, paths: Sequence[Path], vectors: np.ndarray, rows: np.ndarray) -> None:
        self.paths, self.vectors, self.rows = tuple(paths), vectors, rows

    def __len__(self) -> int:
        return len(self.paths)

    def search(self, query: np.ndarray, top: int) -> list[tuple[float, Path]]:
        """The images nearest to a vector, (width,) of length 1, with their cosines, the nearest first; of those that
        are as near, the first by name."""
        cosines = np.empty(len(self.vectors), np.float32)
        for first in range(0, len(cosines), ROWS_AT_ONCE):
            cosines[first : first + ROWS_AT_ONCE] = self.vectors[first : first + ROWS_AT_ONCE] @ query
        cosines = cosines[self.rows]
        best = np.argsort(-cosines, kind="stable")[:top]
        return [(float(cosines[place]), self.paths[place]) for place in best]


def index_images(
    model: Any,
    directory: Path,
    folder: Path,
    paths: Sequence[Path],
    batch_size: int,
    show: Show = lambda done, total: None,
    cache_root: Path | None = None,
) -> ImageIndex:
    """The images of a folder as a model embeds them, from the cache as far as they are there.

    Images that cannot be read are counted, told of in a line, and passed over. In memory are a few batches of images as
    the model sees them, and one decoded image for each core.

    Args:
        model: a CLIP, or a model of images for the task "embed".
        directory: that it was loaded from: its weights are a part of what the cache goes by.
        folder: that holds the images.
        paths: of them.
        batch_size: images at a time; it does not change the vectors.
        show: is told how far it is.
        cache_root: where the cache is.

    Raises:
        UserError: no image can be read, the model cannot embed images, or the cache cannot be written.
    """
    files = {str(path.relative_to(folder)): _state(path) for path in paths}
    place = (cache_root or default_cache_root()) / f"images-{_key(directory, folder, model.preprocessing)}"
    embedder = _Embedder(model, folder, batch_size)
    is_new = False

    def read(place: Path) -> _Kept | None:
        kept = _Kept.read(place)
        return kept if kept is not None and (is_new or kept.files == files) else None

    def build(partial: Path) -> None:
        nonlocal is_new
        is_new = True
        _build(partial, _Kept.read(place), files, embedder, show)

    kept = read_or_build(place, read, build, grows=True)
    while kept.files != files:  # it is kept in pieces
        is_new = False
        kept = read_or_build(place, read, build, grows=True)
    if kept.faults:
        told = [f"{folder / name}: {fault}" for name, fault in sorted(kept.faults.items())]
        many = f"{len(told):,} of {len(files):,} images cannot be read: {'; '.join(told[:NAMED])}"
        more = f"; and {len(told) - NAMED:,} more" if len(told) > NAMED else ""
        if not kept.rows:
            raise UserError(f"{folder} holds no image that can be read: {many}{more}")
        logger.warning("left out: %s%s", many, more)
    names = [name for name in files if name in kept.rows]
    return ImageIndex([folder / name for name in names], kept.vectors, np.array([kept.rows[name] for name in names]))


def _key(directory: Path, folder: Path, preprocessing: Preprocessing) -> str:
    """What a cache goes by, but for the files themselves."""
    content = hashlib.sha256(json.dumps([FORMAT, str(folder.resolve()), fingerprint(directory)]).encode())
    content.update((directory / "config.json").read_bytes())
    content.update(repr(preprocessing).encode())  # a frozen dataclass of numbers and names
    return content.hexdigest()[:32]


def _state(path: Path) -> State:
    try:
        status = path.stat()
    except OSError:  # a link that leads nowhere; reading it says so
        return UNREADABLE
    # That it may be read from now on changes neither size nor time.
    return (status.st_size, status.st_mtime_ns) if os.access(path, os.R_OK) else UNREADABLE


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What the cache holds.

    Attributes:
        files: every image that was looked at, as it was then.
        rows: of those that were embedded, the rows of their vectors.
        faults: why the others were not.
        vectors: (rows, width) float32.
    """

    files: dict[str, State]
    rows: dict[str, int]
    faults: dict[str, str]
    vectors: np.ndarray

    @classmethod
    def read(cls, place: Path) -> Self | None:
        """None where it is not there, or not whole."""
        try:
            record = json.loads((place / "images.json").read_text(encoding="ascii"))
            shape = (len(record["rows"]), int(record["width"]))
            path = place / "vectors.bin"
            if record["format"] != FORMAT or path.stat().st_size != 4 * shape[0] * shape[1]:
                return None
            vectors = np.memmap(path, np.float32, "r", shape=shape) if shape[0] else np.empty((0, 0), np.float32)
            files = {str(name): (int(size), int(modified)) for name, (size, modified) in record["files"].items()}
            rows = {str(name): row for row, name in enumerate(record["rows"])}
            return cls(files, rows, dict(record["faults"]), vectors)
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _build(partial: Path, kept: _Kept | None, files: dict[str, State], embedder: "_Embedder", show: Show) -> None:
    """Write what is kept of an index, as far as its files are as they were, and the vectors of others; not of all if
    that takes longer than is to be lost."""
    kept = kept or _Kept({}, {}, {}, np.empty((0, 0), np.float32))
    same = {name for name, state in files.items() if kept.files.get(name) == state}
    seen = {name: files[name] for name in same}
    faults = {name: kept.faults[name] for name in same if name in kept.faults}
    rows = [name for name in kept.rows if name in same]
    waiting = [name for name in files if name not in same]
    width, began = kept.vectors.shape[1], time.monotonic()
    with (partial / "vectors.bin").open("wb") as file:
        for first in range(0, len(rows), ROWS_AT_ONCE):
            file.write(kept.vectors[[kept.rows[name] for name in rows[first : first + ROWS_AT_ONCE]]].tobytes())
        show(len(seen), len(files))
        for names, vectors, unread in embedder.embed(waiting):
            seen |= {name: files[name] for name in (*names, *unread)}
            faults |= unread
            rows += names
            width = vectors.shape[1] if names else width
            file.write(vectors.tobytes())
            show(len(seen), len(files))
            if time.monotonic() - began > SECONDS_AT_ONCE:
                break
    record = {"format": FORMAT, "width": width, "files": seen, "rows": rows, "faults": faults}
    (partial / "images.json").write_text(json.dumps(record), encoding="ascii")  # names of files may be no UTF-8


class _Embedder:
    """Reads and embeds images.

    Args:
        model, folder, batch_size: as for `index_images`.
    """

    def __init__(self, model: Any, folder: Path, batch_size: int) -> None:
        self.folder, self.batch_size = folder, batch_size
        preprocessing: Preprocessing | None = model.preprocessing
        if preprocessing is None or preprocessing.output_size is None:
            raise UserError(f"the {model.family} model has no preprocessing that makes images of one size")
        self.preprocessing = preprocessing
        specification = tf.TensorSpec((None, *preprocessing.output_size, 3), tf.float32)

        # A graph: layer by layer, a small model would be several times slower. It is traced when first called.
        @tf.function(input_signature=[specification])
        def run(images: tf.Tensor) -> tf.Tensor:
            return l2_normalize(encode(model, {"images": images}))

        self._run = run

    def embed(self, names: Sequence[str]) -> Generator[tuple[list[str], np.ndarray, dict[str, str]]]:
        """Of one batch after another the names of the images that could be read, their vectors, (images, width)
        float32 of length 1, and by the names of the others why they could not.

        Raises:
            UserError: a vector is not finite.
        """
        table = self.preprocessing.table()
        for decoded in self._decode_all(names):
            found = {name: picture for name, picture in decoded if isinstance(picture, np.ndarray)}
            faults = {name: fault for name, fault in decoded if isinstance(fault, str)}
            vectors = np.empty((0, 0), np.float32)
            if found:
                vectors = self._run(normalize(np.stack(list(found.values())), table)).numpy()
            if not np.isfinite(vectors).all():
                raise UserError("the model makes vectors that are not finite: its weights are damaged")
            yield list(found), vectors, faults

    def _decode_all(self, names: Sequence[str]) -> Iterator[list[tuple[str, np.ndarray | str]]]:
        """Batches of what `_decode` gives; some are decoded ahead, on all cores."""
        pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="images")  # Pillow decodes without Python's lock
        waiting: deque[list[Future[tuple[str, np.ndarray | str]]]] = deque()
        try:
            for first in range(0, len(names), self.batch_size):
                waiting.append([pool.submit(self._decode, name) for name in names[first : first + self.batch_size]])
                if len(waiting) > BATCHES_AHEAD:
                    yield [each.result() for each in waiting.popleft()]
            while waiting:
                yield [each.result() for each in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, name: str) -> tuple[str, np.ndarray | str]:
        """An image as the model sees it, uint8 (height, width, 3), or why it cannot be read."""
        path = self.folder / name
        try:
            return name, fit_image(read_image(path), self.preprocessing)
        except UserError as error:
            return name, str(error).removeprefix(f"{path}: ")
