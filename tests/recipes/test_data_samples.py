"""The built-in text: what Python itself says its documentation is, and over two megabytes of it."""

import argparse
import heapq
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from recipes.data import samples
from recipes.data.samples import python_documentation, python_documentation_folder
from recipes.data.text import open_corpus
from zoo.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return python_documentation_folder(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def documents(folder: Path) -> dict[str, str]:
    files = sorted(folder.rglob("*.txt"))
    return {path.relative_to(folder).with_suffix("").as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_it_is_over_two_megabytes_of_prose(documents: dict[str, str]) -> None:
    assert sum(len(text.encode()) for text in documents.values()) > 2_000_000
    assert len(documents) > 200
    assert all(text.strip() for text in documents.values())


@pytest.mark.parametrize("module", [json, textwrap, heapq, argparse], ids=lambda module: module.__name__)
def test_docstrings_are_those_that_python_shows(documents: dict[str, str], module: ModuleType) -> None:
    text = documents[f"modules/{module.__name__}"]
    shown = {module.__name__: inspect.getdoc(module)}
    for name, value in vars(module).items():
        if inspect.isfunction(value) and value.__module__ == module.__name__:
            shown[f"{module.__name__}.{name}"] = inspect.getdoc(value)
    found = [name for name, docstring in shown.items() if docstring]
    assert module.__name__ in found
    for name in found:
        assert f"{name}\n{(shown[name] or '').strip()}\n" in text


def test_topics_are_those_of_help(documents: dict[str, str]) -> None:
    # Here the module is imported, as `help()` does.
    from pydoc_data.topics import topics

    assert {f"topics/{name}" for name in topics} == {name for name in documents if name.startswith("topics/")}
    assert documents["topics/with"] == topics["with"].strip() + "\n"


def test_tests_and_packages_of_others_are_left_out(tmp_path: Path) -> None:
    for name in ("a.py", "test/b.py", "pkg/__init__.py", "pkg/sub.py", "pkg/tests/c.py", "site-packages/d/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f'"""Docstring of {name}."""')
    (tmp_path / "broken.py").write_text('"""Docstring."""\nif\n')
    (tmp_path / "null.py").write_bytes(b'"""Docstring."""\x00')
    (tmp_path / "f.txt").write_text('"""Docstring."""')
    assert dict(python_documentation(tmp_path)) == {
        "modules/a": "a\nDocstring of a.py.\n",
        "modules/pkg": "pkg\nDocstring of pkg/__init__.py.\n\npkg.sub\nDocstring of pkg/sub.py.\n",
    }


def test_docstrings_are_found_in_order_once_and_without_running_anything(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        textwrap.dedent('''
        """The module.

            indented
        not
        """
        raise SystemExit("this was run")
        class C:
            """A class."""
            async def method(self):
                """A method."""
                def inner():
                    """Inside."""
        try:
            import nothing
        except ImportError:
            def fallback():
                """A class."""
        if True:
            def conditional():
                """Conditional, with an old \\d escape."""
        def undocumented(): "" ; 1
        ''')
    )
    ((name, text),) = python_documentation(tmp_path)
    assert name == "modules/m"
    assert text == (
        "m\nThe module.\n\n    indented\nnot\n\n"
        "m.C\nA class.\n\n"
        "m.C.method\nA method.\n\n"
        "m.C.method.inner\nInside.\n\n"
        "m.conditional\nConditional, with an old \\d escape.\n"
    )


def test_the_folder_is_a_corpus(folder: Path) -> None:
    corpus = open_corpus(folder)
    held_out = sum(document.bytes for document in corpus.validation)
    total = held_out + sum(document.bytes for document in corpus.train)
    assert total == sum(path.stat().st_size for path in folder.rglob("*.txt"))
    assert 0.09 < held_out / total <= 0.1


def test_the_folder_is_written_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "python_documentation", lambda _: pytest.fail("it was written again"))
    assert python_documentation_folder(folder.parent) == folder


def test_a_python_without_its_source_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(samples.sysconfig, "get_path", lambda _: str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"no documentation in .*--data"):
        python_documentation_folder(tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_data_modules_import_no_tensorflow() -> None:
    program = (
        "import sys, recipes.data.samples, recipes.data.packing, recipes.data.batches\n"
        "print({'keras', 'tensorflow'} & {*sys.modules})"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
