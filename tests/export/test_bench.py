"""Timings of a bundle: what is measured, in which shapes, and what is written. How long things take is not tested."""

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import bench as benching
from export.bench import Bench, bench_bundle
from export.manifest import Artefact, Manifest
from export.processes import ChildFailure
from export.reference import Case
from export.verify import verify_bundle
from zoo.errors import UserError
from zoo.model import ZooModel


def test_every_artefact_beside_the_keras_model(copy_with: Callable[..., Path], model: ZooModel) -> None:
    bundle = copy_with("tflite", "onnx")
    told: list[tuple[int, int]] = []
    bench = bench_bundle(
        bundle, batches=(1, 3), tokens=(7,), rounds=1, seconds=0.01, progress=lambda *done: told.append(done)
    )
    assert told == [(1, 3), (2, 3), (3, 3)] and bench.failures == []
    found = {(each.artefact, each.function, each.batch, each.tokens) for each in bench.timings}
    work = [("serving_default", 1), ("serving_default", 3), ("prefill", 1), ("decode", 1)]
    assert found == {(name, *each, 7) for name in ("keras", "tflite", "onnx") for each in work}
    for each in bench.timings:
        assert 0 < each.p50_ms <= each.p95_ms and each.load_ms > 0 and each.first_ms > 0
        assert (each.speedup == 1.0) == (each.artefact == "keras")
    sizes = {each.artefact: each.bytes for each in bench.timings}
    assert sizes["keras"] == 4 * model.count_params()
    assert sizes["onnx"] == (bundle / "model.onnx").stat().st_size

    content = json.loads((bundle / "bench.json").read_text())
    assert len(content["timings"]) == 12 and (bundle / "bench.png").stat().st_size > 1000
    rows = [line for line in (bundle / "bench.md").read_text().splitlines() if line.startswith(("| tflite", "| onnx"))]
    assert len(rows) == 8
    assert Manifest.read(bundle).added(bundle) == []  # a bundle that was timed is no other
    assert verify_bundle(bundle).passed


def test_an_artefact_that_cannot_run_is_told_and_the_others_are_timed(
    copy_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second of three rounds on; it is not tried again."""
    bundle = copy_with("tflite", "onnx")
    ran: collections.Counter[str] = collections.Counter()

    def run(bundle: Path, artefact: Artefact, work: Any) -> dict[str, Any]:
        ran[artefact.runtime] += 1
        if artefact.runtime == "litert" and ran["litert"] == 2:
            raise ChildFailure("no model")
        return answer({row.name: 2.0 if artefact.runtime == "keras" else 1.0 for row in work.of(artefact)})

    monkeypatch.setattr(benching, "_run", run)
    bench: Bench = bench_bundle(bundle, rounds=3)
    assert ran == {"keras": 3, "litert": 2, "onnxruntime": 3}
    assert {(each.artefact, each.speedup) for each in bench.timings} == {("keras", 1.0), ("onnx", 2.0)}
    assert bench.failures == ["tflite: no model"]
    assert "- **tflite: no model**" in (bundle / "bench.md").read_text().splitlines()


def test_a_file_that_is_none_is_an_artefact_that_cannot_run(copy_with: Callable[..., Path]) -> None:
    bundle = copy_with("tflite")
    (bundle / "model.tflite").write_bytes(b"no model")
    with pytest.raises(ChildFailure, match=r"^ValueError: The model is not a valid Flatbuffer buffer$"):
        benching._run(bundle, Manifest.read(bundle).artefacts["tflite"], benching._Work([], [], 0, 0.01))


def answer(p50: dict[str, float], load: float = 0.0, peak: float | None = None) -> dict[str, Any]:
    """What one round comes to, by the milliseconds of each row; the first call takes ten times as long."""
    latency = {name: {"first_ms": 10 * value, "p50_ms": value, "p95_ms": value + 1} for name, value in p50.items()}
    return {"load_ms": load, "peak_memory_mb": peak, "latency": latency}


def row(function: str, inputs: dict[str, np.ndarray]) -> Any:
    case = Case("some", function, "latency", inputs, {})
    (found,) = benching._Work([case], [], 0, 1.0).of(Artefact("", {}, "", "", {function: function}, {}, {}))
    return found


def test_medians_of_three_rounds() -> None:
    """Also of the ratios to the Keras model in the same round: of the medians it would be 8 / 4."""
    inputs = {"token_ids": np.zeros((2, 7), "int32"), "padding_mask": np.ones((2, 7), "int32")}
    keras = [answer({"some": value}, load=9) for value in (4.0, 8.0, 12.0)]
    own = [
        answer({"some": value}, load, peak)
        for value, load, peak in ((4.0, 30.0, 700.0), (1.0, 10.0, 500.0), (8.0, 50.0, 900.0))
    ]
    found = benching._timing("onnx", row("serving_default", inputs), 123, own, keras)
    assert (found.artefact, found.function, found.batch, found.tokens) == ("onnx", "serving_default", 2, 7)
    assert (found.bytes, found.load_ms, found.peak_memory_mb) == (123, 30, 700)
    assert (found.first_ms, found.p50_ms, found.p95_ms) == (40, 4, 5)
    assert found.speedup == 1.5  # of 4 / 4, 8 / 1 and 12 / 8


def test_a_function_of_strings_is_compared_with_nothing() -> None:
    inputs = {"seed": np.array(1), "text": np.array([b"a", b"b", b"c"])}
    own = [answer({"some": value}) for value in (3.0, 1.0, 2.0)]
    strings = row("text.serving_default", inputs)
    found = benching._timing("saved_model_text", strings, 5, own, [answer({"other": 1.0})] * 3)
    assert (found.batch, found.tokens, found.p50_ms) == (3, None, 2)
    assert found.speedup is found.peak_memory_mb is None
    (line,) = (
        each for each in Bench("gpt", "generate", 3, 2, [found], []).to_markdown().splitlines() if "text." in each
    )
    assert line.split(" | ")[3:] == ["-", "0.00", "0", "20.0", "2.00", "3.00", "-", "- |"]


def test_what_a_token_takes_is_told_of_each_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four texts the first is the first call; of a text the first token is the prompt's, the others are one each."""
    texts = [[[100, 50, 60], [10, 1, 2], [30, 3, 4], [20, 5, 6]], [[9, 8, 7], [6, 5, 4], [6, 5, 4], [6, 5, 4]]]
    prompts = [[5, 6, 7], [5]]

    def run_alone(bundle: Path, artefact: Artefact, cases: list[Case], request: Any, program: Any) -> Any:
        assert request["continue"] == {"prompts": [each for each in prompts for _ in range(4)], "count": 3}
        continuations = [{"milliseconds": text} for each in texts for text in each]
        return {"load_ms": 1, "peak_memory_mb": None, "latency": {}, "continuations": continuations}, {}

    monkeypatch.setattr(benching, "run_alone", run_alone)
    artefact = Artefact("", {}, "litert", "float32", {"generate": "generate"}, {}, {})
    latency = benching._run(Path(), artefact, benching._Work([], prompts, 3, 1.0))["latency"]
    assert {name: (each["first_ms"], each["p50_ms"]) for name, each in latency.items()} == {
        "prefill-tokens3": (100, 20),
        "decode-tokens3": (50, 3.5),
        "prefill-tokens1": (9, 6),
        "decode-tokens1": (8, 4.5),
    }
    assert latency["decode-tokens3"]["p95_ms"] == pytest.approx(5.75)


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no bundle"):
        bench_bundle(tmp_path)
