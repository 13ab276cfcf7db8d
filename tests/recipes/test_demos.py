"""The journeys of `zoo demo`, as short as they can be."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share
from sklearn.datasets import load_digits

from recipes.command import run as zoo_command
from recipes.data.samples import digits_folder
from zoo.image import read_image


def test_digits_are_those_of_scikit_learn(tmp_path: Path) -> None:
    folder = digits_folder(tmp_path)
    digits = load_digits()
    counts = []
    for name in ("train", "test"):
        files = sorted((folder / name).glob("*/*.png"))
        counts.append(len(files))
        for file in files[::50]:
            place = int(file.stem)
            assert file.parent.name == str(digits.target[place])
            pixels = read_image(file)
            assert np.array_equal(np.rint(pixels[..., 1] * (16 / 255)), digits.images[place])
    assert counts == [1437, 360]
    assert digits_folder(tmp_path) == folder


@pytest.mark.full  # takes half a minute; training and export are in the quick tier each by itself
def test_vit_goes_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert zoo_command(["demo", "--family", "vit", "--out", str(out), "--steps", "20", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["passed"] and result["agree"] and set(result["artefacts"]) == {"saved_model", "tflite", "onnx"}
    assert set(result["accuracies"].values()) == {result["accuracy"]}
    assert 0.85 < result["regression_accuracy"] < result["neighbour_accuracy"] < 0.98
    assert (out / "run" / "predictions.png").is_file() and (out / "bundle" / "report.md").is_file()
