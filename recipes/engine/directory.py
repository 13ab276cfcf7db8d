"""The run directory: where a run leaves everything."""

import json
import shutil
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo.files import require_free, require_outside, write_text

PACKAGES = ("tensorflow", "keras", "numpy", "tokenizers", "tf-model-zoo")


def require_run_directory(out: Path, force: bool, inputs: Iterable[Path | None] = ()) -> None:
    """Raise UserError unless `out` can hold a new run: it is free, or `force` is given and a run stands there in which
    none of the `inputs` lies."""
    require_free(out, force, marker="recipe.json")
    require_outside(out, inputs)


def open_run_directory(out: Path, force: bool, recipe: str, settings: dict[str, Any], facts: dict[str, Any]) -> None:
    """Make `out` afresh, with `recipe.json`: every setting and version that goes in, and what was found in the data."""
    require_run_directory(out, force)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    versions = {package: version(package) for package in PACKAGES}
    record = {"recipe": recipe, "settings": settings, "versions": versions, "facts": facts}
    write_text(out / "recipe.json", json.dumps(record, indent=2, default=str) + "\n")
