"""The published sizes as ONNX files: equal to the Keras model, made in little memory, and small once quantized."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).resolve().parents[2]
MOST = 6e9  # bytes of memory in any one process
SHARE = {"float16": 0.55, "int8": 0.30, "int4": 0.25}  # of the float32 file, at most

# In a process of its own. Its peak is `VmHWM`: what `getrusage` gives begins with the parent's, which is pytest's. That
# of the largest of its children, the converters, is what `getrusage` gives, and begins with its own.
EXPORT = """
import json, resource, sys
from pathlib import Path
import numpy as np, onnxruntime, keras
import zoo
from export.onnx import write_onnx
from export.onnx_quantize import PRECISIONS, quantize_onnx
from export.saved_model import write_saved_model
from export.signatures import generates, growing_cache_signature, portable_signatures
from zoo.model import Axis

preset, task, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
model = zoo.create(preset, task=task)
functions = [growing_cache_signature(model)] if generates(model) else portable_signatures(model)
write_saved_model(model, folder / "saved_model", functions[:1])
rng, found = np.random.default_rng(0), {}
sizes = {"batch": 2, "tokens": 9, "past": 4, "past + tokens": 13}
for function in functions:
    file = folder / f"{function.name}.onnx"
    write_onnx(model, function, folder / "saved_model", file, 600)
    inputs = {}
    for spec in function.inputs:
        shape = [sizes[size.name] if isinstance(size, Axis) else size for size in spec.shape]
        if spec.dtype == "float32":
            inputs[spec.name] = rng.normal(size=shape).astype("float32")
        elif spec.name == "padding_mask":
            inputs[spec.name] = np.ones(shape, "int32")
        else:
            inputs[spec.name] = rng.integers(0, spec.highest, shape, "int32")
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = session.run(list(function.outputs), inputs)
    del session
    expected = function.compute({name: keras.ops.convert_to_tensor(value) for name, value in inputs.items()})
    error = max(
        float(np.abs(value - keras.ops.convert_to_numpy(expected[name])).max())
        for name, value in zip(function.outputs, outputs)
    )
    shares = {}
    for precision in PRECISIONS:
        small = folder / f"small.{precision}.onnx"
        quantize_onnx(file, small, precision, 600)
        shares[precision] = small.stat().st_size / file.stat().st_size
        small.unlink()
    found[function.name] = {"error": error, "shares": shares}
    file.unlink()
lines = open("/proc/self/status").read().splitlines()
own = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"functions": found, "peak": 1024 * max(own, children)}))
"""


@pytest.mark.parametrize(
    ("preset", "task"),
    [("bert-base", "masked_lm"), ("vit-b16", "classify"), ("clip-b32", "contrast"), ("gpt2", "generate")],
)
def test_a_published_size_as_onnx(preset: str, task: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXPORT, preset, task, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    print(f"{preset}: peak {found['peak'] / 1e9:.2f} GB, {found['functions']}")
    assert found["peak"] <= MOST
    assert len(found["functions"]) == (2 if preset == "clip-b32" else 1)
    for name, function in found["functions"].items():
        assert 0 < function["error"] <= 1e-4, name
        for precision, share in function["shares"].items():
            assert share <= SHARE[precision], name
