"""`bundle.json`, the table of contents of a bundle: what is in it, and the digest of every file."""

import dataclasses
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from export.metrics import PRECISIONS
from export.reference import Case
from export.runtimes import RUNTIMES
from zoo.errors import UserError
from zoo.files import write_text

FILE = "bundle.json"
FORMAT_VERSION = 3
REFERENCE = "reference"
GENERATE = "generate"  # what an artefact can that continues texts by a cache, beside its functions
LARGEST = 10_000_000  # bytes of bundle.json, which has some hundred a file
BENCH = "bench"
REPORTS = tuple(f"{name}.{kind}" for name in ("report", BENCH) for kind in ("json", "md", "png"))


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of a bundle that belong together.

    Attributes:
        path: the file or directory that they make up, relative to the bundle, with `/`.
        files: each one's path, relative to the bundle, and its SHA-256 in hexadecimal.
    """

    path: str
    files: dict[str, str]

    def altered(self, bundle: Path) -> list[str]:
        """The files that are not what they were when the bundle was made: missing, or of another digest."""
        return [
            name
            for name, expected in self.files.items()
            if not (bundle / name).is_file() or digest(bundle / name) != expected
        ]

    def size(self, bundle: Path) -> int:
        """Bytes, of the files that are there."""
        return sum((bundle / name).stat().st_size for name in self.files if (bundle / name).is_file())


@dataclasses.dataclass(frozen=True)
class Artefact(Part):
    """A model, or a part of it, in one format and precision.

    Attributes:
        runtime: what runs it, a name in `export.runtimes.RUNTIMES`.
        precision: what its weights are kept in, a name in `export.metrics.PRECISIONS`.
        functions: which functions of the model it has, of those that there are cases of, and what it calls each of
            them; and `GENERATE`.
        sizes: what the axes are that vary in the model and do not here: "batch", "tokens".
        names: of inputs and outputs, ours to its own; where there are any, outputs without one are left out. Empty
            where they have our names.
    """

    runtime: str
    precision: str
    functions: dict[str, str]
    sizes: dict[str, int]
    names: dict[str, str]

    def takes(self, case: Case) -> bool:
        """Whether it can be run on a case: it has the function, and the case fits into its sizes."""
        mask = case.inputs.get("padding_mask")
        tokens = 0 if mask is None else mask.shape[1]
        return case.function in self.functions and tokens <= self.sizes.get("tokens", tokens)

    def check(self) -> None:
        """Raise ValueError where its fields, which came from a file, are not what they should be."""
        if self.runtime not in RUNTIMES:
            raise ValueError(f"unknown runtime {self.runtime!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}")
        if not isinstance(self.functions, dict) or not all(isinstance(name, str) for name in self.functions.values()):
            raise ValueError("its functions have no names")
        if not isinstance(self.names, dict) or not all(isinstance(name, str) for name in self.names.values()):
            raise ValueError("its names are no texts")
        if not isinstance(self.sizes, dict) or not all(type(size) is int and size > 0 for size in self.sizes.values()):
            raise ValueError("its sizes are no numbers")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a bundle holds.

    Attributes:
        name: the model's name for TensorFlow Serving.
        family: "gpt", ...
        task: what the model was made for, as in `zoo.create`.
        inputs: each one's `zoo.model.TensorSpec` as JSON has it.
        outputs: the names of what the model gives.
        artefacts: by name: "saved_model", "tflite", "onnx_int8", ...
        reference: inputs, and the Keras model's outputs for them.
        beside: what a client needs besides: the configuration, the tokenizer.

    The digests hold a bundle together: a file that is altered, missing or added is told. They do not say who made it.
    """

    name: str
    family: str
    task: str
    inputs: list[dict[str, Any]]
    outputs: list[str]
    artefacts: dict[str, Artefact]
    reference: Part
    beside: Part

    def added(self, bundle: Path) -> list[str]:
        """The files that were not there when the bundle was made: a server might take one for a newer version."""
        parts = (self.reference, self.beside, *self.artefacts.values())
        known = {FILE, *REPORTS}.union(*(part.files for part in parts))
        found = (file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if not file.is_dir())
        return sorted(set(found) - known)

    def write(self, bundle: Path) -> None:
        """Write `bundle.json`."""
        write_text(
            bundle / FILE,
            json.dumps({"format_version": FORMAT_VERSION} | dataclasses.asdict(self), indent=2) + "\n",
        )

    @staticmethod
    def read(bundle: Path) -> "Manifest":
        """Read `bundle.json`, which may come from anywhere.

        Raises:
            UserError: it is missing, of another version, broken, or leads out of the bundle.
        """
        file = bundle / FILE
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError(f"{file.stat().st_size:,} bytes are too many")
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{bundle} is no bundle: it has no {FILE}; `zoo export` makes one") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file} cannot be read ({error}): export the model again") from None
        version = content.pop("format_version", None) if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise UserError(f"{file} has format_version {version!r}, and this program reads {FORMAT_VERSION}")
        try:
            artefacts = {str(name): Artefact(**fields) for name, fields in content.pop("artefacts").items()}
            reference, beside = Part(**content.pop("reference")), Part(**content.pop("beside"))
            manifest = Manifest(**content, artefacts=artefacts, reference=reference, beside=beside)
            parts = [reference, beside, *artefacts.values()]
            if not all(isinstance(part.path, str) and isinstance(part.files, dict) for part in parts):
                raise ValueError("a path or a list of files is not one")
            paths = [path for part in parts for path in (part.path, *part.files)]
            if not artefacts:
                raise ValueError("no artefacts")
            for artefact in artefacts.values():
                artefact.check()
            outside = [path for path in paths if not _is_inside(bundle, path)]
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise UserError(f"{file} is not a bundle's table of contents ({error}): export the model again") from None
        if outside:
            raise UserError(f"{file} names {outside[0]!r}, which is not inside the bundle: do not trust it")
        return manifest


def _is_inside(bundle: Path, path: str) -> bool:
    # A link that leads out is as bad as "..".
    return not PurePosixPath(path).is_absolute() and (bundle / path).resolve().is_relative_to(bundle.resolve())


def digests(bundle: Path, path: str) -> dict[str, str]:
    """The files at `path`, with their digests: all in it where it is a directory, else it and what is named like it
    with more added (as large ONNX files keep their weights)."""
    whole = bundle / path
    files = whole.rglob("*") if whole.is_dir() else whole.parent.glob(whole.name + "*")
    return {file.relative_to(bundle).as_posix(): digest(file) for file in sorted(files) if file.is_file()}


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
