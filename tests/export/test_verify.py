"""An artefact that is wrong, broken or tampered with fails, by name, and the others are still measured."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.reference import Case
from export.report import Report
from export.verify import run_artefact, verify_bundle
from zoo.errors import UserError
from zoo.model import ZooModel

CopyWith = Callable[..., Path]

LATENCY = "reference/serving_default-latency.safetensors"


def edit_onnx(bundle: Path, change: Callable[[onnx.ModelProto], object]) -> None:
    """Change the ONNX file, and its digest in the table of contents, so that only its numbers can give it away."""
    model = onnx.load(bundle / "model.onnx")
    change(model)
    onnx.save(model, bundle / "model.onnx")
    adopt(bundle, "onnx", "model.onnx")


def adopt(bundle: Path, artefact: str, name: str) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    content["artefacts"][artefact]["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    (bundle / "bundle.json").write_text(json.dumps(content))


def test_verifying_again_rewrites_the_report_alone(copy_with: CopyWith) -> None:
    bundle = copy_with("onnx")
    before = {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
    lines: list[str] = []
    report = verify_bundle(bundle, lines.append)
    assert report.passed and lines == ["verifying onnx (1 of 1)"]
    assert [artefact.name for artefact in Report.read(bundle).artefacts] == ["onnx"]  # there were six
    after = {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
    assert {file.name for file in before.keys() | after.keys() if before.get(file) != after.get(file)} == {
        "report.json",
        "report.md",
        "report.png",
    }


def test_inputs_of_any_shape_can_be_given(bundle: Path, model: ZooModel) -> None:
    ids = np.random.default_rng(0).integers(0, model.config.vocabulary_size, (9, 11), "int32")
    inputs = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    expected = model(inputs, training=False)["logits"].numpy()
    found = run_artefact(bundle, "tflite", "serving_default", inputs)  # whose rows go through it one by one
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4)


def replace_weight(file: Path, weight: np.ndarray, value: np.ndarray) -> None:
    content = file.read_bytes()
    assert content.count(weight.tobytes()) == 1
    file.write_bytes(content.replace(weight.tobytes(), value.tobytes()))


@pytest.mark.parametrize(("artefact", "other"), [("tflite", "onnx"), ("onnx", "tflite")])
def test_perturbed_weights_fail_and_are_named(artefact: str, other: str, copy_with: CopyWith, model: ZooModel) -> None:
    bundle = copy_with("tflite", "onnx")
    weight = model.named_weights()["backbone.transformer.block_1.feed_forward_norm.beta"].numpy()
    replace_weight(bundle / f"model.{artefact}", weight, weight * np.float32(1.001))
    adopt(bundle, artefact, f"model.{artefact}")
    report = verify_bundle(bundle)
    assert {a.name: a.passed for a in report.artefacts} == {artefact: False, other: True}
    continued, differs = report.failure_lines()
    assert continued.startswith(f"{artefact}: finds what continues a prompt less or more probable, by ")
    assert differs.startswith(f"{artefact}: differs from the Keras model by ")
    text = (bundle / "report.md").read_text()
    assert f"**{continued}**" in text and f"**{differs}**" in text and "FAILED" in text


def test_a_quantised_file_that_lost_too_much_fails_by_its_metric(copy_with: CopyWith, model: ZooModel) -> None:
    bundle = copy_with("tflite_int8", "onnx_int8")
    weight = model.named_weights()["backbone.final_norm.beta"].numpy()  # which stays float32
    replace_weight(bundle / "model.int8.onnx", weight, weight * np.float32(3))
    adopt(bundle, "onnx_int8", "model.int8.onnx")
    report = verify_bundle(bundle)
    assert {a.name: a.passed for a in report.artefacts} == {"tflite_int8": True, "onnx_int8": False}
    assert "onnx_int8: perplexity grew from " in report.failure_lines()[-1]


def test_nan_fails(copy_with: CopyWith, model: ZooModel) -> None:
    bundle = copy_with("onnx")
    weight = model.named_weights()["backbone.final_norm.beta"].numpy()
    replace_weight(bundle / "model.onnx", weight, weight * np.float32(np.nan))
    _, stopped, nan = verify_bundle(bundle).failure_lines()
    assert stopped == "onnx: cannot continue prompts: ValueError: the logits after 11 tokens are not finite"
    assert nan == (
        "onnx: logits has NaN or infinite values in 10 of 10 cases (serving_default-batch1-tokens37-random-padded)"
    )


def test_a_missing_output_is_named(copy_with: CopyWith) -> None:
    def rename_output(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = "scores"
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]

    bundle = copy_with("onnx")
    edit_onnx(bundle, rename_output)
    assert verify_bundle(bundle).failure_lines() == [
        "onnx: cannot continue prompts: KeyError: 'logits'",
        "onnx: logits is missing in 10 of 10 cases (serving_default-batch1-tokens37-random-padded)",
    ]


def test_a_file_of_another_model_fails(copy_with: CopyWith, other: tuple[Path, list[str]]) -> None:
    bundle = copy_with("onnx")
    for name in ("model.onnx", "model.onnx.data"):
        shutil.copyfile(other[0] / name, bundle / name)
    added, altered, continued, differs = verify_bundle(bundle).failure_lines()
    assert added == "model.onnx.data was added after the export"
    assert altered == "onnx: model.onnx is missing or was altered after the export"
    assert continued.startswith(
        ("onnx: continues prompts otherwise than ", "onnx: finds what continues a prompt less ")
    )
    assert differs.startswith("onnx: differs from the Keras model by ")


def test_a_harmless_change_is_noticed_and_still_measured(copy_with: CopyWith) -> None:
    bundle = copy_with("onnx")
    content = onnx.load(bundle / "model.onnx")
    content.doc_string = "somebody was here"
    onnx.save(content, bundle / "model.onnx")
    report = verify_bundle(bundle)
    assert report.failure_lines() == ["onnx: model.onnx is missing or was altered after the export"]
    assert report.artefacts[0].max_error is not None and report.artefacts[0].max_error < 1e-4


@pytest.mark.parametrize("keep", [0, 1000, -1000])
def test_broken_files_are_failures_by_name(keep: int, copy_with: CopyWith) -> None:
    bundle = copy_with("tflite", "onnx")
    for artefact, name in [("tflite", "model.tflite"), ("onnx", "model.onnx")]:
        (bundle / name).write_bytes((bundle / name).read_bytes()[:keep])
        adopt(bundle, artefact, name)
    report = verify_bundle(bundle)
    for artefact in report.artefacts:
        assert artefact.failures and artefact.max_error is None, artefact.name
        assert all("\n" not in failure and len(failure) < 400 for failure in artefact.failures)


def test_a_saved_model_without_its_variables_is_a_failure(copy_with: CopyWith) -> None:
    bundle = copy_with("saved_model", "onnx")
    data = next((bundle / "saved_model/gpt/1/variables").glob("variables.data*"))
    data.unlink()
    report = verify_bundle(bundle)
    missing, other = report.artefacts
    assert missing.failures[0] == f"{data.relative_to(bundle)} is missing or was altered after the export"
    assert len(missing.failures) == 2 and missing.max_error is None
    assert other.passed


def test_an_altered_reference_is_noticed(copy_with: CopyWith) -> None:
    bundle = copy_with("onnx")
    case = Case.load(bundle / LATENCY)
    outputs = {"logits": case.outputs["logits"] + 1e-6}
    dataclasses.replace(case, outputs=outputs).save(bundle / "reference")
    report = verify_bundle(bundle)
    assert report.failure_lines() == [f"{LATENCY} is missing or was altered after the export"]
    (bundle / LATENCY).unlink()
    with pytest.raises(UserError, match=r"latency\.safetensors cannot be read"):
        verify_bundle(bundle)


def test_what_is_added_or_changed_beside_the_artefacts_is_told(copy_with: CopyWith) -> None:
    bundle = copy_with("onnx")
    newer = bundle / "saved_model/gpt/2/saved_model.pb"
    newer.parent.mkdir(parents=True)
    newer.write_bytes(b"served first: a higher version")
    (bundle / "tokenizer/tokenizer.json").write_text("{}")
    assert verify_bundle(bundle).failure_lines() == [
        "tokenizer/tokenizer.json is missing or was altered after the export",
        "saved_model/gpt/2/saved_model.pb was added after the export",
    ]


@pytest.mark.parametrize("outputs", [{"logits": np.full((1, 5, 512), np.nan, "float32")}, {}], ids=["nan", "none"])
def test_a_reference_that_everything_would_pass_is_refused(outputs: dict, copy_with: CopyWith) -> None:
    bundle = copy_with("onnx")
    case = Case.load(bundle / LATENCY)
    dataclasses.replace(case, outputs=outputs).save(bundle / "reference")
    with pytest.raises(UserError, match="missing, NaN or infinite"):
        verify_bundle(bundle)


def test_a_report_that_cannot_be_written_is_a_warning(
    copy_with: CopyWith, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Report, bundle: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Report, "write", refuse)
    assert verify_bundle(copy_with("onnx")).passed
    assert "could not be rewritten" in caplog.text
