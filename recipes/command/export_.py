"""`zoo export SOURCE --out BUNDLE`: a model made portable, with the proof that nothing was lost."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from recipes.data.samples import python_documentation_folder
from recipes.data.text import first_text
from recipes.engine.start import start_tensorflow
from zoo.files import require_free, require_outside


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a model as SavedModel (TensorFlow Serving), TFLite (LiteRT) and ONNX, run each in its own runtime, and
    compare it with the Keras model. A bundle that is out of tolerance is not written."""

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Model directory, or a run that holds one."""
    out: Path
    """Bundle to make."""
    formats: str = "saved_model,tflite,onnx"
    """Which to write, with commas between."""
    data: Path | None = None
    """Text to compare on; without it Python's own documentation."""
    text_column: str | None = None
    """Column of the text in tables; guessed where its name is plain."""
    force: bool = False
    """Replace what is in --out, and keep a bundle that is out of tolerance."""
    json: bool = False
    """Print the report as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Export, arguments, "zoo export")
    require_free(settings.out, settings.force, marker="bundle.json")
    require_outside(settings.out, (settings.source, settings.data))
    text = first_text(settings.data or python_documentation_folder(), settings.text_column)

    start_tensorflow()
    import zoo
    from export.bundle import export_bundle
    from recipes.command.reporting import print_report, tell

    model = zoo.load(settings.source)
    formats = [name.strip() for name in settings.formats.split(",") if name.strip()]
    report = export_bundle(model, settings.out, formats=formats, texts=[text], force=settings.force, progress=tell)
    print_report(report, as_json=settings.json)
    return 0 if report.passed else 1
