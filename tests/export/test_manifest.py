"""A bundle's table of contents is untrusted input."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.manifest import Manifest
from zoo.errors import UserError

GOOD: dict[str, Any] = {
    "format_version": 3,
    "name": "gpt",
    "family": "gpt",
    "task": "generate",
    "inputs": [],
    "outputs": ["logits"],
    "artefacts": {
        "onnx": {
            "path": "model.onnx",
            "files": {"model.onnx": "0" * 64},
            "runtime": "onnxruntime",
            "precision": "float32",
            "functions": {"serving_default": "serving_default"},
            "sizes": {},
            "names": {},
        }
    },
    "reference": {"path": "reference", "files": {"reference/case.safetensors": "0" * 64}},
    "beside": {"path": "config.json", "files": {"config.json": "0" * 64}},
}


def write(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = json.loads(json.dumps(GOOD))
    change(content)
    (bundle / "bundle.json").write_text(json.dumps(content))
    return bundle


def test_reads_what_it_wrote(tmp_path: Path) -> None:
    manifest = Manifest.read(write(tmp_path, lambda content: None))
    assert manifest.artefacts["onnx"].runtime == "onnxruntime"
    (tmp_path / "copy").mkdir()
    manifest.write(tmp_path / "copy")
    assert json.loads((tmp_path / "copy/bundle.json").read_text()) == GOOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=1), "format_version 1, and this program reads 3"),
        (lambda c: c.pop("format_version"), "format_version None"),
        (lambda c: c.pop("task"), "not a bundle's table of contents .*'task'"),
        (lambda c: c.update(extra=1), "not a bundle's table of contents .*'extra'"),
        (lambda c: c.update(artefacts=["model.onnx"]), "not a bundle's table of contents"),
        (lambda c: c["artefacts"].clear(), "not a bundle's table of contents .*no artefacts"),
        (lambda c: c["artefacts"]["onnx"].update(files=["model.onnx"]), "not a bundle's table of contents"),
        (lambda c: c["artefacts"]["onnx"].update(path=7), "not a bundle's table of contents"),
        (lambda c: c["artefacts"]["onnx"].update(runtime="sh"), "not a bundle's table of contents .*'sh'"),
        (lambda c: c["artefacts"]["onnx"].update(precision="int3"), "not a bundle's table of contents .*'int3'"),
        (lambda c: c["artefacts"]["onnx"].update(functions=["f"]), "not a bundle's table of contents .*functions"),
        (lambda c: c["artefacts"]["onnx"].update(sizes={"tokens": 0}), "not a bundle's table of contents .*sizes"),
        (lambda c: c["artefacts"]["onnx"].update(names={"a": 1}), "not a bundle's table of contents .*names"),
        (lambda c: c["artefacts"]["onnx"].update(path="../model.onnx"), r"names '\.\./model.onnx'"),
        (lambda c: c["artefacts"]["onnx"].update(path="/etc/passwd"), "names '/etc/passwd'"),
        (lambda c: c["reference"].update(files={"a/../../b": "0"}), r"names 'a/\.\./\.\./b'"),
        (lambda c: c["reference"].update(files={"link/secret": "0"}), "names 'link/secret'"),
    ],
)
def test_refuses(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/link").symlink_to(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        Manifest.read(write(tmp_path / "bundle", change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_refuses_what_is_no_table(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(UserError, match=r"bundle\.json"):
        Manifest.read(tmp_path)


def test_a_directory_without_one_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no bundle: it has no bundle\.json"):
        Manifest.read(tmp_path)
    with pytest.raises(UserError, match="is no bundle"):
        Manifest.read(tmp_path / "missing")
