"""The driver for .tflite files, without one: how tokens are drawn, where it ends, and what it says of a mistake. With a
file it is tested where those are."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from export import generate_tflite
from export.generate_tflite import END_OF_TEXT, DeviceGenerator, choose_token

WORDS = ["Once", "upon", "a", "time", "there", "was", END_OF_TEXT, "more"]  # one after another, and round again


class Counting(DeviceGenerator):
    """Of eight tokens; the next is the likeliest, and the one after that half as likely."""

    def __init__(self, file: str | Path, vocabulary_size: int | None = None) -> None:
        assert Path(file).name == "model.tflite"
        self.decode, self.prefills, self.slots = None, {}, 5
        self.cache_shapes = {"key_0": (1, 1, self.slots, 1)}
        self.vocabulary_size = min(8, vocabulary_size or 8)

    @staticmethod
    def _run(runner: Any, tokens: list[int], position: int, cache: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        probabilities = np.full(8, 1e-30)
        probabilities[(tokens[-1] + 1) % 8], probabilities[(tokens[-1] + 2) % 8] = 2 / 3, 1 / 3
        return {**cache, "logits": np.log(probabilities)[None].astype("float32")}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the working one, with a tokenizer as in a bundle."""
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token=END_OF_TEXT))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    (tmp_path / "tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "tokenizer/tokenizer.json"))
    (tmp_path / "broken.json").write_text("no JSON")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["generate_tflite.py", *arguments])
    generate_tflite.main()


def test_it_ends_before_a_token_to_stop_at() -> None:
    driver, seen = Counting("model.tflite"), []
    assert driver.generate([0], 10, on_token=seen.append, stop=[6]) == seen == [1, 2, 3, 4, 5]
    assert driver.generate([0], 3, stop=[6]) == [1, 2, 3]
    assert driver.generate([5, 6], 10, stop=[3, 7]) == []
    assert driver.generate([0], 10) == [1, 2, 3, 4, 5, 6, 7, 0, 1, 2]
    assert driver.generate([0], 0) == []


def test_it_draws_among_tokens_of_so_much_probability() -> None:
    """The fewest that have it, of the `top_k` likeliest."""
    logits = np.log(np.array([0.1, 0.4, 0.2, 0.3]))

    def shares(top_k: int, top_p: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        drawn = [choose_token(logits, 1.0, top_k, rng, top_p) for _ in range(2000)]
        return np.bincount(drawn, minlength=4) / len(drawn)

    for top_k, top_p, expected in (
        (0, 1.0, [0.1, 0.4, 0.2, 0.3]),
        (0, 0.8, [0, 4 / 9, 2 / 9, 3 / 9]),
        (0, 0.65, [0, 4 / 7, 0, 3 / 7]),
        (0, 0.39, [0, 1, 0, 0]),
        (0, 1e-9, [0, 1, 0, 0]),
        (2, 0.6, [0, 4 / 7, 0, 3 / 7]),
        (2, 0.55, [0, 1, 0, 0]),  # 4 / 7 of what the two have
    ):
        np.testing.assert_allclose(shares(top_k, top_p), expected, atol=0.03, err_msg=f"{top_k}, {top_p}")
    driver = Counting("model.tflite")
    greedy, drawn = (driver.generate([0], 20, 1.0, top_p=top_p) for top_p in (0.6, 0.7))
    assert greedy == driver.generate([0], 20) != drawn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": []}, "1 or more token ids from 0 to 7"),
        ({"prompt": [8]}, "1 or more token ids from 0 to 7"),
        ({"prompt": ["a"]}, "1 or more token ids from 0 to 7"),
        ({"prompt": [1.5]}, "1 or more token ids from 0 to 7"),
        ({"stop": [-1]}, "tokens to stop at are ids from 0 to 7"),
        ({"count": -1}, "count is -1, and must be 0 or more"),
        ({"temperature": -0.5}, "temperature is -0.5, and must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan, and must be 0 or more"),
        ({"top_k": -4}, "top_k is -4, and must be 0 or more"),
        ({"seed": -1}, "seed is -1, and must be 0 or more"),
        ({"top_p": 0.0}, r"top_p is 0\.0, and must be above 0 and at most 1"),
        ({"top_p": 1.5}, r"top_p is 1\.5, and must be above 0 and at most 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Counting("model.tflite").generate(**{"prompt": [1], "count": 2, **options})


def test_the_command_that_it_shows_is_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends where the tokenizer's text does, but where another token is given to stop at."""
    monkeypatch.setattr(generate_tflite, "DeviceGenerator", Counting)
    shown = re.search(r"^ +python generate_tflite.py (.*)$", generate_tflite.__doc__ or "", re.MULTILINE)
    assert shown is not None
    command = shlex.split(shown[1])
    call(monkeypatch, *command)
    assert capsys.readouterr().out == "Once upon a time there was\n"
    call(monkeypatch, *command, "--stop", "7", "--stop", "5")
    assert capsys.readouterr().out == "Once upon a time there\n"
    call(monkeypatch, *command, "--stop", "7")
    assert capsys.readouterr().out == f"Once upon a time there was {END_OF_TEXT}\n"
    call(monkeypatch, "model.tflite", "--ids", "[5, 6]", "--count", "3", "--top-p", "0.6", "--temperature", "1")
    assert json.loads(capsys.readouterr().out) == [7, 0, 1]
    call(monkeypatch, *command[:-1], "Once \udcff", "--count", "1")  # a byte that is no text
    assert capsys.readouterr().out == f"Once {END_OF_TEXT} more\n"


TEXT = ["--prompt", "a", "--tokenizer"]
MISTAKES = [
    (["missing.tflite", "--ids", "[1]"], "Could not open 'missing.tflite'"),
    (["broken.json", "--ids", "[1]"], "not a valid Flatbuffer"),
    (["model.tflite", *TEXT, "missing.json"], "missing.json: No such file or directory"),
    (["model.tflite", *TEXT, "broken.json"], "broken.json: expected"),
    (["model.tflite", *TEXT, "of two\nlines.json"], "of two lines.json: No such file"),
    (["model.tflite", "--prompt", "a"], "--prompt needs --tokenizer"),
    (["model.tflite"], "one of the arguments --prompt --ids is required"),
    (["model.tflite", "--ids", "5"], "argument --ids: '5' is no list of token ids"),
    (["model.tflite", "--ids", '["a"]'], "argument --ids: '[\"a\"]' is no list of token ids"),
    (["model.tflite", "--ids", "[1.5]"], "argument --ids: '[1.5]' is no list of token ids"),
    (["model.tflite", "--ids", "[true]"], "argument --ids: '[true]' is no list of token ids"),
    (["model.tflite", "--ids", "[1"], "argument --ids: '[1' is no list of token ids"),
    (["model.tflite", "--ids", "[" * 100_000], "is no list of token ids"),
    (["model.tflite", "--ids", "[]"], "a prompt is 1 or more token ids"),
    (["model.tflite", "--ids", "[1]", "--top-k", "-4"], "top_k is -4"),
    (["model.tflite", "--ids", "[1]", "--top-p", "2"], "top_p is 2.0"),
    (["model.tflite", "--ids", "[1]", "--count", "-1"], "count is -1"),
    (["model.tflite", "--ids", "[1]", "--count", "a"], "argument --count: invalid int value"),
    (["model.tflite", "--ids", "[1]", "--stop", "8"], "tokens to stop at are ids from 0 to 7"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments[0] == "model.tflite":
        monkeypatch.setattr(generate_tflite, "DeviceGenerator", Counting)
    _assert_refused(arguments, message, monkeypatch, capsys)


@pytest.mark.parametrize("package", ["tokenizers", "ai_edge_litert.interpreter"])
def test_a_package_that_is_not_installed_is_named(
    package: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    arguments = ["model.tflite", *TEXT, "tokenizer/tokenizer.json"]
    _assert_refused(arguments, f"import of {package}", monkeypatch, capsys)


def _assert_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        call(monkeypatch, *arguments)
    out, error = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert error.startswith("generate_tflite.py: error: ")
    assert error.count("\n") == 1
    assert message in error
