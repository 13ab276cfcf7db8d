"""Reading and writing safetensors: one file, or several with an index, as untrusted input."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - makes bfloat16 known to NumPy
import numpy as np
import safetensors
import safetensors.numpy

from zoo.errors import UserError

Shape = tuple[int, ...]

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
LARGEST_INDEX = 64 * 2**20  # bytes
FLOATS = ("float16", "bfloat16", "float32", "float64")


class Tensors(Mapping[str, Shape]):
    """The tensors of a checkpoint: name to shape, and `read` for what is in one. Nothing is read before that."""

    def __init__(self, path: Path, shapes: dict[str, Shape], files: dict[str, Path]) -> None:
        self.path = path
        self._shapes = shapes
        self._files = files

    def __getitem__(self, name: str) -> Shape:
        return self._shapes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def misfit(self, name: str, shape: Shape) -> str | None:
        """What is wrong with the shape of a tensor; None where it is `shape`."""
        # What comes from the file may be of any length.
        return None if self[name] == shape else f"{name} is {self[name]!r:.80} and must be {shape}"

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32, whichever width of floating-point numbers it is stored in.

        Raises:
            UserError: it holds anything else.
        """
        # An open file is mapped into memory, and what was read stays there: so it is opened for each tensor.
        with safetensors.safe_open(self._files[name], framework="numpy") as file:
            tensor = file.get_tensor(name)
        if str(tensor.dtype) not in FLOATS:
            raise UserError(
                f"{self.path}: {name!r:.80} holds {tensor.dtype}, and must hold floating-point numbers "
                f"({', '.join(FLOATS)})"
            )
        return tensor.astype(np.float32, copy=False)


def find_tensors(directory: Path, record: Mapping[str, Any] | None = None) -> Path:
    """The file that leads to the weights in a model directory: the one file of them, or the index of several.

    Args:
        directory: the model's.
        record: the content of a `config.json` of Hugging Face's, for the message where only a pickle is there.

    Raises:
        UserError: there is neither.
    """
    for name in (FILE, INDEX):
        if (directory / name).is_file():
            return directory / name
    if any((directory / name).is_file() for name in PICKLES):
        raise UserError(
            f"{directory}: has its weights in a pickle alone, which can run code and is never opened: "
            f"{conversion(str(directory), f'{directory.name}-safetensors', record)}"
        )
    raise UserError(f"{directory}: there is no {FILE}, and no {INDEX}")


def fingerprint(directory: Path) -> str:
    """SHA-256 of the weights in a model directory, as their files are, in hexadecimal."""
    content = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()


def conversion(source: str, target: str, record: Any) -> str:
    """How to make safetensors of a checkpoint that is a pickle, in words and as a command.

    Args:
        source: the directory, or the name on the hub.
        target: the directory to write.
        record: the content of its `config.json`.
    """
    names = record.get("architectures") if isinstance(record, dict) else None
    name = names[0] if isinstance(names, list) and names and str(names[0]).isidentifier() else "AutoModel"
    load, save = f"{name}.from_pretrained('{source}')", f"save_pretrained('{target}')"
    return (
        "convert it where transformers is installed, and copy its tokenizer's files beside, by "
        f'python -c "import transformers; transformers.{load}.{save}"'
    )


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Tensors]:
    """Open what `find_tensors` found.

    Raises:
        UserError: a file is missing or corrupt, or is found to be while it is read from.
    """
    try:
        if path.name.endswith(".index.json"):
            yield _open_shards(path)
        else:
            shapes = _read_shapes(path)
            yield Tensors(path, shapes, dict.fromkeys(shapes, path))
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not a readable safetensors file: {reason}") from None


def _read_shapes(path: Path) -> dict[str, Shape]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping


def _open_shards(path: Path) -> Tensors:
    if path.stat().st_size > LARGEST_INDEX:
        raise ValueError(f"{path.stat().st_size:,} bytes is too large for an index")
    index = json.loads(path.read_text(encoding="utf-8"))
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict):
        raise ValueError("it has no weight_map")
    opened: dict[str, dict[str, Shape]] = {}
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{name!r:.80} is not the name of a safetensors file beside it")
        if name not in opened:
            if not (path.parent / name).is_file():
                raise UserError(f"{path}: {name!r:.80}, which it names, is missing: fetch the checkpoint again")
            opened[name] = _read_shapes(path.parent / name)
    for tensor, name in shards.items():
        if tensor not in opened[name]:
            raise ValueError(f"{tensor!r:.80} is not in {name}, where it is said to be")
    # What the index leaves out is there all the same, and to be found unexpected.
    where = {tensor: name for name, shapes in opened.items() for tensor in shapes} | shards
    return Tensors(
        path,
        {tensor: opened[name][tensor] for tensor, name in where.items()},
        {tensor: path.parent / name for tensor, name in where.items()},
    )


def total_bytes(path: Path) -> int:
    """The size of the weights that `find_tensors` found, on disk."""
    if path.name == FILE:
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.parent.glob("*.safetensors"))


def write_tensors(tensors: Mapping[str, np.ndarray], path: Path, framework: str) -> None:
    """Write named tensors to a file; `framework` ("tf", "pt") is whose layout the names and shapes are.

    Raises:
        OSError: it cannot be written.
    """
    whole = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    # A scalar comes back from `ascontiguousarray` with one axis.
    whole = {name: value.reshape(tensors[name].shape) for name, value in whole.items()}
    try:
        safetensors.numpy.save_file(whole, path, metadata={"format": framework})
    except safetensors.SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
