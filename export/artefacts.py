"""The files of a bundle: which there are of a model, in which formats and precisions, and what each can do."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from export.manifest import GENERATE, Artefact, digests
from export.metrics import PRECISIONS
from export.onnx import write_onnx
from export.onnx_folder import check_folder, folder_file, folder_names, write_onnx_folder
from export.onnx_quantize import quantize_onnx
from export.processes import ChildFailure
from export.reference import PREFIX, Tensors
from export.saved_model import IMAGE_BYTES, served_signatures, write_saved_model
from export.signatures import (
    SERVING,
    Signature,
    device_cache_signatures,
    generates,
    growing_cache_signature,
    portable_signatures,
    signatures,
)
from export.text_model import make_tokenizer, reads_text, text_signatures, write_text_model
from export.tflite import fix_shapes, write_tflite
from export.verify import time_limit
from zoo.errors import UserError
from zoo.model import ZooModel

FORMATS = ("saved_model", "tflite", "onnx", "huggingface")
USUAL = FORMATS[:3]
HUGGINGFACE = "huggingface"
FULL_INT8 = "int8_full"  # arithmetic in integers too: TFLite only, and by images that show how large numbers become
OF_ONNX = tuple(name for name in PRECISIONS if name != FULL_INT8)
PREFILLS = (8, 64, 256)  # tokens that a TFLite file of a language model can read at once


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to write of a model.

    Attributes:
        formats: of `FORMATS`. "huggingface" is a folder of the ONNX files as the hub has them, under other names.
        precisions: of `export.metrics.PRECISIONS`. A SavedModel is always float32.
        tokens: TFLite files take one text of so many tokens, or one image, and no other shapes. None for one text of
            any length, or any number of images.

    Raises:
        UserError: an unknown format or precision, none of them, or no number of tokens.
    """

    formats: tuple[str, ...] = USUAL
    precisions: tuple[str, ...] = ("float32",)
    tokens: int | None = None

    def __post_init__(self) -> None:
        for what, given, known in (("format", self.formats, FORMATS), ("precision", self.precisions, PRECISIONS)):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise UserError(f"unknown {what} {unknown[0]!r}: known are {', '.join(known)}")
            if not given:
                raise UserError(f"no {what} given")
        if self.tokens is not None and self.tokens < 1:
            raise UserError(f"the fixed number of tokens is {self.tokens}, and must be 1 or more")
        if not {"tflite", "onnx"} & {*self.formats} and {*self.precisions} != {"float32"}:
            raise UserError("a SavedModel is float32: TFLite and ONNX files come in other precisions")
        if "onnx" in self.formats and {*self.precisions} == {FULL_INT8}:
            raise UserError(f"{FULL_INT8} is for TFLite: ONNX files come in {', '.join(OF_ONNX)}")
        if HUGGINGFACE in self.formats and "onnx" not in self.formats:
            raise UserError("the huggingface folder is made of the ONNX files: ask for onnx too")

    def check(self, model: ZooModel) -> None:
        """Raise UserError where this cannot be written of `model`."""
        if model.compute_dtype != "float32":
            raise UserError(f"the model computes in {model.compute_dtype}: load it with dtype float32 to export it")
        if FULL_INT8 in self.precisions and ("tflite" not in self.formats or model.preprocessing is None):
            raise UserError(f"{FULL_INT8} is for models that see images, in TFLite")
        if HUGGINGFACE in self.formats:
            check_folder(model)
        axes = [axis for spec in model.input_specs for axis in spec.shape if not isinstance(axis, int)]
        longest = next((axis.maximum for axis in axes if axis.name == "tokens"), None)
        if self.tokens is not None and longest is not None and self.tokens > longest:
            raise UserError(f"the fixed number of tokens is {self.tokens}, and the model reads at most {longest}")


def write_artefacts(
    model: ZooModel,
    bundle: Path,
    plan: Plan,
    calibration: Iterable[Tensors],
    progress: Callable[[str], None],
) -> dict[str, Artefact]:
    """Write the files into `bundle`; returns what they are, by name.

    Args:
        model: compute dtype float32.
        bundle: a directory.
        plan: what to write.
        calibration: inputs that occur, for what computes in integers.
        progress: called with a line before each step.

    Raises:
        ChildFailure: a conversion failed.
        OSError: the disk is full.
    """
    writer = _Writer(model, bundle, plan, list(calibration), progress)
    found = writer.write_saved_model()
    if "tflite" in plan.formats:
        found |= writer.write_tflite()
    if "onnx" in plan.formats:
        found |= writer.write_onnx()
    if HUGGINGFACE in plan.formats:
        found |= writer.write_folder(found)
    if "saved_model" not in plan.formats:  # the other formats are made from it
        shutil.rmtree(bundle / "saved_model")
        found = {name: artefact for name, artefact in found.items() if not name.startswith("saved_model")}
    return found


@dataclasses.dataclass(frozen=True)
class _Writer:
    model: ZooModel
    bundle: Path
    plan: Plan
    calibration: list[Tensors]
    progress: Callable[[str], None]

    def write_saved_model(self) -> dict[str, Artefact]:
        self.progress("writing saved_model")
        path = f"saved_model/{self.model.family}/1"
        served = served_signatures(self.model)
        write_saved_model(self.model, self.bundle / path, served)
        names = [each.name for each in signatures(self.model)]
        names += [each.name for each in served if each.name.endswith(IMAGE_BYTES)]
        found = {"saved_model": self._artefact(path, "tensorflow", "float32", names)}
        if reads_text(self.model) and "saved_model" in self.plan.formats:
            path = f"saved_model/{self.model.family}_text/1"
            try:
                functions = text_signatures(self.model, make_tokenizer(self.model))
            except UserError as error:
                self.progress(f"leaving out saved_model_text: {error}")
                return found
            self.progress("writing saved_model_text")
            write_text_model(self.model, self.bundle / path)
            artefact = self._artefact(path, "tensorflow_text", "float32", [])
            named = {PREFIX + each.name: each.name for each in functions}
            found["saved_model_text"] = dataclasses.replace(artefact, functions=named)
        return found

    def write_tflite(self) -> dict[str, Artefact]:
        functions, sizes = portable_signatures(self.model), {}
        # XNNPACK takes a graph whole while one axis at most is free: of texts, it is their length.
        if self.plan.tokens is not None or reads_text(self.model):
            functions = [fix_shapes(each, batch=1, tokens=self.plan.tokens) for each in functions]
            sizes = {"batch": 1} | ({} if self.plan.tokens is None else {"tokens": self.plan.tokens})
        names = [each.name for each in functions]
        if generates(self.model):
            context = self.model.config.max_length
            functions += device_cache_signatures(self.model, context, tuple(n for n in PREFILLS if n < context))
        found = {}
        for precision in self.plan.precisions:
            name, file = _named("tflite", precision), f"model{_suffix(precision)}.tflite"
            with self._converting(name):
                write_tflite(
                    self.model,
                    functions,
                    self.bundle / file,
                    precision=precision,
                    calibration=self.calibration,
                    timeout=self._limit,
                )
            found[name] = self._artefact(file, "litert", precision, names, sizes)
        return found

    def write_onnx(self) -> dict[str, Artefact]:
        found = {}
        functions = portable_signatures(self.model)
        if generates(self.model):
            functions = [growing_cache_signature(self.model)]
        saved_model = self.bundle / f"saved_model/{self.model.family}/1"
        for function in functions:
            base = "model" if len(functions) == 1 else function.name
            kind = "onnx" if len(functions) == 1 else f"onnx_{function.name}"
            whole = self.bundle / f"{base}.onnx"
            with self._converting(kind):
                write_onnx(self.model, function, saved_model, whole, self._limit)
            for precision in (each for each in self.plan.precisions if each in OF_ONNX):
                name, file = _named(kind, precision), f"{base}{_suffix(precision)}.onnx"
                if precision != "float32":
                    with self._converting(name):
                        quantize_onnx(whole, self.bundle / file, precision, self._limit)
                answers = SERVING if generates(self.model) else function.name
                found[name] = self._artefact(file, "onnxruntime", precision, [answers])
            if "float32" not in self.plan.precisions:
                for part in digests(self.bundle, whole.name):
                    (self.bundle / part).unlink()
        return found

    def write_folder(self, found: dict[str, Artefact]) -> dict[str, Artefact]:
        """A Hugging Face style folder of the ONNX files that were found."""
        self.progress("writing the huggingface folder")
        own = {name: each for name, each in found.items() if each.runtime == "onnxruntime"}
        files: dict[str, dict[str, Path]] = {}
        for artefact in own.values():
            by_precision = files.setdefault(self._onnx_function(artefact).name, {})
            by_precision[artefact.precision] = self.bundle / artefact.path
        write_onnx_folder(self.model, files, self.bundle / HUGGINGFACE, self._limit)
        renamed = {}
        for name, artefact in own.items():
            function = self._onnx_function(artefact)
            path = f"{HUGGINGFACE}/onnx/{folder_file(function.name, artefact.precision)}"
            names = folder_names(self.model, [*(spec.name for spec in function.inputs), *function.outputs])
            renamed[name.replace("onnx", HUGGINGFACE, 1)] = dataclasses.replace(
                artefact, path=path, files=digests(self.bundle, path), names=names
            )
        return renamed

    def _onnx_function(self, artefact: Artefact) -> Signature:
        """What an ONNX file computes."""
        if generates(self.model):
            return growing_cache_signature(self.model)
        return next(each for each in portable_signatures(self.model) if each.name in artefact.functions)

    @property
    def _limit(self) -> float:
        return time_limit(4 * self.model.count_params())

    @contextlib.contextmanager
    def _converting(self, name: str) -> Iterator[None]:
        self.progress(f"converting to {name}")
        try:
            yield
        except ChildFailure as failure:
            raise ChildFailure(f"the conversion to {name} failed: {failure}") from failure

    def _artefact(
        self, path: str, runtime: str, precision: str, functions: list[str], sizes: dict[str, int] | None = None
    ) -> Artefact:
        can = {name: name for name in functions} | ({GENERATE: GENERATE} if generates(self.model) else {})
        return Artefact(path, digests(self.bundle, path), runtime, precision, can, sizes or {}, {})


def _named(kind: str, precision: str) -> str:
    return kind if precision == "float32" else f"{kind}_{precision}"


def _suffix(precision: str) -> str:
    return "" if precision == "float32" else f".{precision}"
