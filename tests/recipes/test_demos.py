"""The journeys of `zoo demo`, as short as they can be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share
from sklearn.datasets import load_digits

from recipes.command import run as zoo_command
from recipes.data.samples import captioned_digits_folder, digits_folder
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


NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_captions_say_what_their_picture_shows(tmp_path: Path) -> None:
    folder = captioned_digits_folder(tmp_path)
    digits = load_digits()
    drawn = {np.rint(image * (255 / 16)).astype("uint8").tobytes(): i for i, image in enumerate(digits.images)}
    statements: dict[str, set[str]] = {}
    for name, count in (("train", 6000), ("test", 400)):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert len(rows) == count and len({row["image"] for row in rows}) == count
        statements[name] = {row["caption"] for row in rows}
        for row in rows[::37]:
            pixels = read_image(folder / row["image"])[..., 0]
            quarters = {(y, x): pixels[8 * y :, 8 * x :][:8, :8] for y in (0, 1) for x in (0, 1)}
            shown = {place: drawn[quarter.tobytes()] for place, quarter in quarters.items() if quarter.any()}
            assert {number < 1437 for number in shown.values()} == {name == "train"}
            (first, a), (second, b) = sorted(shown.items())
            one, other = (f"{'an' if digit == 8 else 'a'} {NUMBERS[digit]}" for digit in digits.target[[a, b]])
            if first[0] == second[0]:
                assert row["caption"] == f"{one} to the left of {other}"
            else:
                assert first[1] == second[1]
                assert row["caption"] == f"{one} above {other}"
    assert (len(statements["train"]), len(statements["test"])) == (160, 40)
    assert not statements["train"] & statements["test"]


def assert_arrives(capsys: pytest.CaptureFixture[str], family: str, out: Path, steps: int) -> dict[str, Any]:
    """All goes well, and all answer alike; the figures."""
    assert zoo_command(["demo", "--family", family, "--out", str(out), "--steps", str(steps), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    formats = {name.partition("_encode")[0] for name in result["artefacts"]}  # a tower may have a file of its own
    assert result["passed"] and result["agree"] and formats - {"saved_model_text"} == {"saved_model", "tflite", "onnx"}
    assert set(result["accuracies"].values()) == {result["accuracy"]}
    assert (out / "bundle" / "report.md").is_file()
    return result


@pytest.mark.full  # takes half a minute; training and export are in the quick tier each by itself
def test_clip_goes_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = assert_arrives(capsys, "clip", tmp_path / "demo", 60)
    assert result["chance"] == 1 / 40 and result["accuracy"] > 3 / 40
    assert (tmp_path / "demo" / "run" / "retrieved.png").is_file()


@pytest.mark.full  # takes half a minute; training and export are in the quick tier each by itself
def test_vit_goes_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = assert_arrives(capsys, "vit", tmp_path / "demo", 20)
    assert 0.85 < result["regression_accuracy"] < result["neighbour_accuracy"] < 0.98
    assert (tmp_path / "demo" / "run" / "predictions.png").is_file()
