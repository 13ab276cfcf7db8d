"""Timings of a bundle: what is measured, in which shapes, and what is written. How long things take is not tested."""

import collections
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import bench as benching
from export import verify
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


def test_what_the_model_or_its_bundle_rules_out_is_refused_at_once(
    copy_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copy_with("tflite", "onnx")
    ran: list[str] = []

    def fail(bundle: Path, artefact: Artefact, work: benching._Work) -> dict[str, Any]:
        ran.append(artefact.runtime)
        raise ChildFailure("out of memory")

    monkeypatch.setattr(benching, "_run", fail)
    with pytest.raises(UserError, match=r"^the model of .*copy cannot be timed: out of memory$"):
        bench_bundle(bundle)
    assert ran == ["keras"]  # and nothing before or after
    longest = Manifest.read(bundle).inputs[0]["shape"][1]["maximum"]
    message = rf"^texts of {longest + 1} tokens are asked for, and the model of .*copy reads at most {longest}$"
    with pytest.raises(UserError, match=message):
        bench_bundle(bundle, tokens=(5, longest + 1))
    content = json.loads((bundle / "bundle.json").read_text())
    content["artefacts"]["keras"] = content["artefacts"].pop("onnx")
    (bundle / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has an artefact 'keras', which is what the model itself is called"):
        bench_bundle(bundle)
    assert ran == ["keras"] and not (bundle / "bench.json").exists()


def test_timings_that_cannot_be_written_are_told(
    copy_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Bench, bundle: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Bench, "write", refuse)
    monkeypatch.setattr(benching, "_run", lambda bundle, artefact, work: answer(dict.fromkeys(names(work), 1.0)))
    bench = bench_bundle(copy_with("onnx"), rounds=1)
    assert {each.artefact for each in bench.timings} == {"keras", "onnx"}
    assert "could not be written: [Errno 13] Permission denied" in caplog.text


def names(work: benching._Work) -> list[str]:
    """Of all that is timed of the model."""
    return [row.name for row in work.of(benching._model_itself(work))]


def run_children(monkeypatch: pytest.MonkeyPatch, **answers: Any) -> dict[str, tuple[dict[str, Any], float]]:
    """Let runtimes answer this, or else that all went well; returns what each is asked, and its seconds."""
    asked: dict[str, tuple[dict[str, Any], float]] = {}

    def run(arguments: list[str], timeout: float) -> None:
        folder = Path(arguments[-1])
        request = json.loads((folder / "request.json").read_text())
        asked[request["runtime"]] = request, timeout
        assert ("export.keras_timing" in arguments) == (request["runtime"] == "keras")
        latency = {case: {"first_ms": 3.0, "p50_ms": 1.0, "p95_ms": 2.0} for case in request["latency"]["cases"]}
        went = {"load_ms": 1.0, "peak_memory_mb": None, "latency": latency}
        # The first time each token takes ten times as long; tokens that read a prompt take 7 more.
        prompts, count = (request.get("continue", {}).get(name, 0) for name in ("prompts", "count"))
        times = [[10.0 if place % 4 == 0 else 1.0] * count for place in range(len(prompts or []))]
        went["continuations"] = [{"milliseconds": [first + 7, *others]} for first, *others in times]
        (folder / "answer.json").write_text(json.dumps(answers.get(request["runtime"], went)))
        np.savez(folder / "outputs.npz")

    monkeypatch.setattr(verify, "run_child", run)
    return asked


def test_prompts_leave_room_for_what_is_written_and_more_time_may_pass_where_more_is_asked_for(
    copy_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = run_children(monkeypatch)
    bundle = copy_with("onnx")
    longest = Manifest.read(bundle).inputs[0]["shape"][1]["maximum"]
    bench = bench_bundle(bundle, tokens=(5, longest), rounds=1, seconds=100.0)
    found = {(each.artefact, each.function, each.tokens): each for each in bench.timings}
    read = (5, longest - 16)
    functions = {("prefill", n) for n in read} | {("decode", n) for n in read}
    functions |= {("serving_default", n) for n in (5, longest)}
    assert found.keys() == {(name, *each) for name in ("keras", "onnx") for each in functions}
    for name in ("keras", "onnx"):
        for tokens in read:
            prefill, decode = (found[name, part, tokens] for part in ("prefill", "decode"))
            assert (prefill.first_ms, prefill.p50_ms, prefill.p95_ms) == (17, 8, 8)
            assert (decode.first_ms, decode.p50_ms, decode.p95_ms) == (10, 1, 1)
            assert prefill.batch == decode.batch == 1 and prefill.speedup == decode.speedup == 1.0
        request, timeout = asked["keras" if name == "keras" else "onnxruntime"]
        assert [len(prompt) for prompt in request["continue"]["prompts"]] == [read[0]] * 4 + [read[1]] * 4
        assert request["continue"]["count"] == 16 and request["kept"] == []
        assert timeout > 300 + 2 * 6 * 100  # warming up, and five times what was asked for, in two shapes
    assert "prefill: a prompt of so many tokens" in (bundle / "bench.md").read_text()


def test_what_goes_wrong_in_a_child_is_one_line(
    copy_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = copy_with("onnx")
    for said, told in [
        ({"failure": "ValueError: one\n  two\nthree"}, "onnx: ValueError: one two three"),
        ({"continuing_failed": "KeyError:\n'x'"}, "onnx: cannot continue a prompt: KeyError: 'x'"),
        ({}, "onnx: its runtime gave no readable answer: KeyError('latency')"),
        ({"load_ms": 1.0, "latency": 3}, "onnx: its runtime gave no readable answer: TypeError("),
    ]:
        run_children(monkeypatch, onnxruntime=said)
        bench = bench_bundle(bundle, rounds=1)
        (failure,) = bench.failures
        assert failure.startswith(told) and "\n" not in failure
        assert {each.artefact for each in bench.timings} == {"keras"}
    run_children(monkeypatch, keras={"failure": "ValueError: one\ntwo"})
    with pytest.raises(UserError, match=r"cannot be timed: ValueError: one two$"):
        bench_bundle(bundle)
    for runtime in ("keras", "onnxruntime"):
        run_children(monkeypatch, **{runtime: {"failure": "OSError: [Errno 28] No space left on device"}})
        with pytest.raises(UserError, match=r"^No space left on device: nothing was written to .*copy$"):
            bench_bundle(bundle)


def test_an_artefact_of_shorter_texts_is_left_out_aloud(
    copy_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = copy_with("tflite", "onnx")
    content = json.loads((bundle / "bundle.json").read_text())
    content["artefacts"]["tflite"] |= {"sizes": {"batch": 1, "tokens": 4}, "functions": {"serving_default": "f"}}
    (bundle / "bundle.json").write_text(json.dumps(content))
    asked = run_children(monkeypatch)
    assert {each.artefact for each in bench_bundle(bundle, tokens=(5,), rounds=1).timings} == {"keras", "onnx"}
    assert asked.keys() == {"keras", "onnxruntime"}
    assert "takes none of these shapes: it is not timed" in caplog.text
