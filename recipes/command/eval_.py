"""`zoo eval SOURCE --data PATH`: how well a model does on data."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from recipes.command.parsing import parse
from recipes.data.text import find_documents, open_corpus
from recipes.engine.start import start_tensorflow
from zoo.directory import find_model_directory, read_saved
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure how well a model predicts a text. The last line of standard output is one JSON object: loss in nats a
    token, perplexity, bits per byte, and the numbers of tokens and bytes."""

    source: Annotated[Positional[Path], arg(metavar="SOURCE")]
    """Model directory, or a run that holds one."""
    data: Path
    """Text file, or folder of text files."""
    validation_fraction: float | None = None
    """Measure only what training with this fraction holds out; None for all of it."""
    batch_size: int = 16
    """Windows at a time; it does not change the result."""


def run(arguments: list[str]) -> int:
    settings = parse(Evaluate, arguments, "zoo eval")
    if settings.batch_size < 1:
        raise UserError(f"--batch-size is {settings.batch_size}, and must be at least 1")
    read_saved(find_model_directory(settings.source))
    if settings.validation_fraction is None:
        documents = tuple(find_documents(settings.data))
    else:
        documents = open_corpus(settings.data, None, settings.validation_fraction).validation

    start_tensorflow()
    from rich.console import Console
    from rich.progress import Progress

    import zoo
    from recipes.evaluation import evaluate_language_model

    model = zoo.load(settings.source, task="generate")
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating", total=1.0)
        metrics = evaluate_language_model(
            model, documents, settings.batch_size, lambda part: bar.update(task, completed=part)
        )
    print(json.dumps(metrics))
    return 0
