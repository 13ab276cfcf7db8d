"""The inputs that artefacts are held to cover what was promised, and their outputs are the model's."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import reference
from export.reference import Case, Tensors, make_cases, make_real_cases
from export.signatures import Signature, signatures
from zoo.errors import UserError
from zoo.model import Axis, TensorSpec, ZooModel


@pytest.fixture(scope="module")
def text_ids(model: ZooModel, texts: list[str]) -> np.ndarray:
    return np.array([id for text in texts for id in model.tokenizer.encode(text)], "int32")


@pytest.fixture(scope="module")
def cases(model: ZooModel, text_ids: np.ndarray) -> list[Case]:
    return list(make_cases(signatures(model)[0], text_ids))


def test_cases_cover_batches_lengths_padding_and_text(cases: list[Case], model: ZooModel, text_ids: np.ndarray) -> None:
    shapes = {case.inputs["token_ids"].shape for case in cases}
    assert shapes == {(batch, n) for batch, n in itertools.product([1, 2, 7], [5, 37, 64])} - {(7, 64)}
    windows = {tuple(np.tile(text_ids, 9)[i : i + 5]) for i in range(len(text_ids))}
    seen = set()
    for case in cases:
        ids, mask = case.inputs["token_ids"], case.inputs["padding_mask"]
        assert ids.dtype == mask.dtype == np.int32
        assert ids.min() >= 0 and ids.max() < model.config.vocabulary_size
        lengths = mask.sum(1)
        assert (mask == (np.arange(mask.shape[1]) < lengths[:, None])).all()  # right-padded
        assert lengths.min() >= 1
        padded, text = "padded" in case.name, "text" in case.name or case.purpose == "latency"
        assert (lengths < mask.shape[1]).all() == padded
        assert not padded or len(lengths) == 1 or len(set(lengths)) > 1  # uneven
        real_ids = ids[0][: lengths[0]]
        assert (tuple(real_ids[:5]) in {window[: len(real_ids)] for window in windows}) == text
        seen.add((len(ids), padded, text))
    assert seen == set(itertools.product([1, 2, 7], [False, True], [False, True])) - {
        (1, True, True),
        (2, False, False),
        (7, False, True),
        (7, True, False),
    }


def test_outputs_are_the_models(cases: list[Case], model: ZooModel, tmp_path: Path) -> None:
    for case in cases:
        np.testing.assert_array_equal(case.outputs["logits"], model(case.inputs)["logits"].numpy())
        case.save(tmp_path)
        again = Case.load(tmp_path / f"{case.name}.safetensors")
        assert again.name == case.name and again.positions == case.positions == {}
        for key in ("token_ids", "padding_mask"):
            np.testing.assert_array_equal(again.inputs[key], case.inputs[key])
        np.testing.assert_array_equal(again.outputs["logits"], case.outputs["logits"])


def test_large_outputs_are_cut_to_evenly_spaced_positions(
    model: ZooModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "OUTPUT_LIMIT", 20_000)  # bytes; a position is 1120 of them
    cases = make_cases(signatures(model)[0])
    case = next(case for case in cases if case.name == "serving_default-batch1-tokens64-random")
    positions = case.positions["logits"]
    assert len(positions) == 17 and positions[0] == 0 and positions[-1] == 63
    assert set(np.diff(positions)) <= {3, 4}
    np.testing.assert_array_equal(case.outputs["logits"], model(case.inputs)["logits"].numpy()[:, positions])
    case.save(tmp_path)
    assert Case.load(tmp_path / f"{case.name}.safetensors").positions == case.positions


def test_real_positions_follow_the_mask(cases: list[Case]) -> None:
    case = next(case for case in cases if case.name.endswith("batch2-tokens5-random-padded"))
    assert case.real("logits").tolist() == [[True] * 4 + [False], [True] * 2 + [False] * 3]
    pooled = Case("pooled", "f", "shapes", case.inputs, {"logits": np.zeros((2, 9))})
    assert pooled.real("logits").tolist() == [True, True]
    cut = Case("cut", "f", "shapes", case.inputs, {"logits": np.zeros((2, 2, 9))}, {"logits": [0, 3]})
    assert cut.real("logits").tolist() == [[True, True], [True, False]]


def test_a_model_without_tokens() -> None:
    spec = TensorSpec("images", "float32", (Axis("batch"), 4, 4, 3))
    doubling = Signature("double", (spec,), ("twice",), lambda inputs: {"twice": 2 * inputs["images"]})

    cases = list(make_cases(doubling))
    assert [(case.name, case.purpose, case.inputs["images"].shape) for case in cases] == [
        ("double-batch1", "shapes", (1, 4, 4, 3)),
        ("double-batch2", "shapes", (2, 4, 4, 3)),
        ("double-batch7", "shapes", (7, 4, 4, 3)),
        ("double-latency", "latency", (1, 4, 4, 3)),
    ]
    assert all((case.outputs["twice"] == 2 * case.inputs["images"]).all() for case in cases)


def test_a_model_that_gives_nan_cannot_be_a_reference(model: ZooModel) -> None:
    weight = model.weights[0]
    kept = weight.numpy()
    weight.assign(np.full_like(kept, np.nan))
    try:
        with pytest.raises(UserError, match="the model's logits has NaN or infinite values"):
            next(make_cases(signatures(model)[0]))
    finally:
        weight.assign(kept)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_broken_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "case.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"case\.safetensors cannot be read"):
        Case.load(tmp_path / "case.safetensors")
    with pytest.raises(UserError, match=r"none\.safetensors cannot be read"):
        Case.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("positions", [{"logits": [0, 9]}, {"logits": "all"}, {"logits": {}}, [], 3])
def test_positions_that_do_not_fit_are_refused(positions: Any, tmp_path: Path) -> None:
    inputs = {"padding_mask": np.ones((1, 5), "int32")}
    Case("case", "f", "shapes", inputs, {"logits": np.zeros((1, 2, 9), "float32")}, positions).save(tmp_path)
    with pytest.raises(UserError, match=r"case\.safetensors cannot be read"):
        Case.load(tmp_path / "case.safetensors")


def test_real_cases_keep_what_is_right_at_the_positions_that_are_kept(
    model: ZooModel, text_ids: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "OUTPUT_LIMIT", 20_000)
    ids = text_ids[:64].reshape(2, 32)
    following = np.pad(ids[:, 1:], [(0, 0), (0, 1)], constant_values=-1)
    batches = [({"token_ids": ids, "padding_mask": np.ones_like(ids)}, {"logits": following})]
    (case,) = make_real_cases(signatures(model)[0], batches, "perplexity")
    assert (case.purpose, case.metric, len(case.positions["logits"])) == ("real", "perplexity", 8)
    np.testing.assert_array_equal(case.targets["logits"], following[:, case.positions["logits"]])
    case.save(tmp_path)
    again = Case.load(tmp_path / f"{case.name}.safetensors")
    np.testing.assert_array_equal(again.targets["logits"], case.targets["logits"])
    assert (again.function, again.purpose, again.metric) == ("serving_default", "real", "perplexity")


def test_strings_are_kept(tmp_path: Path) -> None:
    words = np.array([["a", "längere".encode()], [b"", b"b\0c"]], "S")
    Case("case", "f", "shapes", {"text": words}, {"label": words[:, 0]}).save(tmp_path)
    again = Case.load(tmp_path / "case.safetensors")
    np.testing.assert_array_equal(again.inputs["text"], words)
    np.testing.assert_array_equal(again.outputs["label"], words[:, 0])


@pytest.mark.parametrize("target", [np.zeros(3, "int32"), np.full(2, 9, "int32")])
def test_targets_that_do_not_fit_are_refused(target: np.ndarray, tmp_path: Path) -> None:
    given, outputs = {"x": np.zeros(2, "float32")}, {"logits": np.zeros((2, 9), "float32")}
    Case("case", "f", "real", given, outputs, targets={"logits": target}, metric="accuracy").save(tmp_path)
    with pytest.raises(UserError, match="targets of logits do not fit"):
        Case.load(tmp_path / "case.safetensors")


@pytest.mark.parametrize(
    "inputs", [{}, {"seed": np.array(1)}, {"x": np.zeros(2), "padding_mask": np.zeros(2, "int32")}]
)
def test_inputs_that_no_model_takes_are_refused(inputs: Tensors, tmp_path: Path) -> None:
    Case("case", "f", "real", inputs, {"logits": np.zeros((2, 9), "float32")}).save(tmp_path)
    with pytest.raises(UserError, match=r"no input has rows|no matrix"):
        Case.load(tmp_path / "case.safetensors")
