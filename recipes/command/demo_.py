"""`zoo demo`: the whole journey on data that is on every machine."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Literal

from recipes.command.parsing import parse
from recipes.demos.journey import Arrival, Journey
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train a small model on data that every machine has, export it as SavedModel, TFLite and ONNX, verify each one in
    its own runtime, and use the Keras model and each of them: the same answers four times.

    gpt learns Python's own documentation, and continues a prompt; bert is pretrained on it, and then tells docstrings
    apart by their package; vit tells handwritten digits; clip learns captions of pictures of two of them, and is asked
    for what none of these said. Leaves in --out: run/ and bundle/, and pretrained/ of bert.
    The same command goes on with a training that was stopped. Exits with 1 if an artefact differs.
    """

    family: Literal["gpt", "bert", "vit", "clip"] = "gpt"
    """Which family of models."""
    out: Path = Path("demo")
    """Directory to make."""
    steps: int | None = None
    """Updates of each training; None for as many as are worth it."""
    prompt: str = "Return a new"
    """What the continuation begins with, of gpt."""
    force: bool = False
    """Replace a demo that is in --out already."""
    json: bool = False
    """Print the result as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Demo, arguments, "zoo demo")
    if settings.steps is not None and settings.steps < 1:
        raise UserError(f"--steps is {settings.steps}, and must be at least 1")
    journey = Journey(settings.out, settings.steps, settings.prompt, settings.force)
    arrival: Arrival = importlib.import_module(f"recipes.demos.{settings.family}").travel(journey)
    if settings.json:
        print(json.dumps({**arrival.result, "passed": arrival.passed}))
    else:
        _print(arrival)
    return 0 if arrival.passed else 1


def _print(arrival: Arrival) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for each in arrival.shown:
        console.print(each, markup=False)
    for name, path in arrival.result["paths"].items():
        console.print(f"{name:11}{path}", markup=False)
