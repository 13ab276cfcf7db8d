"""Tokenizer files as input that nobody vouches for: what is broken or unsupported is named, in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe, train_characters
from zoo.text.specification import Specification

BPE = train_bpe(["low lower lowest, new newer newest " * 3], 280)
CHARACTERS = train_characters(["abc"])


def refused(directory: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        Tokenizer.load(directory)
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def edited(directory: Path, tokenizer: Tokenizer, edit: Callable[[dict[str, Any]], Any]) -> None:
    tokenizer.save(directory)
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path, str(tmp_path), "holds no tokenizer")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = path.read_bytes()
    for length in range(0, len(content) - 1, len(content) // 40):
        path.write_bytes(content[:length])
        refused(tmp_path, "tokenizer.json")


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b'{"model": 3}', b'{"model": {"type": "BPE"}}', b"\xff\xfe", b"\x00" * 9]
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    refused(tmp_path, "tokenizer.json")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("[" * 1_000_000)
    refused(tmp_path, "tokenizer.json", "nested too deeply")


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)  # takes no room on disk, and would take a terabyte of memory
    refused(tmp_path, "tokenizer.json", "64 MB")


def set_model(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["model"].update({name: value})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_model("type", "WordPiece"), ["only byte-level BPE"]),
        (set_model("dropout", 0.1), ["dropout"]),
        (set_model("end_of_word_suffix", "</w>"), ["end_of_word_suffix"]),
        (set_model("ignore_merges", True), ["ignore_merges"]),
        (set_model("vocab", []), ["vocabulary"]),
        (set_model("merges", None), ["merges"]),
        (set_model("merges", [["l", "o", "w"]]), ["not a pair"]),
        (set_model("merges", [["l", "☃"]]), ["☃", "not a token"]),
        (lambda content: content["model"]["vocab"].pop("a"), ["ids", "not 0 to"]),
        (lambda content: content["model"]["vocab"].update(a=10**12), ["ids", "not 0 to"]),
        (lambda content: content["model"]["vocab"].update(a=1.5), ["'a'", "int"]),
        (lambda content: content["model"]["vocab"].update({"a☃": content["model"]["vocab"].pop("a")}), ["'a'"]),
        (lambda content: content["model"]["vocab"].update({"\ud800": 281}), ["surrogate"]),
        (lambda content: content.update(normalizer={"type": "Lowercase"}), ["normalizer"]),
        (lambda content: content.update(pre_tokenizer={"type": "Whitespace"}), ["Whitespace"]),
        (lambda content: content["pre_tokenizer"].update(add_prefix_space=True), ["add_prefix_space"]),
        (lambda content: content["pre_tokenizer"].update(use_regex=False), ["pre_tokenizer"]),
        (lambda content: content["added_tokens"][0].update(id=7), ["<|endoftext|>", "two ids"]),
        (lambda content: content["added_tokens"][0].update(lstrip=True), ["<|endoftext|>", "strips"]),
        (
            lambda content: content["added_tokens"].append({"id": BPE.vocabulary_size, "content": "a b"}),
            ["'a b'", "white space"],
        ),
        (lambda content: content["added_tokens"].append("x"), ["added token"]),
    ],
)
def test_what_would_change_the_ids_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    edited(tmp_path, BPE, edit)
    refused(tmp_path, "tokenizer.json", *words)


def test_characters_without_all_bytes_are_refused(tmp_path: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["d"] = vocabulary.pop("<0x64>")

    edited(tmp_path, CHARACTERS, rename)
    refused(tmp_path, "tokenizer.json", "<0x64>")


def test_padding_and_truncation_in_the_file_have_no_effect(tmp_path: Path) -> None:
    """A file may ask for padding to any length, which would fill the memory."""
    padding = {
        "strategy": {"Fixed": 10**12},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    edited(tmp_path, BPE, lambda content: content.update(padding=padding, truncation=truncation))
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).padding["length"] == 10**12
    assert Tokenizer.load(tmp_path).encode("lowest newest") == BPE.encode("lowest newest")


def test_older_files_of_gpt2_are_read(tmp_path: Path) -> None:
    """Merges as strings, no `use_regex`, the special token outside the vocabulary or with an empty suffix."""

    def age(content: dict[str, Any]) -> None:
        model = content["model"]
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
        model["continuing_subword_prefix"] = model["end_of_word_suffix"] = ""
        del content["pre_tokenizer"]["use_regex"], model["vocab"]["<|endoftext|>"]

    edited(tmp_path, BPE, age)
    assert Tokenizer.load(tmp_path).same_as(BPE)


def test_further_special_tokens_are_kept(tmp_path: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        for number, token in enumerate(["<pad>", "Ġend"], BPE.vocabulary_size):  # elsewhere Ġ stands for a space
            content["added_tokens"].append({"id": number, "content": token, "special": True})

    edited(tmp_path, BPE, add)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.vocabulary_size == BPE.vocabulary_size + 2
    text = "low<pad>ĠendĠ er<|endoftext|>"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert {BPE.vocabulary_size, BPE.vocabulary_size + 1, BPE.end_of_text} < set(ids)


def test_everything_that_changes_ids_changes_the_fingerprint() -> None:
    given = BPE.specification
    names = list(given.vocabulary)
    swapped = {**given.vocabulary, names[5]: given.vocabulary[names[6]], names[6]: given.vocabulary[names[5]]}
    others = [
        Specification("bpe", swapped, given.merges),
        Specification("bpe", given.vocabulary, given.merges[::-1]),
        Specification("bpe", given.vocabulary, given.merges[:-1]),
        Specification("bpe", given.vocabulary, given.merges, (*given.special_tokens, "!")),
        CHARACTERS.specification,
    ]
    assert len({other.fingerprint for other in [given, *others]}) == 6
    again = Specification("bpe", dict(reversed(given.vocabulary.items())), given.merges)
    assert again.fingerprint == given.fingerprint


def test_gpt2s_files_when_broken(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8")
    (tmp_path / "merges.txt").unlink()
    refused(tmp_path, "merges.txt", "cannot be read")
    (tmp_path / "merges.txt").write_text(merges + "one two three\n", encoding="utf-8")
    refused(tmp_path, "not a pair")
    (tmp_path / "merges.txt").write_text(merges.replace("\n", "\r\n"), encoding="utf-8")
    assert Tokenizer.load(tmp_path).same_as(BPE)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    refused(tmp_path, "vocab.json", "256 tokens are missing")


def test_the_library_reads_what_is_saved(tmp_path: Path) -> None:
    """`tokenizers` alone, as any other program would use it."""
    for tokenizer in (BPE, CHARACTERS):
        tokenizer.save(tmp_path)
        other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        text = "lower é abc<|endoftext|>\n new"
        assert other.encode(text).ids == tokenizer.encode(text)
        assert other.decode(tokenizer.encode(text), skip_special_tokens=False) == text
