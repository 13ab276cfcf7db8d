"""`zoo export SOURCE --out BUNDLE`: a model made portable, with the proof that nothing was lost."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from recipes.data import image_columns
from recipes.data.tables import open_table
from recipes.data.text import first_text
from recipes.engine.start import start_tensorflow
from recipes.export_data import IMAGES, ExportData, examples_from, sample_data
from recipes.measures import ImageClassification
from recipes.measuring import AnyColumns, Measured, open_measure, read_images
from zoo.directory import Saved, find_model_directory, read_saved
from zoo.errors import UserError
from zoo.files import require_free, require_outside

PRECISIONS = {"none": "float32", "fp16": "float16", "int8": "int8", "int8_full": "int8_full", "int4": "int4"}
JUDGED = ("classify", "tag")  # tasks whose data says what is right
BATCH = 16


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a model as SavedModel (TensorFlow Serving), TFLite (LiteRT) and ONNX, run each in its own runtime, and
    compare it with the Keras model. A bundle that is out of tolerance is not written.

    Files in float32 are held to the model's outputs, quantised ones to the metric of the task on real inputs: the
    accuracy where --data is a table or a folder of images whose classes are known, the perplexity of a language model,
    and else how often both choose alike, or the cosine of their vectors.
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
    """What to compare on, as for zoo eval: text; a table; a folder of label/name.jpg. Without it Python's own
    documentation, and parts of photographs."""
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
    read = _open_data(settings, saved)

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


def _open_data(settings: Export, saved: Saved) -> Callable[[Any], ExportData]:
    """A function that makes of the model what it is compared on. What is wrong with the data is told now."""
    sees, reads = hasattr(saved.config, "patch_size"), hasattr(saved.config, "vocabulary_size")
    clip = saved.family.name == "clip"
    if settings.data is None:
        found = sample_data(reads or clip, sees or clip)
        return lambda model: found
    if clip:
        return _open_captions(settings.data, settings.columns)
    asked = Measured(settings.source, settings.data, columns=settings.columns)
    if sees:
        known = saved.labels if saved.task in ("classify", "pretrain") else None
        images = read_images(asked, settings.data, known or ())
        return lambda model: _of_images(model, images, judged=known is not None)
    if saved.task in JUDGED:
        measure, _ = open_measure(asked, saved)
        return lambda model: ExportData(examples=examples_from(measure))
    found = ExportData([first_text(settings.data, settings.columns.text_column)])
    return lambda model: found


def _of_images(model: Any, images: Any, judged: bool) -> ExportData:
    if judged:
        from recipes.data.labelled_images import ImageSource

        measure = ImageClassification(images, ImageSource(images, model.preprocessing), BATCH)
        return ExportData(examples=examples_from(measure))
    count = min(len(images), IMAGES)
    return ExportData(images=[images.read(place * len(images) // count) for place in range(count)])


def _open_captions(path: Path, columns: AnyColumns) -> Callable[[Any], ExportData]:
    from recipes.data.captions import read_captions

    table = open_table(path)
    data = read_captions(table, image_columns.find_caption_columns(table, columns))
    count = min(len(data), IMAGES)
    places = [place * len(data) // count for place in range(count)]
    found = ExportData([data.captions(place)[0] for place in places], [data.read(place) for place in places])
    return lambda model: found
