"""Every precision and the Hugging Face folder as `export_bundle` writes them: the files that there are, what they are
judged by, how large they are, and what they take and give under the names of others."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import export.onnx
from export.artefacts import Plan
from export.bundle import export_bundle
from export.manifest import Manifest
from export.real import Examples
from export.verify import run_artefact, verify_bundle
from tests.full.trained import HELD_OUT, make

pytestmark = pytest.mark.full

# Of the float32 file, at most. In a model so small, what int8_full says of each of its numbers weighs in.
SHARE = {"float16": 0.55, "int8": 0.30, "int8_full": 0.35, "int4": 0.25}
FOLDER = {"float32": "model", "float16": "model_fp16", "int8": "model_int8", "int4": "model_q4"}


def open_onnx(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_vit_in_all_precisions(tmp_path: Path) -> None:
    """Judged by agreement: accuracy would be by a few of so few examples, and is in `test_matrix` for int8."""
    trained, bundle, lines = make("vit", "classify"), tmp_path / "bundle", list[str]()
    model = trained.model
    precisions = ("float32", *SHARE)
    plan = Plan(("tflite", "onnx", "huggingface"), precisions)
    examples = Examples([(inputs, {}) for inputs, _ in trained.examples.batches])
    report = export_bundle(model, bundle, plan=plan, images=trained.images, examples=examples, progress=lines.append)
    assert report.passed, report.failure_lines()

    found = {artefact.name: artefact for artefact in report.artefacts}
    for artefact in found.values():
        print(artefact.name, artefact.bytes, [(each.name, each.model, each.artefact) for each in artefact.metrics])
    of_onnx = [name for name in precisions if name != "int8_full"]  # which is for TFLite
    suffixes = {name: "" if name == "float32" else f"_{name}" for name in precisions}
    assert list(found) == [
        *(f"tflite{suffixes[name]}" for name in precisions),
        *(f"{kind}{suffixes[name]}" for kind in ("onnx", "huggingface") for name in of_onnx),
    ]
    assert sorted(file.name for file in bundle.glob("*.onnx")) == sorted(
        f"model{suffixes[name].replace('_', '.', 1)}.onnx" for name in of_onnx
    )

    # A quarter of the examples says how far integers reach, and none of them judges.
    calibrating, judging = HELD_OUT // 4, HELD_OUT - HELD_OUT // 4
    assert f"integers reach as far as {calibrating} examples need, and are judged by {judging} others" in lines
    for artefact in found.values():
        if artefact.precision == "float32":
            assert artefact.max_error is not None
            assert artefact.max_error < 1e-4
            continue
        (agreement,) = artefact.metrics
        assert (agreement.name, agreement.count) == ("agreement", judging)
        whole = found[artefact.name.partition("_")[0]]
        assert artefact.bytes <= SHARE[artefact.precision] * whole.bytes, artefact.name
        assert artefact.max_error is not None
        assert artefact.max_error > 1e-4  # it is another file
    # Calibrated by images, a file computes in integers throughout; else its numbers are rounded as it runs.
    errors = [found[name].max_error for name in ("tflite_int8", "tflite_int8_full")]
    assert errors[0] != errors[1]
    assert found["tflite_int8_full"].operators["QUANTIZE"] > 0
    assert "QUANTIZE" not in found["tflite_int8"].operators

    # Under the hub's names, with the channels first, as whoever loads the folder gives them.
    rng = np.random.default_rng(1)
    images = rng.normal(size=(3, 32, 32, 3)).astype("float32")
    expected = model({"images": images})["logits"].numpy()
    for precision in of_onnx:
        session = open_onnx(bundle / f"huggingface/onnx/{FOLDER[precision]}.onnx")
        (given,) = session.get_inputs()
        assert (given.name, given.type) == ("pixel_values", "tensor(float)")
        assert given.shape == ["batch_size", 3, 32, 32]
        assert [each.name for each in session.get_outputs()] == ["logits"]
        (logits,) = session.run(["logits"], {"pixel_values": images.transpose(0, 3, 1, 2)})
        ours = run_artefact(bundle, f"onnx{suffixes[precision]}", "serving_default", {"images": images})
        np.testing.assert_allclose(logits, ours["logits"], atol=1e-5)
        if precision == "float32":
            np.testing.assert_allclose(logits, expected, atol=1e-4)
    config = json.loads((bundle / "huggingface/config.json").read_text())
    assert config["model_type"] == "vit" and (bundle / "huggingface/preprocessor_config.json").is_file()


def test_a_gpt_in_int8_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the int8 file was made of is gone, weights that lie in a file of their own too."""
    trained, bundle = make("gpt", "generate"), tmp_path / "bundle"
    monkeypatch.setattr(export.onnx, "EXTERNAL_ABOVE", 2 * trained.model.count_params())  # bytes: int8 takes half
    plan = Plan(("tflite", "onnx", "huggingface"), ("int8",))
    report = export_bundle(trained.model, bundle, plan=plan, texts=trained.texts, examples=trained.examples)
    assert report.passed, report.failure_lines()
    assert [artefact.name for artefact in report.artefacts] == ["tflite_int8", "onnx_int8", "huggingface_int8"]
    for artefact in report.artefacts:
        print(artefact.name, [(each.name, each.model, each.artefact) for each in artefact.metrics])
        assert {metric.name for metric in artefact.metrics} >= {"perplexity", "perplexity of continuations"}

    files = {file.relative_to(bundle).as_posix() for file in bundle.rglob("*") if file.is_file()}
    models = {name for name in files if ".onnx" in name or ".tflite" in name or name.startswith("saved_model")}
    assert models == {"model.int8.tflite", "model.int8.onnx", "huggingface/onnx/model_int8.onnx"}
    assert Manifest.read(bundle).added(bundle) == []
    assert verify_bundle(bundle).passed

    session = open_onnx(bundle / "huggingface/onnx/model_int8.onnx")
    kinds = {each.name: each.type for each in session.get_inputs()}
    cache = [f"{block}.{part}" for block in range(trained.model.config.depth) for part in ("key", "value")]
    assert kinds == {
        **dict.fromkeys(("input_ids", "position_ids", "attention_mask"), "tensor(int64)"),
        **{f"past_key_values.{name}": "tensor(float)" for name in cache},
    }
    ids = np.array([trained.model.tokenizer.encode(trained.texts[0])[:9]])
    c = trained.model.config
    empty = np.zeros((1, c.num_heads, 0, c.width // c.num_heads), "float32")
    outputs = session.run(
        None,
        {"input_ids": ids, "position_ids": np.arange(9)[None], "attention_mask": np.ones_like(ids)}
        | {f"past_key_values.{name}": empty for name in cache},
    )
    named = dict(zip((each.name for each in session.get_outputs()), outputs, strict=True))
    assert named.keys() == {"logits", *(f"present.{name}" for name in cache)}
    given = {"token_ids": ids.astype("int32"), "padding_mask": np.ones_like(ids, "int32")}
    ours = run_artefact(bundle, "onnx_int8", "serving_default", given)
    np.testing.assert_allclose(named["logits"], ours["logits"], atol=1e-5)
    expected = trained.model(given)["logits"].numpy()
    assert (named["logits"].argmax(-1) == expected.argmax(-1)).mean() > 0.8
