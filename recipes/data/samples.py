"""Real data that is on every machine: Python's own documentation, taken from the source of its standard library, and
scikit-learn's handwritten digits, one by one and in captioned pairs."""

import ast
import csv
import hashlib
import itertools
import json
import platform
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from recipes.data.cache import default_cache_root, read_or_build
from zoo.errors import UserError

FORMAT = 1  # to be raised when the same library would be written differently
PACKAGES = 10  # to tell apart
LONGEST_DOCSTRING = 500  # characters
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CAPTIONED = {"train": 6000, "test": 400}  # pictures of two digits
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def python_documentation_folder(cache_root: Path | None = None) -> Path:
    """Write `python_documentation` as text files into the cache, unless it is there: a folder to train on.

    Raises:
        UserError: this Python came without the source of its library, or the cache cannot be written.
    """

    def build(library: Path, partial: Path) -> None:
        for name, text in python_documentation(library):
            file = partial / f"{name}.txt"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")

    return _kept("python-documentation", build, cache_root)


def docstrings_folder(cache_root: Path | None = None) -> Path:
    """Write `train.csv` and `test.csv` with the columns `docstring` and `package` into the cache, unless they are
    there: a tenth of the rows of each package is in the latter.

    The packages are the ten of the standard library with the most docstrings. A docstring that stands in several, or
    twice in one, is left out but for the first time.

    Raises:
        UserError: as `python_documentation_folder`.
    """

    def build(library: Path, partial: Path) -> None:
        found: dict[str, list[str]] = {}
        for package, docstring in python_docstrings(library):
            found.setdefault(package, []).append(docstring)
        packages = sorted(found, key=lambda package: (-len(found[package]), package))[:PACKAGES]
        for name, held_out in (("train", False), ("test", True)):
            with (partial / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["docstring", "package"])
                for package in packages:
                    rows = sorted(found[package], key=lambda text: hashlib.sha256(text.encode()).digest())
                    tenth = len(rows) // 10
                    writer.writerows([text, package] for text in (rows[:tenth] if held_out else rows[tenth:]))

    return _kept("python-docstrings", build, cache_root)


def digits_folder(cache_root: Path | None = None) -> Path:
    """Write scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998) as `train/DIGIT/*.png`
    and `test/DIGIT/*.png` into the cache, unless they are there. The latter are the last fifth of them.

    Raises:
        UserError: the cache cannot be written.
    """

    def fill(partial: Path) -> None:
        import numpy as np
        from PIL import Image
        from sklearn.datasets import load_digits

        digits = load_digits()
        begin = len(digits.images) * 4 // 5
        for place, (picture, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
            folder = partial / ("train" if place < begin else "test") / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(picture * (255 / 16)).astype(np.uint8)  # from 17 levels
            Image.fromarray(pixels).save(folder / f"{place:04}.png")

    directory = (cache_root or default_cache_root()) / f"digits-{FORMAT}"
    return read_or_build(directory, lambda path: path if path.is_dir() else None, fill)


def captioned_digits_folder(cache_root: Path | None = None) -> Path:
    """Write pictures of two of scikit-learn's digits, side by side or one above the other, with what they show as
    captions, into the cache, unless they are there: `train.jsonl`, `test.jsonl` and `images/`.

    What there is to say is each pair of digits, left of or above each other: 200 statements, of which a fifth stand in
    the test split alone, ten pictures of each, drawn from digits that no picture to train on holds. A caption is such
    as "a three above an eight".

    Raises:
        UserError: the cache cannot be written.
    """

    def fill(partial: Path) -> None:
        import numpy as np
        from PIL import Image

        singles = {name: _read_digits(digits_folder(cache_root) / name) for name in CAPTIONED}
        statements = list(itertools.product(("left", "above"), range(10), range(10)))
        rng = np.random.default_rng(0)
        order = rng.permutation(len(statements))
        held_out = len(statements) // 5
        (partial / "images").mkdir()
        for name, places in (("train", order[held_out:]), ("test", order[:held_out])):
            with (partial / f"{name}.jsonl").open("w", encoding="utf-8") as file:
                for number in range(CAPTIONED[name]):
                    relation, *digits = statements[places[number % len(places)]]
                    canvas = np.zeros((16, 16), np.uint8)
                    aside = 8 * int(rng.integers(2))  # the half of the picture that is used
                    for place, digit in enumerate(digits):
                        row, column = (aside, 8 * place) if relation == "left" else (8 * place, aside)
                        pictures = singles[name][digit]
                        canvas[row : row + 8, column : column + 8] = pictures[rng.integers(len(pictures))]
                    image = f"images/{name}-{number:04}.png"
                    Image.fromarray(canvas).save(partial / image)
                    file.write(f"{json.dumps({'image': image, 'caption': _say(relation, *digits)})}\n")

    directory = (cache_root or default_cache_root()) / "captioned-digits-2"
    return read_or_build(directory, lambda path: path if path.is_dir() else None, fill)


def _read_digits(folder: Path) -> list[list[Any]]:
    """The pictures of each digit, uint8 (8, 8)."""
    from zoo.image import read_image

    return [[read_image(file)[..., 0] for file in sorted((folder / str(digit)).iterdir())] for digit in range(10)]


def _say(relation: str, first: int, second: int) -> str:
    one, other = (f"{'an' if digit == 8 else 'a'} {DIGITS[digit]}" for digit in (first, second))
    return f"{one} {'above' if relation == 'above' else 'to the left of'} {other}"


def _kept(name: str, build: Callable[[Path, Path], None], cache_root: Path | None) -> Path:
    """A folder in the cache that is made from the standard library, once."""
    library = Path(sysconfig.get_path("stdlib"))
    key = hashlib.sha256(f"{library} {FORMAT}".encode()).hexdigest()[:8]
    directory = (cache_root or default_cache_root()) / f"{name}-{platform.python_version()}-{key}"

    def fill(partial: Path) -> None:
        if not any(library.glob("*.py")):
            raise UserError(f"there is no documentation in {library}: give a text file or a folder of them with --data")
        build(library, partial)

    return read_or_build(directory, lambda path: path if path.is_dir() else None, fill)


def python_documentation(library: Path) -> Iterator[tuple[str, str]]:
    """Yield names and texts: the topics of `help()`, then one document for each top-level module and package.

    A module's document holds the docstrings of it, its submodules, classes and functions, in the order of the source,
    each under its name. Where the same docstring comes again, it is left out. Nothing is imported or run.

    Args:
        library: the folder of a standard library: `sysconfig.get_path("stdlib")`.
    """
    for topic, text in sorted(_topics(library / "pydoc_data" / "topics.py").items()):
        yield f"topics/{topic}", f"{text.strip()}\n"
    for package, found in itertools.groupby(_walk(library), key=lambda each: each[0]):
        yield f"modules/{package}", "\n".join(f"{name}\n{docstring.strip()}\n" for _, name, docstring in found)


def python_docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """Yield the top-level module or package and the text of each docstring of a library, in the order of the source;
    the same text once, and no more than 500 characters of it."""
    for package, _, docstring in _walk(library):
        yield package, docstring.strip()[:LONGEST_DOCSTRING].strip()


def _walk(library: Path) -> Iterator[tuple[str, str, str]]:
    """Package, full name and docstring of all that has one; the same docstring once."""
    seen: set[str] = set()
    for entry in sorted(library.iterdir()):
        for file in sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]:
            parts = file.relative_to(library).with_suffix("").parts
            if file.suffix != ".py" or _LEFT_OUT.intersection(parts):
                continue
            module = ".".join(parts).removesuffix(".__init__")
            for name, docstring in _docstrings(_parse(file), module):
                if docstring not in seen:
                    seen.add(docstring)
                    yield entry.stem, name, docstring


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
