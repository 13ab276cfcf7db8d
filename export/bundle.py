"""A bundle: one model in every format, with what a client needs beside it and the proof that all compute the same."""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from export.manifest import FILE as MANIFEST
from export.manifest import REFERENCE, Artefact, Manifest, Part, digests
from export.onnx import write_onnx
from export.processes import ChildFailure, writing
from export.reference import make_cases
from export.report import Report
from export.saved_model import served_signatures, write_saved_model
from export.signatures import signatures
from export.tflite import write_tflite
from export.verify import measure, time_limit
from zoo.directory import write_config, write_labels
from zoo.errors import UserError
from zoo.files import whole_directory
from zoo.model import ZooModel

FORMATS = ("saved_model", "tflite", "onnx")


def export_bundle(
    model: ZooModel,
    out: Path,
    *,
    formats: Sequence[str] = FORMATS,
    texts: Sequence[str] = (),
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Write `model` to the directory `out` in every format asked for, and verify each one there.

        saved_model/NAME/1/   for TensorFlow Serving; NAME is the model's family
        model.tflite          for LiteRT, built-in operators only
        model.onnx            for ONNX Runtime, opset 18 (and model.onnx.data where weights exceed 2 GB)
        tokenizer/            the tokenizer's files, where there is one
        labels.txt            the names of the classes, where they have some
        preprocessing.json    what images go through before the model sees them, where it sees any
        config.json           the model's configuration
        reference/            inputs, and the Keras model's outputs, for `zoo verify` later
        report.json, .md      what was measured
        bundle.json           the table of contents

    Args:
        model: compute dtype float32.
        out: appears when it is whole, and not at all if anything fails.
        formats: of `FORMATS`.
        texts: real text to compare on, tokenized by the model's tokenizer.
        force: replace what `out` holds now, and keep a bundle that fails its verification.
        progress: called with a line before each step.

    Raises:
        UserError: `out` is taken or cannot be written, an unknown format, an export that was interrupted, that a
            converter refused, or that is out of tolerance.
    """
    out = Path(out)
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UserError(
            f"unknown format {unknown[0]!r}: known are {', '.join(FORMATS)}" if unknown else "no format given"
        )
    if model.compute_dtype != "float32":
        raise UserError(f"the model computes in {model.compute_dtype}: load it with dtype float32 to export it")
    try:
        with writing(out), whole_directory(out, force, marker=MANIFEST) as partial:
            _fill(model, partial, formats, texts, progress)
            report = measure(partial, progress)
            report.write(partial)
            if not report.passed and not force:
                raise UserError(f"{'; '.join(report.failure_lines())}: nothing was written to {out}")
    except KeyboardInterrupt:
        raise UserError(f"export interrupted: nothing was written to {out}") from None
    except ChildFailure as failure:
        raise UserError(f"{failure}: nothing was written to {out}") from failure
    return report


def _fill(
    model: ZooModel, bundle: Path, formats: Sequence[str], texts: Sequence[str], progress: Callable[[str], None]
) -> None:
    limit = time_limit(4 * model.count_params())
    path = f"saved_model/{model.family}/1"
    progress("writing saved_model")
    serving = signatures(model)[0]
    write_saved_model(model, bundle / path, served_signatures(model))
    artefacts = {"saved_model": _artefact(bundle, path, "tensorflow")}
    converters = {
        "tflite": ("model.tflite", "litert", lambda file: write_tflite(bundle / path, [serving.name], file, limit)),
        "onnx": ("model.onnx", "onnxruntime", lambda file: write_onnx(model, serving, bundle / path, file, limit)),
    }
    for name, (file, runtime, convert) in converters.items():
        if name in formats:
            progress(f"converting to {name}")
            try:
                convert(bundle / file)
            except ChildFailure as failure:
                raise ChildFailure(f"the conversion to {name} failed: {failure}") from failure
            artefacts[name] = _artefact(bundle, file, runtime)
    if "saved_model" not in formats:  # the other formats are made from it
        shutil.rmtree(bundle / "saved_model")
        del artefacts["saved_model"]

    progress("computing the reference")
    (bundle / REFERENCE).mkdir()
    for case in make_cases(model, texts):
        case.save(bundle / REFERENCE)
    if model.tokenizer is not None:
        model.tokenizer.save(bundle / "tokenizer")
    if model.preprocessing is not None:
        model.preprocessing.save(bundle)
    write_labels(bundle, model.labels)
    write_config(bundle, model.family, model.task, model.config)
    beside = [digests(bundle, name) for name in ("config.json", "labels.txt", "preprocessing.json", "tokenizer")]
    Manifest(
        name=model.family,
        family=model.family,
        task=model.task,
        inputs=[dataclasses.asdict(spec) for spec in model.input_specs],
        outputs=list(model.output_names),
        artefacts=artefacts,
        reference=Part(REFERENCE, digests(bundle, REFERENCE)),
        beside=Part("config.json", {name: digest for part in beside for name, digest in part.items()}),
    ).write(bundle)


def _artefact(bundle: Path, path: str, runtime: str) -> Artefact:
    return Artefact(path, digests(bundle, path), runtime)
