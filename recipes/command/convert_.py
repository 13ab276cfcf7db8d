"""`zoo convert SOURCE DIR`: a model from one layout to the other."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from recipes.engine.start import start_tensorflow
from zoo.directory import find_model_directory
from zoo.files import require_free, require_outside


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write a model in the layout of the zoo or of Hugging Face, with its tokenizer and preprocessing. `transformers`
    loads the latter with nothing missing and nothing unexpected."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Model directory, a run that holds one, a Hugging Face checkpoint, or hf:organisation/name[@revision]."""
    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """Where to write."""
    layout: Literal["hf", "zoo"]
    """hf for Hugging Face's, zoo for ours."""
    task: str | None = None
    """Convert it for another task than it was saved for."""
    force: bool = False
    """Replace the model that is in DIR."""
    json: bool = False
    """Print the result as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Convert, arguments, "zoo convert")
    source = find_model_directory(settings.source)
    require_free(settings.directory, settings.force, marker="config.json")
    require_outside(settings.directory, (source,))

    start_tensorflow()
    import zoo

    model = zoo.load(source, task=settings.task)
    zoo.save(model, settings.directory, layout=settings.layout, force=settings.force)
    record = {
        "directory": str(settings.directory),
        "layout": settings.layout,
        "family": model.family,
        "task": model.task,
        "parameters": model.count_params(),
    }
    if settings.json:
        print(json.dumps(record))
    else:
        print(f"{settings.directory}: {model.family}, {model.task}, {record['parameters']:,} parameters")
    return 0
