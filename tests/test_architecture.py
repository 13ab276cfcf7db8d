"""The arrows of the house, read from the source: `zoo <- export <- recipes`, families apart, layers below them, and no
heavy import on the way to `zoo --help`."""

import ast
import dataclasses
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("zoo", "export", "recipes")
# Families that may use others. CLIP is made of an image tower and a text tower.
COMPOSES = {"clip": {"bert", "gpt", "vit"}}
# Seconds to import, or bringing in what is; whoever needs one imports it inside a function.
HEAVY = {
    "PIL",
    "ai_edge_litert",
    "huggingface_hub",
    "keras",
    "keras_cv",
    "keras_hub",
    "keras_nlp",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "sklearn",
    "tensorboard",
    "tensorflow",
    "tensorflow_text",
    "tf2onnx",
    "torch",
    "transformers",
}


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported name in the source.

    Attributes:
        module: who imports.
        target: what, with all its dots; of `from a import b` it is `a.b`.
        line: where.
        at_import: it runs when the module is imported, and not only later or for a type checker.
    """

    module: str
    target: str
    line: int
    at_import: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def read_modules(root: Path) -> dict[str, ast.Module]:
    """The parsed source of every module of the three packages, by its dotted name."""
    modules = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = ast.parse(path.read_text(encoding="utf-8"))
    return modules


def imports_of(module: str, tree: ast.AST, is_package: bool, at_import: bool = True) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, at_import)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = module.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, *([base] if base else [])])
            for alias in node.names:
                yield Import(module, f"{base}.{alias.name}", node.lineno, at_import)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_of(module, ast.Module(node.body, []), is_package, False)
            yield from imports_of(module, ast.Module(node.orelse, []), is_package, at_import)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports_of(module, node, is_package, at_import and not later)


def read_imports(root: Path) -> dict[str, list[Import]]:
    modules = read_modules(root)
    packages = {name.rpartition(".")[0] for name in modules}
    return {name: list(imports_of(name, tree, name in packages)) for name, tree in modules.items()}


def modules_in(target: str, known: Iterable[str]) -> list[str]:
    """Our modules that importing `target` runs: itself, or the module that holds the name, and its parents."""
    parts = target.split(".")
    return [name for i in range(1, len(parts) + 1) if (name := ".".join(parts[:i])) in known]


def is_inside(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def families(imports: dict[str, list[Import]]) -> list[str]:
    """The packages of `zoo` that have a configuration."""
    return [
        name.split(".")[1]
        for name in imports
        if name.startswith("zoo.") and name.count(".") == 2 and name.endswith(".config")
    ]


def arrows_against(root: Path) -> list[str]:
    """Imports from a package to one above it."""
    imports = read_imports(root)
    above = {"zoo": ("export", "recipes"), "export": ("recipes",), "recipes": ()}
    return [
        str(each)
        for module, found in imports.items()
        for each in found
        if any(is_inside(each.target, package) for package in above[module.split(".")[0]])
    ]


def reach(imports: dict[str, list[Import]], start: str, only_at_import: bool) -> Iterator[tuple[Import, list[str]]]:
    """Every import that `start` leads to through our own modules, with the path of modules to it."""
    paths, waiting = {start: [start]}, [start]
    for parent in modules_in(start, imports):
        if only_at_import and parent not in paths:
            paths[parent] = [start, parent]
            waiting.append(parent)
    while waiting:
        module = waiting.pop()
        for each in imports[module]:
            if only_at_import and not each.at_import:
                continue
            yield each, paths[module]
            # A package's own initialisation runs first; it is part of what an import costs, and no choice of who asks.
            ours = modules_in(each.target, imports)
            for name in ours if only_at_import else ours[-1:]:
                if name not in paths:
                    paths[name] = [*paths[module], name]
                    waiting.append(name)


def families_in_layers(root: Path) -> list[str]:
    """What leads from a layer to a family, directly or through another module."""
    imports = read_imports(root)
    return [
        f"{each} (from {' -> '.join(path)})"
        for module in imports
        if is_inside(module, "zoo.layers")
        for each, path in reach(imports, module, only_at_import=False)
        if any(is_inside(each.target, f"zoo.{family}") for family in families(imports))
    ]


def families_in_families(root: Path) -> list[str]:
    imports = read_imports(root)
    known = families(imports)
    return [
        f"{each} (from {' -> '.join(path)})"
        for family in known
        for module in imports
        if is_inside(module, f"zoo.{family}")
        for each, path in reach(imports, module, only_at_import=False)
        for other in known
        if other != family
        and is_inside(each.target, f"zoo.{other}")
        and other not in COMPOSES.get(family, ())
        # CLIP's towers lead on to what they are made of themselves.
        and not any(is_inside(step, f"zoo.{composed}") for composed in COMPOSES.get(family, ()) for step in path)
    ]


def heavy_imports(root: Path, starts: Iterable[str]) -> list[str]:
    """What importing one of the modules `starts` would bring in that takes seconds."""
    imports = read_imports(root)
    return sorted(
        {
            f"{each} (from {' -> '.join(path)})"
            for start in starts
            for each, path in reach(imports, start, only_at_import=True)
            if each.target.split(".")[0] in HEAVY
        }
    )


def light_modules(root: Path) -> list[str]:
    """What `zoo --help`, and `--help` of each verb, import; and what holds settings or reads files of settings."""
    settings = {*PACKAGES, "zoo.directory", "zoo.registry", "zoo.text", "recipes.catalogue", "recipes.engine.settings"}
    return [name for name in read_modules(root) if name in settings or is_inside(name, "recipes.command")]


def test_arrows_point_one_way() -> None:
    assert arrows_against(ROOT) == []


def test_layers_know_no_family() -> None:
    assert families_in_layers(ROOT) == []


def test_families_stand_alone() -> None:
    assert families_in_families(ROOT) == []


def test_help_needs_nothing_heavy() -> None:
    assert heavy_imports(ROOT, light_modules(ROOT)) == []


def test_the_families_here_are_the_registered_ones() -> None:
    from zoo.registry import FAMILIES

    assert set(families(read_imports(ROOT))) == set(FAMILIES)


def test_importing_the_command_line_loads_no_framework() -> None:
    """The same, asked of Python itself."""
    names = light_modules(ROOT)
    assert {"zoo", "zoo.directory", "recipes.command", "recipes.command.generate_"} <= set(names)
    # `recipes.command.__main__` would run.
    code = (
        "import importlib, sys\n"
        f"for name in {[name for name in names if not name.endswith('__main__')]}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = sorted({HEAVY} & set(sys.modules))\n"
        "    assert not loaded, f'{name} loads {loaded}'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


# --- each rule is broken once, in a copy


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in which all is well."""
    files = {
        "zoo/__init__.py": "def __getattr__(name):\n    from zoo import presets\n",
        "zoo/config.py": "import json\n",
        "zoo/presets.py": "import keras\nfrom zoo import registry\n",
        "zoo/registry.py": "from typing import TYPE_CHECKING\nfrom zoo.gpt.config import A\n"
        "if TYPE_CHECKING:\n    from zoo.model import Model\n",
        "zoo/model.py": "import keras\n",
        "zoo/layers/__init__.py": "from zoo.layers.attention import B\n",
        "zoo/layers/attention.py": "import keras\nfrom zoo.config import C\n",
        "zoo/gpt/__init__.py": "from zoo.gpt.config import A\n",
        "zoo/gpt/config.py": "from zoo.config import C\n",
        "zoo/gpt/model.py": "import keras\nfrom zoo.layers import attention\nfrom zoo.model import Model\n",
        "zoo/vit/__init__.py": "",
        "zoo/vit/config.py": "from zoo.config import C\n",
        "zoo/clip/__init__.py": "",
        "zoo/clip/config.py": "from zoo.gpt.config import A\nfrom zoo.vit import config\n",
        "export/__init__.py": "",
        "export/bundle.py": "import tensorflow\nimport zoo.model\n",
        "recipes/__init__.py": "",
        "recipes/catalogue.py": "from zoo.registry import FAMILIES\n",
        "recipes/command/__init__.py": "def run():\n    from recipes.command import list_\n",
        "recipes/command/list_.py": "from recipes.catalogue import R\n\ndef run():\n    import export.bundle\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def all_violations(root: Path) -> dict[str, list[str]]:
    return {
        "arrows": arrows_against(root),
        "layers": families_in_layers(root),
        "families": families_in_families(root),
        "heavy": heavy_imports(root, light_modules(root)),
    }


def test_a_house_in_order_has_no_violation(house: Path) -> None:
    assert families(read_imports(house)) == ["clip", "gpt", "vit"]
    assert all_violations(house) == {"arrows": [], "layers": [], "families": [], "heavy": []}


@pytest.mark.parametrize(
    ("file", "text", "rule", "told"),
    [
        ("zoo/model.py", "import export.bundle\n", "arrows", "zoo.model:1 imports export.bundle"),
        ("zoo/model.py", "def f():\n    from recipes import catalogue\n", "arrows", "zoo.model:2 imports recipes"),
        ("zoo/config.py", "if 1:\n    import export\n", "arrows", "zoo.config:2 imports export"),
        ("export/bundle.py", "from recipes.catalogue import R\n", "arrows", "export.bundle:1 imports recipes"),
        ("zoo/layers/attention.py", "from zoo.gpt.config import A\n", "layers", "attention:1 imports zoo.gpt.config.A"),
        ("zoo/layers/attention.py", "from ..vit import config\n", "layers", "attention:1 imports zoo.vit.config"),
        ("zoo/layers/attention.py", "def f():\n    import zoo.gpt\n", "layers", "attention:2 imports zoo.gpt"),
        ("zoo/layers/attention.py", "from zoo import registry\n", "layers", "zoo.layers.attention -> zoo.registry"),
        ("zoo/gpt/model.py", "from zoo.vit import config\n", "families", "zoo.gpt.model:1 imports zoo.vit.config"),
        ("zoo/vit/config.py", "from zoo.clip.config import D\n", "families", "zoo.vit.config:1 imports zoo.clip"),
        ("zoo/gpt/config.py", "def f():\n    from zoo import registry\n    import zoo.vit\n", "families", "zoo.vit"),
        ("zoo/registry.py", "import zoo.model\n", "heavy", "zoo.model:1 imports keras"),
        ("zoo/__init__.py", "from zoo import presets\n", "heavy", "zoo.presets:1 imports keras"),
        ("zoo/config.py", "from PIL import Image\n", "heavy", "zoo.config:1 imports PIL.Image"),
        ("zoo/gpt/__init__.py", "from zoo.gpt import model\n", "heavy", "zoo.gpt.model:1 imports keras"),
        ("recipes/command/list_.py", "import export.bundle\n", "heavy", "export.bundle:1 imports tensorflow"),
        ("recipes/command/list_.py", "class A:\n    import tensorflow.io\n", "heavy", "imports tensorflow.io"),
        ("recipes/catalogue.py", "try:\n    import keras\nexcept ImportError:\n    pass\n", "heavy", "imports keras"),
        ("export/__init__.py", "from tensorflow import io\n", "heavy", "export:1 imports tensorflow.io"),
    ],
)
def test_each_rule_can_fail(house: Path, file: str, text: str, rule: str, told: str) -> None:
    (house / file).write_text(text)
    violations = all_violations(house)
    assert violations[rule], f"{rule} was not found broken"
    assert any(told in each for each in violations[rule]), violations[rule]
