"""What `transformers` made of hard strings, from its files and from older ones: see `tests/golden/make_text.py`."""

import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.text import Tokenizer, cut_pieces, encode_stream

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
CASES = json.loads((GOLDEN / "cases.json").read_text())
KINDS = {
    "bert-uncased": "wordpiece",
    "bert-cased": "wordpiece",
    "bert-accents": "wordpiece",
    "bert-cased-stripped": "wordpiece",
    "gpt2": "bpe",
    "clip": "clip",
}
ROLES = {"bos_token": "start", "eos_token": "end"}  # and the others without their "_token"
NAME = pytest.mark.parametrize("name", KINDS)
NEW_KINDS = pytest.mark.parametrize("name", ["bert-uncased", "bert-cased", "clip"])


@pytest.fixture(scope="module")
def read() -> Callable[[str], Tokenizer]:
    read: dict[str, Tokenizer] = {}
    return lambda name: read.get(name) or read.setdefault(name, Tokenizer.load(GOLDEN / name))


@pytest.mark.parametrize("without", ["", "tokenizer.json", "tokenizer_config.json"])
@NAME
def test_the_ids_are_the_same(name: str, without: str, tmp_path: Path) -> None:
    """From everything that transformers saves, from the older files, and from tokenizer.json alone."""
    shutil.copytree(GOLDEN / name, tmp_path / name)
    if without:
        (tmp_path / name / without).unlink()
    tokenizer = Tokenizer.load(tmp_path / name)
    expected = CASES["answers"][name]
    assert tokenizer.kind == KINDS[name]
    for text, ids in zip(CASES["texts"], expected["token_ids"], strict=True):
        assert tokenizer.prepare([text], max_length=999)["token_ids"].tolist() == [ids], ascii(text)
    special = {ROLES.get(role, role.removesuffix("_token")): number for role, number in expected["special"].items()}
    if tokenizer.kind == "bpe":
        del special["unk"]  # there is no such thing: every byte has a token
    assert tokenizer.special_ids == special
    assert tokenizer.max_length == (None if without == "tokenizer_config.json" else _saved(name)["model_max_length"])


def _saved(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name / "tokenizer_config.json").read_text())


@NAME
def test_offsets_and_decoded_texts_are_the_same(name: str, read: Callable[[str], Tokenizer]) -> None:
    tokenizer, expected = read(name), CASES["answers"][name]
    for row, text in enumerate(CASES["texts"]):
        inputs = tokenizer.prepare([text], max_length=999, offsets=True)
        assert inputs["offsets"][0].tolist() == expected["offsets"][row], ascii(text)
        if name != "gpt2":  # there the text itself comes back, which the library's decoder does for most texts
            assert tokenizer.decode(expected["token_ids"][row][:-1]) == expected["decoded"][row], ascii(text)


@pytest.mark.parametrize("name", CASES["pair_answers"])
def test_pairs_are_truncated_and_padded_the_same(name: str, read: Callable[[str], Tokenizer]) -> None:
    texts, pairs = zip(*CASES["pairs"], strict=True)
    for answer in CASES["pair_answers"][name]:
        inputs = read(name).prepare(texts, pairs, **answer["settings"], offsets=True)
        assert ("segment_ids" in inputs) == (KINDS[name] == "wordpiece")
        for key, array in inputs.items():
            assert array.dtype == np.int32
            assert array.tolist() == answer[key], (key, answer["settings"])


@NAME
def test_saved_and_loaded_it_is_the_same(name: str, read: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    tokenizer = read(name)
    tokenizer.save(tmp_path)
    assert Tokenizer.is_saved_in(tmp_path)
    expected = tokenizer.encode_batch(CASES["texts"])
    loaded = Tokenizer.load(tmp_path)
    assert loaded.same_as(tokenizer)
    assert loaded.special_ids == tokenizer.special_ids
    assert loaded.encode_batch(CASES["texts"]) == expected
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))  # as any other program would use it
    assert [library.encode(text, add_special_tokens=False).ids for text in CASES["texts"]] == expected
    (tmp_path / "tokenizer.json").unlink()
    assert Tokenizer.load(tmp_path).same_as(tokenizer)
    others = [read(other) for other in KINDS if other != name]
    assert not any(tokenizer.same_as(other) for other in others)


@NAME
def test_the_layout_of_hugging_face(name: str, read: Callable[[str], Tokenizer], tmp_path: Path) -> None:
    read(name).save(tmp_path, layout="hf", max_length=99)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == _saved(name)["tokenizer_class"]
    assert config["model_max_length"] == 99
    assert Tokenizer.load(tmp_path).max_length == 99
    for key, value in _saved(name).items():
        if key.endswith("_token") and (KINDS[name], key) != ("bpe", "unk_token"):
            assert config[key] == value
    (tmp_path / "tokenizer_config.json").unlink()
    read(name).save(tmp_path)  # where nothing is said, the tokenizer's own stays, or for GPT-2 no file is written
    assert Tokenizer.load(tmp_path).max_length == (None if name == "gpt2" else _saved(name)["model_max_length"])


WHITE = " \n\t\r\u00a0\u3000\u2028\x0b\x1c"


@NEW_KINDS
@settings(max_examples=200, deadline=None, database=None)
@given(
    text=st.text(st.sampled_from(f"{WHITE}{WHITE}'setvlÉe\u0301\u0301日.1[]<|\x00"), max_size=80).map(
        lambda text: text.replace("[", "[SEP]").replace("<", "<|endoftext|>")
    ),
    characters=st.integers(1, 8),
)
def test_pieces_give_the_ids_of_the_whole(
    name: str, text: str, characters: int, read: Callable[[str], Tokenizer]
) -> None:
    """White space ends a word whatever comes after it, and nothing in it is normalized together with its neighbours."""
    pieces = list(cut_pieces([text], characters, longest=10**6))
    assert "".join(pieces) == text
    assert list(chain.from_iterable(read(name).encode_batch(pieces))) == read(name).encode(text)


@NEW_KINDS
def test_a_stream_gives_the_ids_of_the_whole(name: str, read: Callable[[str], Tokenizer]) -> None:
    text = " ".join(CASES["texts"]) * 400  # more than one batch
    arrays = list(encode_stream(read(name), [text[start : start + 9999] for start in range(0, len(text), 9999)]))
    assert len(arrays) > 1
    assert np.concatenate(arrays).tolist() == read(name).encode(text)
