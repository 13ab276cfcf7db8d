"""Child processes: that they end with us, and leave nothing of what they print; and what a runtime does in one."""

import json
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from export import runtimes
from export.processes import KEPT, ChildFailure, run_child
from export.runtimes.litert import LiteRT
from export.runtimes.onnx_runtime import ONNXRuntime
from export.tflite_file import file_content

Tensors = dict[str, np.ndarray]

# Writes its number to a file, and stays.
STAYING = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(60)"
PARENT = f"""
import sys
from export.processes import run_child
run_child(["-c", {STAYING!r}, sys.argv[1]], 60)
"""


def is_running(process: int) -> bool:
    """Whether there is such a process, and not only what nobody has asked after since it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Any, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(condition())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_ends_with_a_parent_that_is_killed(kind: signal.Signals, tmp_path: Path) -> None:
    told = tmp_path / "process"
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", PARENT, str(told)], cwd=root) as parent:
        assert wait_until(lambda: told.is_file() and told.read_text().endswith("\n"))
        child = int(told.read_text())
        assert is_running(child)
        parent.send_signal(kind)
    assert parent.returncode == -kind
    assert wait_until(lambda: not is_running(child))


def test_an_interrupt_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "process"
    real_wait = subprocess.Popen.wait
    pressed: list[int] = []

    def interrupt(self: Any, timeout: float | None = None) -> int:
        if not pressed:
            assert wait_until(lambda: told.is_file() and told.read_text().endswith("\n"))
            pressed.append(1)
            raise KeyboardInterrupt
        return real_wait(self, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_child(["-c", STAYING, str(told)], timeout=60)
    assert not is_running(int(told.read_text()))


def test_a_child_is_given_its_arguments_as_they_are(tmp_path: Path) -> None:
    """Through the program that ties it to us."""
    code = "import json, sys; json.dump([sys.argv[1:], sys.flags.isolated], open(sys.argv[1], 'w'))"
    for flags, isolated in ([], 0), (["-I"], 1):
        told = str(tmp_path / "told")
        run_child([*flags, "-c", code, told, "two words", "", "-x"], timeout=60)
        assert json.loads(Path(told).read_text()) == [[told, "two words", "", "-x"], isolated]


def test_of_what_a_child_prints_the_end_is_kept() -> None:
    """Converters print without end."""
    code = f"import sys\nfor _ in range(1000): print('x' * {KEPT})\nsys.exit('in a word')"
    tracemalloc.start()
    try:
        with pytest.raises(ChildFailure, match=r"^in a word$"):
            run_child(["-c", code], timeout=60)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * KEPT


def test_what_a_child_leaves_running_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the pipe."""
    monkeypatch.setattr("export.processes.LAST_WORDS", 0.1)
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(2)'])"
    threads, began = threading.active_count(), time.monotonic()
    run_child(["-c", code], timeout=60)
    assert time.monotonic() - began < 1.8
    assert wait_until(lambda: threading.active_count() == threads)


class Recorder:
    """A runtime that notes what is asked of it."""

    version = "recorder 1"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.given: list[dict[str, tuple[int, ...]]] = []

    def load(self, path: Path) -> None:
        self.asked.append("load")

    def run(self, function: str, inputs: Tensors, outputs: Iterable[str]) -> Tensors:
        self.asked.append("run")
        self.given.append({name: value.shape for name, value in inputs.items()})
        return {"logits": inputs["token_ids"][..., None].astype("float32"), "scores": np.ones([1, 100], "float32")}

    def continuing(self) -> Any:
        self.asked.append("continue")
        return lambda tokens: np.arange(5, dtype="float32")

    def operators(self, path: Path) -> list[str]:
        self.asked.append("operators")
        return ["Add"]

    def partitions(self) -> dict[str, int]:
        self.asked.append("partitions")
        return {"f": 1}


def test_memory_is_measured_before_the_file_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are read for that; and after all that it is run for."""
    recorder = Recorder()
    monkeypatch.setitem(runtimes.RUNTIMES, "recorder", lambda: recorder)
    monkeypatch.setattr(runtimes, "peak_memory", lambda: recorder.asked.append("memory") or 1.0)
    request = {
        "runtime": "recorder",
        "artefact": str(tmp_path),
        "names": {},
        "sizes": {},
        "cases": {"case": {"function": "f", "outputs": {"logits": {"shape": [1, 3, 1], "positions": None}}}},
        "kept": ["case"],
        "latency": {"cases": ["case"], "seconds": 0.001},
        "operators": True,
        "continue": {"prompts": [[1, 2]], "count": 2},
    }
    (tmp_path / "request.json").write_text(json.dumps(request))
    np.savez(tmp_path / "inputs.npz", **{"case/token_ids": np.ones([1, 3], "int32")})
    answer = runtimes.answer(tmp_path)
    assert list(dict.fromkeys(recorder.asked)) == ["load", "run", "continue", "memory", "operators", "partitions"]
    assert answer["peak_memory_mb"] == 1.0 and answer["operators"] == {"Add": 1} and answer["partitions"] == {"f": 1}
    assert answer["continuations"][0]["ids"] == [4, 4]


def test_texts_alone_are_padded_and_cut() -> None:
    """A file that gives a hundred scores is not one of seven, and masked positions are no tokens."""
    recorder = Recorder()
    inputs = {
        "token_ids": np.arange(6, dtype="int32").reshape(2, 3),
        "padding_mask": np.ones([2, 3], "int32"),
        "masked_positions": np.zeros([2, 2], "int32"),
        "images": np.zeros([2, 3, 3, 3], "float32"),
    }
    shapes = {"logits": [2, 3, 1], "scores": [2, 7], "missing": [2]}
    outputs = {name: {"shape": shape, "positions": None} for name, shape in shapes.items()}
    case = {"function": "f", "outputs": outputs}
    found = runtimes.run_fitted(recorder, case, inputs, {"batch": 1, "tokens": 5})
    assert (
        recorder.given
        == [{"token_ids": (1, 5), "padding_mask": (1, 5), "masked_positions": (1, 2), "images": (1, 3, 3, 3)}] * 2
    )
    assert found["logits"][..., 0].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["scores"].shape == (2, 100)
    # Of as many classes as the file has tokens none is cut away, where the text is not so short.
    found = runtimes.run_fitted(recorder, case, inputs, {"batch": 1, "tokens": 100})
    assert found["scores"].shape == (2, 100)
    found = runtimes.run_fitted(recorder, case, inputs, {"batch": 1})
    assert found["logits"].shape == (2, 3, 1) and found["scores"].shape == (2, 100)


def tflite_file(custom: str | None = None) -> bytearray:
    """Two functions, `double` and `quadruple`, of an operator ADD each, or one that has a name of its own."""
    codes = [schema.OperatorCodeT(builtinCode=schema.BuiltinOperator.ADD, version=1)]
    if custom is not None:
        number = schema.BuiltinOperator.CUSTOM
        codes.append(
            schema.OperatorCodeT(builtinCode=number, deprecatedBuiltinCode=number, customCode=custom, version=1)
        )
    graphs, functions = [], []
    for count, name in enumerate(("double", "quadruple"), 1):
        tensors = [schema.TensorT(shape=[1, 4], name=str(i), type=schema.TensorType.FLOAT32) for i in range(count + 1)]
        operators = [
            schema.OperatorT(
                opcodeIndex=len(codes) - 1,
                inputs=[place, place],
                outputs=[place + 1],
                builtinOptionsType=schema.BuiltinOptions.NONE if custom else schema.BuiltinOptions.AddOptions,
                builtinOptions=None if custom else schema.AddOptionsT(),
            )
            for place in range(count)
        ]
        graphs.append(schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[count], operators=operators, name=name))
        maps = [schema.TensorMapT(name=each, tensorIndex=index) for each, index in (("x", 0), ("y", count))]
        functions.append(
            schema.SignatureDefT(inputs=maps[:1], outputs=maps[1:], signatureKey=name, subgraphIndex=count - 1)
        )
    model = schema.ModelT(
        version=3, operatorCodes=codes, subgraphs=graphs, buffers=[schema.BufferT()], signatureDefs=functions
    )
    return file_content(model)


def test_parts_of_a_tflite_file_where_an_interpreter_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tflite_file())
    runtime = LiteRT()
    runtime.load(file)
    x = np.ones([1, 4], "float32")
    assert runtime.run("double", {"x": x}, ["y"])["y"].tolist() == [[2.0] * 4]
    assert runtime.run("quadruple", {"x": x}, ["y"])["y"].tolist() == [[4.0] * 4]
    assert runtime.partitions() == {"double": 1, "quadruple": 1}
    assert file.read_bytes() == tflite_file()
    assert list(runtime.operators(file)) == ["ADD"] * 3
    monkeypatch.delattr(Interpreter, "_get_ops_details")
    assert runtime.partitions() == {}


def test_operators_that_a_runtime_need_not_have_are_named(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(tflite_file("FlexErf"))
    assert list(LiteRT().operators(file)) == ["CUSTOM:FlexErf"] * 3


@pytest.mark.parametrize("external", [False, True])
def test_operators_of_an_onnx_file(external: bool, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [300])
    weight = onnx.numpy_helper.from_array(np.ones(300, "float32"), "weight")
    nodes = [
        onnx.helper.make_node("Add", ["x", "weight"], ["sum"]),
        onnx.helper.make_node("Constant", [], ["c"], value=weight),
        onnx.helper.make_node("FusedGemm", ["sum", "c"], ["y"], domain="com.microsoft", alpha=0.5),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value], [], initializer=[weight], doc_string="d" * 300)
    model = onnx.helper.make_model(graph, producer_version="1" * 200)
    onnx.helper.set_model_props(model, {"key": "value"})
    onnx.save(model, file, save_as_external_data=external, location="data", size_threshold=0)
    assert (tmp_path / "data").exists() == external
    expected = ["Add", "Constant", "com.microsoft.FusedGemm"]
    assert list(ONNXRuntime().operators(file)) == expected
