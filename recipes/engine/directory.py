"""The run directory: where a run leaves everything."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.files import require_free, write_text

PACKAGES = ("tensorflow", "keras", "numpy", "tokenizers", "tf-model-zoo")


def require_run_directory(out: Path, force: bool) -> None:
    """Raise UserError unless `out` can hold a new run: it is free, or `force` is given and a run stands there."""
    require_free(out, force)
    if out.is_dir() and any(out.iterdir()) and not (out / "recipe.json").is_file():
        raise UserError(f"{out} is not empty and holds no run (it has no recipe.json): choose another name")


def open_run_directory(out: Path, force: bool, recipe: str, settings: dict[str, Any], facts: dict[str, Any]) -> None:
    """Make `out` afresh, with `recipe.json`: every setting and version that goes in, and what was found in the data."""
    require_run_directory(out, force)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    versions = {package: version(package) for package in PACKAGES}
    record = {"recipe": recipe, "settings": settings, "versions": versions, "facts": facts}
    write_text(out / "recipe.json", json.dumps(record, indent=2, default=str) + "\n")
