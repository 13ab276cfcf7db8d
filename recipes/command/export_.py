"""`zoo export SOURCE --out BUNDLE`: a model made portable, with the proof that nothing was lost."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from recipes.engine.start import start_tensorflow
from recipes.export_data import Read, open_data, sample_data
from recipes.measuring import AnyColumns, Measured
from zoo.directory import Saved, find_model_directory, read_saved
from zoo.errors import UserError
from zoo.files import require_free, require_outside

PRECISIONS = {"none": "float32", "fp16": "float16", "int8": "int8", "int8_full": "int8_full", "int4": "int4"}


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a model as SavedModel (TensorFlow Serving), TFLite (LiteRT) and ONNX, run each in its own runtime, and
    compare it with the Keras model. A bundle that is out of tolerance is not written.

    Files in float32 are held to the model's outputs, quantised ones to the metric of the task on real inputs: the
    accuracy where --data is a table or a folder of images whose classes are known, the perplexity of a language model,
    of prompts that of their completions, and else how often both choose alike, or the cosine of their vectors.
    """

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Model directory, or a run that holds one."""
    out: Path
    """Bundle to make."""
    formats: str = "saved_model,tflite,onnx"
    """Which to write, with commas between; also huggingface: a folder of the ONNX files as Optimum and transformers.js
    look for them."""
    quantize: str = "none"
    """Precisions of TFLite and ONNX files, with commas between: none (float32), fp16, int8 (weights; dynamic range),
    int4 (weights), and for models that see images int8_full (TFLite, arithmetic in integers too)."""
    tokens: int | None = None
    """TFLite files for one text of exactly so many tokens, or one image, every shape fixed; None for one text of any
    length, or any number of images."""
    data: Path | None = None
    """What to compare on, as zoo eval takes it for the task: a table of labelled texts, tagged sentences, questions,
    pairs, prompts, or images with captions; a folder of label/name.jpg; else, and for embeddings too, text. Without it
    Python's own documentation, and parts of photographs."""
    columns: AnyColumns = dataclasses.field(default_factory=AnyColumns)
    force: bool = False
    """Replace what is in --out, and keep a bundle that is out of tolerance."""
    json: bool = False
    """Print the report as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Export, arguments, "zoo export")
    require_free(settings.out, settings.force, marker="bundle.json")
    require_outside(settings.out, (settings.source, settings.data))
    precisions = [PRECISIONS.get(name, "") for name in _listed(settings.quantize)]
    if "" in precisions:
        wrong = _listed(settings.quantize)[precisions.index("")]
        raise UserError(f"--quantize has {wrong!r}, and may have {', '.join(PRECISIONS)}")
    saved = read_saved(find_model_directory(settings.source))
    read = _read_data(settings, saved)

    start_tensorflow()
    import zoo
    from export.artefacts import Plan
    from export.bundle import export_bundle
    from recipes.command.reporting import print_report, tell

    plan = Plan(tuple(_listed(settings.formats)), tuple(dict.fromkeys(precisions)), settings.tokens)
    model = zoo.load(settings.source)
    data = read(model)
    report = export_bundle(
        model,
        settings.out,
        plan=plan,
        texts=data.texts,
        images=data.images,
        examples=data.examples,
        force=settings.force,
        progress=tell,
    )
    print_report(report, as_json=settings.json)
    return 0 if report.passed else 1


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _read_data(settings: Export, saved: Saved) -> Read:
    """What makes of the model what it is compared on."""
    if settings.data is not None:
        return open_data(Measured(settings.source, settings.data, columns=settings.columns), saved)
    for name, column in dataclasses.asdict(settings.columns).items():
        if column:
            raise UserError(f"--{name.replace('_', '-')} is of a table: give that with --data")
    clip = saved.family.name == "clip"
    found = sample_data(clip or hasattr(saved.config, "vocabulary_size"), clip or hasattr(saved.config, "patch_size"))
    return lambda model: found
