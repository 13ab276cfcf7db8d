"""Real text that is on every machine: Python's own documentation, taken from the source of its standard library."""

import ast
import hashlib
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from recipes.data.cache import default_cache_root, read_or_build
from zoo.errors import UserError

FORMAT = 1  # to be raised when the same library would be written differently
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_documentation_folder(cache_root: Path | None = None) -> Path:
    """Write `python_documentation` as text files into the cache, unless it is there: a folder to train on.

    Raises:
        UserError: this Python came without the source of its library, or the cache cannot be written.
    """
    library = Path(sysconfig.get_path("stdlib"))
    key = hashlib.sha256(f"{library} {FORMAT}".encode()).hexdigest()[:8]
    directory = (cache_root or default_cache_root()) / f"python-documentation-{platform.python_version()}-{key}"

    def build(partial: Path) -> None:
        for name, text in python_documentation(library):
            file = partial / f"{name}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if not any(partial.iterdir()):
            raise UserError(f"there is no documentation in {library}: give a text file or a folder of them with --data")

    return read_or_build(directory, lambda path: path if path.is_dir() else None, build)


def python_documentation(library: Path) -> Iterator[tuple[str, str]]:
    """Yield names and texts: the topics of `help()`, then one document for each top-level module and package.

    A module's document holds the docstrings of it, its submodules, classes and functions, in the order of the source,
    each under its name. Where the same docstring comes again, it is left out. Nothing is imported or run.

    Args:
        library: the folder of a standard library: `sysconfig.get_path("stdlib")`.
    """
    for topic, text in sorted(_topics(library / "pydoc_data" / "topics.py").items()):
        yield f"topics/{topic}", f"{text.strip()}\n"
    seen: set[str] = set()
    for entry in sorted(library.iterdir()):
        sections = []
        for file in sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]:
            parts = file.relative_to(library).with_suffix("").parts
            if file.suffix != ".py" or _LEFT_OUT.intersection(parts):
                continue
            module = ".".join(parts).removesuffix(".__init__")
            for name, docstring in _docstrings(_parse(file), module):
                if docstring not in seen:
                    seen.add(docstring)
                    sections.append(f"{name}\n{docstring.strip()}\n")
        if sections:
            yield f"modules/{entry.stem}", "\n".join(sections)


def _topics(file: Path) -> dict[str, str]:
    for statement in _parse(file).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
            return dict(ast.literal_eval(statement.value))
    return {}


def _parse(file: Path) -> ast.Module:
    """The syntax of a source file; nothing where it does not parse, as some templates and test inputs do not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in the library's strings
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ast.Module(body=[], type_ignores=[])


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)  # cleaned as `inspect.cleandoc` does
        if docstring and docstring.strip():
            yield name, docstring
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt | ast.ExceptHandler):  # under an `if`, `try` or `with`
            yield from _docstrings(child, name)
