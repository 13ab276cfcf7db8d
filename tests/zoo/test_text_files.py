"""Tokenizer files as input that nobody vouches for: what is broken or unsupported is named, in one line."""

import json
import random
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from zoo.errors import UserError
from zoo.text import Tokenizer, train_bpe, train_characters
from zoo.text.specification import Specification

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
BPE = train_bpe(["low lower lowest, new newer newest " * 3], 280)
CHARACTERS = train_characters(["abc"])


def assert_refused(directory: Path, *words: str) -> None:
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
    assert_refused(tmp_path, str(tmp_path), "holds no tokenizer")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    BPE.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = path.read_bytes()
    for length in range(0, len(content) - 1, len(content) // 40):
        path.write_bytes(content[:length])
        assert_refused(tmp_path, "tokenizer.json")


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b'{"model": 3}', b'{"model": {"type": "BPE"}}', b"\xff\xfe", b"\x00" * 9]
)
def test_other_content_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert_refused(tmp_path, "tokenizer.json")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("[" * 1_000_000)
    assert_refused(tmp_path, "tokenizer.json", "nested too deeply")


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(2**40)  # takes no room on disk, and would take a terabyte of memory
    assert_refused(tmp_path, "tokenizer.json", "64 MB")


def template(*names: str) -> dict[str, Any]:
    pieces = [
        {"Sequence" if name in ("A", "B") else "SpecialToken": {"id": name, "type_id": int("B" in names[: n + 1])}}
        for n, name in enumerate(names)
    ]
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": {}}


def set_model(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["model"].update({name: value})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (set_model("type", "WordPiece"), ["continuing_subword_prefix", "'##'"]),
        (set_model("type", "Unigram"), ["'Unigram'", "expected BPE or WordPiece"]),
        (set_model("dropout", 0.1), ["dropout"]),
        (set_model("end_of_word_suffix", "</w>"), ["normalizer", "CLIP"]),
        (set_model("end_of_word_suffix", "@@"), ["end_of_word_suffix"]),
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
        (lambda content: content.update(post_processor=template("<|endoftext|>", "A")), ["post_processor", "bpe"]),
        (lambda content: content.update(registered_name="keras_hub>GPT2Tokenizer"), ["Keras"]),
    ],
)
def test_what_would_change_the_ids_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    edited(tmp_path, BPE, edit)
    assert_refused(tmp_path, "tokenizer.json", *words)


def test_characters_without_all_bytes_are_refused(tmp_path: Path) -> None:
    def rename(content: dict[str, Any]) -> None:
        vocabulary = content["model"]["vocab"]
        vocabulary["d"] = vocabulary.pop("<0x64>")

    edited(tmp_path, CHARACTERS, rename)
    assert_refused(tmp_path, "tokenizer.json", "<0x64>")


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
    assert_refused(tmp_path, "merges.txt", "cannot be read")
    (tmp_path / "merges.txt").write_text(merges + "one two three\n", encoding="utf-8")
    assert_refused(tmp_path, "not a pair")
    (tmp_path / "merges.txt").write_text(merges.replace("\n", "\r\n"), encoding="utf-8")
    assert Tokenizer.load(tmp_path).same_as(BPE)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    assert_refused(tmp_path, "vocab.json", "256 tokens are missing")


def test_the_library_reads_what_is_saved(tmp_path: Path) -> None:
    """`tokenizers` alone, as any other program would use it."""
    for tokenizer in (BPE, CHARACTERS):
        tokenizer.save(tmp_path)
        other = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        text = "lower é abc<|endoftext|>\n new"
        assert other.encode(text).ids == tokenizer.encode(text)
        assert other.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def set_part(*keys: str | int, to: Any) -> Callable[[dict[str, Any]], Any]:
    def edit(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return edit


LAST = ["[CLS]", "A", "[SEP]"]
WORDPIECE_EDITS = [
    (set_part("model", "continuing_subword_prefix", to="@@"), ["continuing_subword_prefix"]),
    (set_part("model", "max_input_chars_per_word", to=50), ["max_input_chars_per_word"]),
    (set_part("model", "unk_token", to=None), ["unk_token"]),
    (set_part("model", "vocab", "cat", to=10**6), ["ids up to 1000000"]),
    (set_part("model", "vocab", "a", to=5), ["not different numbers"]),
    (set_part("model", "vocab", "a", to=-1), ["numbers from 0 on"]),
    (set_part("normalizer", to=None), ["normalizer"]),
    (set_part("normalizer", "type", to="Lowercase"), ["Lowercase", "BertNormalizer"]),
    (set_part("normalizer", "lowercase", to="yes"), ["lowercase", "bool"]),
    (set_part("normalizer", "strip_marks", to=True), ["normalizer"]),
    (set_part("pre_tokenizer", to={"type": "Whitespace"}), ["BertPreTokenizer"]),
    (set_part("post_processor", to={"type": "ByteLevel"}), ["post_processor", "wordpiece"]),
    (set_part("post_processor", to=template(*LAST, "B", "[SEP]")), ["post_processor", "wordpiece"]),
    (set_part("post_processor", "single", to=template("[CLS]", "A")["single"]), ["post_processor"]),
    (set_part("post_processor", "pair", 3, "Sequence", "type_id", to=0), ["post_processor", "wordpiece"]),
    (
        set_part("post_processor", to={"type": "RobertaProcessing", "cls": ["[CLS]", 3], "sep": ["[SEP]", 4]}),
        ["has them"],
    ),
    (set_part("post_processor", to={"type": "BertProcessing", "cls": 3, "sep": []}), ["cls"]),
    (set_part("post_processor", to={"type": "Sequence", "processors": []}), ["'Sequence'"]),
    (set_part("added_tokens", 0, "rstrip", to=True), ["[PAD]", "strips"]),
    (set_part("added_tokens", 0, to={"id": 600, "content": "<new>"}), ["<new>", "600", "not the next"]),
]
CLIP_EDITS = [
    (set_part("model", "fuse_unk", to=True), ["fuse_unk"]),
    (set_part("model", "byte_fallback", to=True), ["byte_fallback"]),
    (set_part("model", "unk_token", to="<unk>"), ["'<unk>'"]),
    (set_part("normalizer", to=None), ["normalizer"]),
    (set_part("normalizer", "normalizers", 0, "type", to="NFKC"), ["normalizer"]),
    (set_part("pre_tokenizer", "pretokenizers", 0, "pattern", to={"Regex": "."}), ["pre_tokenizer", "split"]),
    (set_part("pre_tokenizer", "pretokenizers", 0, "invert", to=False), ["pre_tokenizer", "split"]),
    (set_part("pre_tokenizer", "pretokenizers", 1, "add_prefix_space", to=True), ["add_prefix_space"]),
    (set_part("pre_tokenizer", to={"type": "ByteLevel", "add_prefix_space": False}), ["pre_tokenizer"]),
    (set_part("post_processor", to={"type": "ByteLevel"}), ["post_processor", "clip"]),
    (set_part("post_processor", "cls", to=["<|begin|>", 0]), ["<|begin|>"]),
]


@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [("bert-uncased", *case) for case in WORDPIECE_EDITS] + [("clip", *case) for case in CLIP_EDITS],
)
def test_in_the_other_kinds_too(
    tmp_path: Path, name: str, edit: Callable[[dict[str, Any]], Any], words: list[str]
) -> None:
    shutil.copy(GOLDEN / name / "tokenizer.json", tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    edit(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert_refused(tmp_path, "tokenizer.json", *words)


def test_older_files_of_bert_and_clip_are_read(tmp_path: Path) -> None:
    """No type of the model, as in bert-base-uncased; BERT's own post-processor; no special tokens in CLIP's pattern."""

    def age(name: str, edit: Callable[[dict[str, Any]], Any]) -> None:
        content = json.loads((GOLDEN / name / "tokenizer.json").read_text(encoding="utf-8"))
        edit(content)
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        assert Tokenizer.load(tmp_path).same_as(Tokenizer.load(GOLDEN / name))

    processor = {"type": "BertProcessing", "cls": ["[CLS]", 3], "sep": ["[SEP]", 4]}
    age("bert-uncased", lambda content: (content["model"].pop("type"), content.update(post_processor=processor)))
    age("bert-uncased", lambda content: content.update(post_processor=None))
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    age("clip", set_part("pre_tokenizer", "pretokenizers", 0, "pattern", to={"Regex": pattern}))
    age("gpt2", lambda content: content["model"].pop("type"))


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("bert-cased", {"do_lower_case": "no"}, ["tokenizer_config.json", "do_lower_case"]),
        ("bert-cased", {"model_max_length": -1}, ["tokenizer_config.json", "model_max_length"]),
        ("bert-cased", {"cls_token": ["[CLS]"]}, ["tokenizer_config.json", "added token"]),
        ("bert-cased", {"cls_token": "[START]"}, ["vocab.txt", "'[START]'"]),
        ("bert-cased", {"mask_token": {"content": "[MASK]", "lstrip": True}}, ["[MASK]", "strips"]),
        ("bert-cased", {"added_tokens_decoder": {"x": {"content": "[MASK]"}}}, ["tokenizer_config.json", "'x'"]),
        ("bert-cased", {"added_tokens_decoder": {"7": {"content": "[MASK]"}}}, ["[MASK]", "two ids"]),
        ("bert-cased", {"tokenizer_class": "BertJapaneseTokenizer"}, ["vocab.txt", "BertJapaneseTokenizer"]),
        ("gpt2", {"tokenizer_class": "RobertaTokenizerFast"}, ["vocab.json", "RobertaTokenizer"]),
        ("gpt2", {"tokenizer_class": "BertTokenizer"}, ["vocab.json", "BertTokenizer"]),
        ("clip", {"tokenizer_class": "GPT2Tokenizer"}, ["vocab.json", "GPT2Tokenizer"]),
        ("clip", [], ["tokenizer_config.json", "dict"]),
    ],
)
def test_a_configuration_that_cannot_be_heeded_is_refused(
    tmp_path: Path, name: str, config: Any, words: list[str]
) -> None:
    shutil.copytree(GOLDEN / name, tmp_path / name)
    (tmp_path / name / "tokenizer.json").unlink()
    (tmp_path / name / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_refused(tmp_path / name, *words)


def test_a_bare_vocabulary_is_of_lower_cased_text(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "bert-cased" / "vocab.txt", tmp_path)
    bare = Tokenizer.load(tmp_path)
    assert bare.encode("CAT É") == bare.encode("cat e")
    assert bare.same_as(Tokenizer.load(GOLDEN / "bert-uncased"))
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert Tokenizer.load(tmp_path).same_as(Tokenizer.load(GOLDEN / "bert-cased"))
    (tmp_path / "vocab.txt").write_text("[UNK]\ncat\n")
    assert_refused(tmp_path, "vocab.txt", "3 tokens are missing", "'[PAD]'")


def test_a_token_that_vocab_txt_cannot_hold_is_in_tokenizer_json(tmp_path: Path) -> None:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    vocabulary = {token: number for number, token in enumerate([*special, "a\nb", "cat"])}
    tokenizer = Tokenizer(Specification("wordpiece", vocabulary, special_tokens=special))
    tokenizer.save(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    assert Tokenizer.load(tmp_path).same_as(tokenizer)
    assert "mask" not in tokenizer.special_ids


DAMAGED = [
    (name, file)
    for name, files in {
        "bert-uncased": ("tokenizer.json", "vocab.txt", "tokenizer_config.json"),
        "clip": ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"),
    }.items()
    for file in files
]


@pytest.mark.parametrize(("name", "file"), DAMAGED)
def test_a_damaged_file_is_refused_or_still_a_tokenizer(tmp_path: Path, name: str, file: str) -> None:
    """Never a traceback, a crash, or memory out of proportion to the file."""
    draw = random.Random(file)
    shutil.copytree(GOLDEN / name, tmp_path / name)
    if file != "tokenizer.json":
        (tmp_path / name / "tokenizer.json").unlink()
    whole = (tmp_path / name / file).read_bytes()
    outcomes = set()
    tracemalloc.start()
    for _ in range(60):
        place = draw.randrange(len(whole))
        damage = {
            "cut": whole[:place],
            "flip": whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :],
            "insert": whole[:place]
            + draw.choice([b"\n", b"\xff", b"99999999999", b"null", b" ", b"}"])
            + whole[place:],
            "repeat": whole[:place] + whole[max(0, place - 40) : place] + whole[place:],
        }
        kind = draw.choice(list(damage))
        (tmp_path / name / file).write_bytes(damage[kind])
        try:
            tokenizer = Tokenizer.load(tmp_path / name)
        except UserError as error:
            outcomes.add("refused")
            assert "\n" not in str(error)
            assert str(tmp_path / name) in str(error)
        else:
            outcomes.add("read")
            ids = tokenizer.prepare(["The cat é 日 <|endoftext|> [SEP]"], max_length=99)["token_ids"]
            assert 0 <= ids.min() <= ids.max() < tokenizer.vocabulary_size < 2000
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert "refused" in outcomes
