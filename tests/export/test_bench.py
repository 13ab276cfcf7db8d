"""Timings of a bundle: what is measured, in which shapes, and what is written. How long things take is not tested."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from export.bench import Bench, bench_bundle
from export.manifest import Manifest
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
    found = {(each.artefact, each.batch, each.tokens) for each in bench.timings}
    assert found == {(name, batch, 7) for name in ("keras", "tflite", "onnx") for batch in (1, 3)}
    for each in bench.timings:
        assert 0 < each.p50_ms <= each.p95_ms and each.load_ms > 0 and each.first_ms > 0
        assert (each.speedup == 1.0) == (each.artefact == "keras")
    sizes = {each.artefact: each.bytes for each in bench.timings}
    assert sizes["keras"] == 4 * model.count_params()
    assert sizes["onnx"] == (bundle / "model.onnx").stat().st_size

    content = json.loads((bundle / "bench.json").read_text())
    assert len(content["timings"]) == 6 and (bundle / "bench.png").stat().st_size > 1000
    rows = [line for line in (bundle / "bench.md").read_text().splitlines() if line.startswith(("| tflite", "| onnx"))]
    assert len(rows) == 4
    assert Manifest.read(bundle).added(bundle) == []  # a bundle that was timed is no other
    assert verify_bundle(bundle).passed


def test_an_artefact_that_cannot_run_is_told_and_the_others_are_timed(copy_with: Callable[..., Path]) -> None:
    bundle = copy_with("tflite", "onnx")
    (bundle / "model.tflite").write_bytes(b"no model")
    bench: Bench = bench_bundle(bundle, rounds=2, seconds=0.01)
    assert {each.artefact for each in bench.timings} == {"keras", "onnx"}
    (failure,) = bench.failures
    assert failure.startswith("tflite: ")
    assert failure in (bundle / "bench.md").read_text()


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no bundle"):
        bench_bundle(tmp_path)
