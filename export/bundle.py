"""A bundle: one model in every format, with what a client needs beside it and the proof that all compute the same."""

import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from export.artefacts import FULL_INT8, HUGGINGFACE, PREFILLS, Plan, write_artefacts
from export.continuation import continue_prompts
from export.image_reference import make_image_cases
from export.manifest import FILE as MANIFEST
from export.manifest import GENERATE, REFERENCE, Artefact, Manifest, Part, digests
from export.processes import ChildFailure, heeding_interrupts, writing
from export.real import Examples, make_examples
from export.reference import LATENCY, PREFIX, Tensors, make_cases, make_real_cases
from export.report import Report
from export.saved_model import IMAGE_BYTES
from export.signatures import portable_signatures, signatures
from export.text_reference import make_text_cases
from export.verify import measure
from zoo.directory import write_config, write_labels
from zoo.errors import UserError
from zoo.files import remove_remains, whole_directory
from zoo.model import ZooModel

PICTURES = 2  # images, as files, that a model of images and strings is compared on
# What a language model continues for the proof: as many tokens as reach into every function that reads several at once.
PROMPTS, NEW_TOKENS = tuple(size + 3 for size in PREFILLS), 16


@dataclasses.dataclass(frozen=True)
class _Data:
    """What an export is compared on."""

    texts: Sequence[str]
    images: Sequence[np.ndarray]
    examples: Examples


def export_bundle(
    model: ZooModel,
    out: Path,
    *,
    plan: Plan | None = None,
    texts: Sequence[str] = (),
    images: Sequence[np.ndarray] = (),
    examples: Examples | None = None,
    force: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Report:
    """Write `model` to the directory `out` in every format and precision asked for, and verify each file there.

        saved_model/NAME/1/   for TensorFlow Serving; NAME is the model's family. NAME_text/1/ takes strings and answers
                              in strings, where the tokenizer can be part of a graph
        model.tflite          for LiteRT, built-in operators only
        model.onnx            for ONNX Runtime, opset 18 (and model.onnx.data where weights exceed 2 GB); of two towers
                              encode_image.onnx and encode_text.onnx
        model.int8.tflite, .. the same in other precisions
        huggingface/          where asked for, the ONNX files as the hub has them, with what goes with them
        tokenizer/            the tokenizer's files, where there is one
        labels.txt            the names of the classes, where they have some
        preprocessing.json    what images go through before the model sees them, where it sees any
        config.json           the model's configuration
        reference/            inputs, and the Keras model's outputs, for `zoo verify` later
        report.json, .md      what was measured, and .png, which shows it
        bundle.json           the table of contents

    Args:
        model: compute dtype float32.
        out: appears when it is whole, and not at all if anything fails. What an export that was killed left beside it
            is removed.
        plan: which formats, precisions and shapes; None for every format in float32.
        texts: real text to compare on, tokenized by the model's tokenizer.
        images: real images to compare on and to calibrate by, uint8 (height, width, 3) of any sizes.
        examples: what to judge quantised files by, where more is known than texts and images; None for those.
        force: replace what `out` holds now, and keep a bundle that fails its verification.
        progress: called with a line before each step.

    Raises:
        UserError: `out` is taken or cannot be written, something that cannot be written of this model, an export that
            was interrupted, that a converter refused, or that is out of tolerance.
    """
    out, plan = Path(out), plan or Plan()
    plan.check(model)
    if out.parent.is_dir():
        remove_remains(out.parent, out.name)
    try:
        with heeding_interrupts() as heed, writing(out), whole_directory(out, force, marker=MANIFEST) as partial:

            def tell(line: str) -> None:
                heed()
                progress(line)

            data = _Data(texts, images, _examples(model, plan, texts, images, examples))
            _check_judged(model, plan, data.examples)
            _fill(model, partial, plan, data, tell)
            report = measure(partial, tell)
            report.write(partial)
            heed()
            if not report.passed and not force:
                raise UserError(f"{'; '.join(report.failure_lines())}: nothing was written to {out}")
    except KeyboardInterrupt:
        raise UserError(f"export interrupted: nothing was written to {out}") from None
    except ChildFailure as failure:
        raise UserError(f"{failure}: nothing was written to {out}") from failure
    return report


def _examples(
    model: ZooModel, plan: Plan, texts: Sequence[str], images: Sequence[np.ndarray], given: Examples | None
) -> Examples:
    """What to judge quantised files by, in as many tokens as they take."""
    examples = given if given is not None and given.batches else make_examples(model, texts, images, plan.tokens)
    return examples if plan.tokens is None else examples.fitting(plan.tokens)


def _check_judged(model: ZooModel, plan: Plan, examples: Examples) -> None:
    """Raise UserError where a quantised file would pass for want of anything real."""
    for function in portable_signatures(model):
        if {*plan.precisions} != {"float32"} and not examples.of([spec.name for spec in function.inputs]).batches:
            fit = "" if plan.tokens is None else f" of at most {plan.tokens} tokens"
            raise UserError(
                f"there is nothing real{fit} to judge quantised files of {function.name} by: give it as --data"
            )


def _fill(
    model: ZooModel,
    bundle: Path,
    plan: Plan,
    data: _Data,
    progress: Callable[[str], None],
) -> None:
    calibration: list[Tensors] = []
    if FULL_INT8 in plan.precisions:
        first, others = data.examples.divide()
        progress(f"integers reach as far as {first.rows} examples need, and are judged by {others.rows} others")
        calibration, data = [inputs for inputs, _ in first.batches], dataclasses.replace(data, examples=others)
    artefacts = write_artefacts(model, bundle, plan, calibration, progress)
    progress("computing the reference")
    (bundle / REFERENCE).mkdir()
    _write_reference(model, bundle / REFERENCE, artefacts, plan, data)
    if model.tokenizer is not None:
        model.tokenizer.save(bundle / "tokenizer")
    if model.preprocessing is not None:
        model.preprocessing.save(bundle)
    write_labels(bundle, model.labels)
    write_config(bundle, model.family, model.task, model.config)
    names = ("config.json", "labels.txt", "preprocessing.json", "tokenizer", HUGGINGFACE)
    held = {file for artefact in artefacts.values() for file in artefact.files}
    beside = {file: each for name in names for file, each in digests(bundle, name).items() if file not in held}
    Manifest(
        name=model.family,
        family=model.family,
        task=model.task,
        inputs=[dataclasses.asdict(spec) for spec in model.input_specs],
        outputs=list(model.output_names),
        artefacts=artefacts,
        reference=Part(REFERENCE, digests(bundle, REFERENCE)),
        beside=Part("config.json", beside),
    ).write(bundle)


def _write_reference(model: ZooModel, directory: Path, artefacts: dict[str, Artefact], plan: Plan, data: _Data) -> None:
    """The cases of every function that an artefact has, and what the model writes after some prompts."""
    text_ids = np.zeros(0, "int32")
    if model.tokenizer is not None:
        text_ids = np.array([id for text in data.texts for id in model.tokenizer.encode(text)], "int32")
    wanted = {function for artefact in artefacts.values() for function in artefact.functions}
    for function in signatures(model):
        if function.name in wanted:
            own = data.examples.of([spec.name for spec in function.inputs])
            for case in make_cases(function, text_ids, plan.tokens or LATENCY):
                case.save(directory)
            for case in make_real_cases(function, own.batches, own.metric):
                case.save(directory)
    pictures = [_encode(image) for image in list(data.images[:PICTURES]) or _noise(PICTURES)]
    if any(name.endswith(IMAGE_BYTES) for name in wanted):
        for case in make_image_cases(model, pictures):
            case.save(directory)
    if any(name.startswith(PREFIX) for name in wanted):
        for case in make_text_cases(model, data.texts, pictures):
            if case.function in wanted:
                case.save(directory)
    if GENERATE in wanted:
        room = model.config.max_length
        count = min(NEW_TOKENS, room // 2)
        lengths = sorted({max(1, min(length, room - count)) for length in PROMPTS})
        ids = text_ids if len(text_ids) else np.arange(model.config.vocabulary_size, dtype="int32")
        starts = (place * len(ids) // len(lengths) for place in range(len(lengths)))
        prompts = [np.resize(ids[start:], length).tolist() for start, length in zip(starts, lengths, strict=True)]
        continue_prompts(model, prompts, count).save(directory)


def _noise(count: int) -> list[np.ndarray]:
    """Images of a usual size, where there are no real ones."""
    return [*np.random.default_rng(0).integers(0, 256, (count, 192, 256, 3), "uint8")]


def _encode(image: np.ndarray) -> bytes:
    """As a PNG file."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()
