"""Run one artefact alone: `python -I runtimes/__main__.py FOLDER`.

This package is a program of its own. It runs in a fresh process, in which neither this project nor Keras can be
imported: what it shows is that an artefact needs nothing but its runtime. So it has no name but its own there.
"""

import importlib.abc
import importlib.util
import json
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "runtimes"
REFUSED = ("zoo", "export", "recipes", "keras")


class RefusedImports(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Put first into `sys.meta_path`, it makes the packages in `REFUSED` impossible to import.

    They are found, since TensorFlow asks where Keras is while it is imported itself; loading them is what fails.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in REFUSED else None

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{module.__name__} is refused here: an artefact has to do without it")


def load_package() -> Any:
    """This folder as a package without a parent."""
    folder = Path(__file__).parent
    spec = importlib.util.spec_from_file_location(
        PACKAGE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    return package


if __name__ == "__main__":
    sys.meta_path.insert(0, RefusedImports())
    target = Path(sys.argv[1])
    try:
        text = json.dumps(load_package().answer(target))
    except Exception as error:
        text = json.dumps({"failure": f"{type(error).__name__}: {error}"})
    (target / "answer.json").write_text(text)
