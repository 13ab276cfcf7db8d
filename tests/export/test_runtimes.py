"""The program that runs an artefact alone, and what becomes of it when something goes wrong."""

import contextlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from export import verify
from export.processes import ChildFailure, heeding_interrupts, run_child
from export.verify import continue_prompts
from tests.partitions import count_partitions
from zoo.errors import UserError
from zoo.model import ZooModel

PROGRAM = verify.PROGRAM

REFUSAL = """
import importlib.util, runpy, sys
program = runpy.run_path(sys.argv[1])
names = ["zoo", "export", "recipes", "keras", "zoo.errors", "keras.ops"]
print(all(importlib.util.find_spec(name) for name in names[:4]))  # so it is the refusal that refuses
sys.meta_path.insert(0, program["RefusedImports"]())
for name in [*names, "safetensors"]:
    try:
        __import__(name)
        print(name)
    except ImportError as error:
        print("refused here" in str(error))
"""


def test_neither_this_project_nor_keras_can_be_imported() -> None:
    code = f"import sys; sys.path.insert(0, {str(PROGRAM.parents[2])!r})\n{REFUSAL}"
    done = subprocess.run([sys.executable, "-I", "-c", code, PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"] + ["True"] * 6 + ["safetensors"]


def test_the_runs_of_a_bundle_refuse_them_too(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same, in the process itself: a runtime that imports Keras fails."""
    shutil.copytree(PROGRAM.parent, tmp_path / "runtimes")
    changed = tmp_path / "runtimes" / "onnx_runtime.py"
    changed.write_text(changed.read_text().replace("import onnxruntime\n", "import keras, onnxruntime\n", 1))
    monkeypatch.setattr(verify, "PROGRAM", tmp_path / "runtimes" / "__main__.py")
    with pytest.raises(UserError, match=r"onnx of .* cannot continue the prompt: ImportError: keras is refused here"):
        continue_prompts(bundle, "onnx", [[1]], 1)


def test_greedy_continues_as_the_model_does(bundle: Path, model: ZooModel) -> None:
    prompts, expected = [[5, 90, 17, 200], [7], list(range(40))], []
    for prompt in prompts:
        ids, gap = list(prompt), np.inf
        for _ in range(12):
            inputs = {"token_ids": np.array([ids], "int32"), "padding_mask": np.ones((1, len(ids)), "int32")}
            logits = model(inputs)["logits"].numpy()[0, -1]
            gap = min(gap, np.diff(np.sort(logits)[-2:])[0])
            ids.append(int(logits.argmax()))
        expected.append((ids[len(prompt) :], gap))
    for artefact in ("saved_model", "tflite", "onnx"):
        found = continue_prompts(bundle, artefact, prompts, 12)
        assert [each["ids"] for each in found] == [ids for ids, _ in expected], artefact
        for each, (_, gap) in zip(found, expected, strict=True):
            assert each["smallest_gap"] == pytest.approx(gap, abs=1e-4)
            assert len(each["milliseconds"]) == 12


def test_greedy_refuses_what_cannot_be_continued(bundle: Path) -> None:
    for artefact, prompt, count, message in [
        ("torch", [1], 1, "no artefact 'torch': it has saved_model, saved_model_text, tflite, tflite_int8, onnx"),
        ("onnx", [], 1, "the prompt has 0 tokens"),
        ("onnx", [1] * 60, 5, "the prompt has 60 tokens: with 5 new ones, 1 to 59 are possible"),
        ("onnx", [1, 280], 1, "token id 280 is not one of 0 to 279"),
    ]:
        with pytest.raises(UserError, match=message):
            continue_prompts(bundle, artefact, [prompt], count)


def test_partitions_are_told_of_each_function(tmp_path: Path) -> None:
    """Of `f`, which XNNPACK takes whole, and of `g` with a sum in its middle, which it leaves to TFLite's own."""
    weights = tf.constant(np.random.default_rng(0).normal(size=(8, 8)), "float32")
    middles = {"f": tf.nn.relu, "g": lambda x: tf.cumsum(x, 1)}
    taken = tf.TensorSpec((None, 8), "float32", name="x")
    functions = {
        name: tf.function(lambda x, middle=middle: {"y": middle(x @ weights) @ weights}).get_concrete_function(taken)
        for name, middle in middles.items()
    }
    tf.saved_model.save(tf.Module(), tmp_path / "saved_model", signatures=functions)

    def convert(*names: str) -> bytes:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved_model"), signature_keys=names)
        return bytes(converter.convert())

    (tmp_path / "both.tflite").write_bytes(convert("f", "g"))
    assert count_partitions(tmp_path / "both.tflite", {"x": (3, 8)}) == {"f": 1, "g": 2}
    # The same by what the runtime says itself of a file with one function, the only one that it speaks of.
    for name, left, parts in (("f", set(), 1), ("g", {"CUMSUM"}, 2)):
        alone = Interpreter(model_content=convert(name))
        alone.resize_tensor_input(alone.get_input_details()[0]["index"], (3, 8))
        alone.allocate_tensors()
        operators = [each["op_name"] for each in alone._get_ops_details()]
        assert set(operators) == {"FULLY_CONNECTED", "DELEGATE"} | left
        assert operators.count("DELEGATE") == parts


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('noise'); raise ValueError('at last')", "^ValueError: at last$"),
        ("import sys; print('noise', flush=True); sys.exit('in a word')", "^in a word$"),
        ("import sys; sys.exit(3)", "^no word$"),
        ("import os; print('so far', flush=True); os.abort()", "^was killed by SIGABRT, after: so far$"),
        ("import time; time.sleep(60)", "^did not finish within 1 seconds$"),
        ("print('x' * 10_000); import sys; sys.exit(1)", r"^x{297}\.\.\.$"),
    ],
)
def test_a_child_that_fails_is_one_line(code: str, message: str) -> None:
    with pytest.raises(ChildFailure, match=message):
        run_child(["-c", code], timeout=1 if "sleep" in code else 60)


def test_an_interrupt_that_a_library_swallows_is_heeded() -> None:
    before = signal.getsignal(signal.SIGINT)
    with heeding_interrupts() as heed:
        heed()
        with contextlib.suppress(KeyboardInterrupt):  # as a library may
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            heed()
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("message", ["No space left on device", "File too large", "Disk quota exceeded"])
def test_a_child_without_space_raises_like_ourselves(message: str) -> None:
    with pytest.raises(OSError, match=message):
        run_child(["-c", f"raise RuntimeError('writing x: {message}; then more')"], timeout=60)


@pytest.mark.parametrize(
    ("answer", "outputs"),
    [(None, None), (b"{", b""), (b"[]", b""), (b"\xff", b""), (b"{}", None), (b"{}", b"PK\x03\x04junk"), (b"{}", b"")],
)
def test_garbage_from_a_child_is_a_failure(
    answer: bytes | None, outputs: bytes | None, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def talk_nonsense(arguments: list[str], timeout: float) -> None:
        for name, content in [("answer.json", answer), ("outputs.npz", outputs)]:
            if content is not None:
                (Path(arguments[-1]) / name).write_bytes(content)

    monkeypatch.setattr(verify, "run_child", talk_nonsense)
    with pytest.raises(UserError, match=r"onnx of .* cannot continue the prompt: its runtime gave no readable answer"):
        continue_prompts(bundle, "onnx", [[1]], 1)
    report = verify.measure(bundle)
    assert all(artefact.failures[0].startswith("its runtime gave no readable answer") for artefact in report.artefacts)


def test_pickled_outputs_are_not_unpickled(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Malice:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    def send_pickle(arguments: list[str], timeout: float) -> None:
        (Path(arguments[-1]) / "answer.json").write_text("{}")
        np.savez(Path(arguments[-1]) / "outputs.npz", **{"case/logits": np.array([Malice()], object)})

    monkeypatch.setattr(verify, "run_child", send_pickle)
    with pytest.raises(UserError, match="no readable answer"):
        continue_prompts(bundle, "onnx", [[1]], 1)
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_in_a_runtime_is_not_the_artefacts_fault(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(arguments: list[str], timeout: float) -> None:
        text = '{"failure": "OSError: [Errno 28] No space left on device"}'
        (Path(arguments[-1]) / "answer.json").write_text(text)

    monkeypatch.setattr(verify, "run_child", run_out)
    for attempt in (lambda: verify.verify_bundle(bundle), lambda: continue_prompts(bundle, "onnx", [[1]], 1)):
        with pytest.raises(UserError, match=r"^No space left on device: nothing was written to "):
            attempt()
