"""Tokenizers against `transformers`: the same files give the same ids, there and back, on strings drawn at random."""

import json
import random
import shutil
import sys
import sysconfig
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.data.samples import python_documentation
from zoo.text import Tokenizer, train_bpe, train_characters, train_wordpiece

pytestmark = pytest.mark.peers

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "text"
CASES = json.loads((GOLDEN / "cases.json").read_text())
NAMES = ["bert-uncased", "bert-cased", "bert-accents", "bert-cased-stripped", "gpt2", "clip"]
MODEL_TYPES = {"wordpiece": "bert", "bpe": "gpt2", "clip": "clip", "char": "gpt2"}


def read_text() -> str:
    """1 MB of books where they are at hand, else of Python's documentation."""
    books = sorted((ROOT.parent / "shared" / "data" / "books").rglob("*.txt"))[:8]
    if books:
        return "".join(path.read_text(encoding="utf-8") for path in books)[:1_000_000]
    return "\n".join(text for _, text in python_documentation(Path(sysconfig.get_path("stdlib"))))[:1_000_000]


def draw_strings(seed: int, count: int) -> Iterator[str]:
    """Strings of code points from everywhere, and of what is hard for tokenizers, in random order."""
    draw = random.Random(seed)
    assigned = [chr(n) for n in range(sys.maxunicode + 1) if unicodedata.category(chr(n)) not in ("Cn", "Cs")]
    spans = [assigned[start : start + 300] for start in range(0, len(assigned), 300)]
    hard = [piece for text in CASES["texts"] for piece in (*text.split(" "), *text[:40])] + [" ", "  ", "\n"] * 20
    for _ in range(count):
        near = draw.choice(spans)  # of one script, so that what combines comes together
        pools = draw.choices([assigned, near, near, hard, hard], k=draw.randrange(1, 30))
        yield "".join(draw.choice(pool) for pool in pools)


def reference(directory: Path, model_type: str) -> Any:
    import transformers

    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    return transformers.AutoTokenizer.from_pretrained(directory)


def copied(name: str, directory: Path, without: str = "") -> Path:
    shutil.copytree(GOLDEN / name, directory)
    if without:
        (directory / without).unlink()
    return directory


def assert_same(ours: Tokenizer, theirs: Any, texts: list[str]) -> None:
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    for text, ids, wanted in zip(texts, ours.encode_batch(texts), expected, strict=True):
        assert ids == wanted, ascii(text)


def assert_same_special_tokens(ours: Tokenizer, theirs: Any) -> None:
    attributes = {"start": "bos_token_id", "end": "eos_token_id"}
    for role, number in ours.special_ids.items():
        assert getattr(theirs, attributes.get(role, f"{role}_token_id")) == number, role


@pytest.mark.parametrize("without", ["", "tokenizer.json"], ids=["new-files", "old-files"])
@pytest.mark.parametrize("name", NAMES)
def test_random_strings(name: str, without: str, tmp_path: Path) -> None:
    directory = copied(name, tmp_path / name, without)
    ours = Tokenizer.load(directory)
    theirs = reference(directory, MODEL_TYPES[ours.kind])
    texts = [*CASES["texts"], *draw_strings(seed=3, count=3000)]
    assert_same(ours, theirs, texts)
    assert_same_special_tokens(ours, theirs)
    assert ours.max_length == theirs.model_max_length


@pytest.mark.parametrize("name", ["bert-uncased", "bert-cased", "gpt2", "clip"])
def test_a_megabyte_of_text(name: str, tmp_path: Path) -> None:
    directory = copied(name, tmp_path / name)
    ours = Tokenizer.load(directory)
    text = read_text()
    assert len(text) == 1_000_000
    assert (
        ours.encode(text) == reference(directory, MODEL_TYPES[ours.kind])(text, add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("name", ["bert-uncased", "bert-cased", "gpt2", "clip"])
def test_model_inputs(name: str, tmp_path: Path) -> None:
    directory = copied(name, tmp_path / name)
    ours = Tokenizer.load(directory)
    theirs = reference(directory, MODEL_TYPES[ours.kind])
    draw = random.Random(5)
    strings = ["", "a", *draw_strings(seed=7, count=200)]
    special = theirs.num_special_tokens_to_add(pair=True)
    compared = 0
    for _ in range(300):
        texts, pairs = draw.choices(strings, k=3), draw.choices(strings, k=3)
        with_pairs, with_special = draw.random() < 0.7, draw.random() < 0.8
        settings = {
            "truncation": draw.choice(["longest_first", "longest_first", "only_first", "only_second"]),
            "padding": draw.choice(["longest", "max_length"]),
            "max_length": max(special, 1) + draw.choice([0, 1, 2, 3, 5, 8, 13, 40, 200]),
        }
        if settings["truncation"] == "only_second" and not with_pairs:
            continue
        if settings["max_length"] <= special and settings["truncation"] != "longest_first":
            continue  # with room for special tokens alone, the library shortens both texts whatever it is told
        arguments = (texts, pairs) if with_pairs else (texts,)
        try:
            batch = theirs(*arguments, **settings, add_special_tokens=with_special, return_offsets_mapping=True)
        except Exception as error:  # the library raises nothing narrower where a text cannot be made to fit
            assert "Truncation error" in str(error)
            with pytest.raises(Exception, match="there is room for"):
                ours.prepare(*arguments, **settings, special_tokens=with_special)
            continue
        inputs = ours.prepare(*arguments, **settings, special_tokens=with_special, offsets=True)
        expected = {
            "token_ids": batch["input_ids"],
            "padding_mask": batch["attention_mask"],
            "offsets": batch["offset_mapping"],
            "sequence_ids": [[-1 if n is None else n for n in batch.sequence_ids(row)] for row in range(3)],
        }
        if ours.kind == "wordpiece":
            expected["segment_ids"] = batch["token_type_ids"]
        assert inputs.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(inputs[key], value, err_msg=f"{key} {settings} {arguments!a}")
        compared += 1
    assert compared > 150


PROSE = "\n".join(text for name, text in python_documentation(Path(sysconfig.get_path("stdlib"))) if "topics" in name)


def trained(kind: str) -> Tokenizer:
    if kind == "clip":
        return Tokenizer.load(GOLDEN / "clip")
    if kind == "bpe":
        return train_bpe([PROSE[:200_000]], 2000)
    if kind == "char":
        return train_characters([PROSE[:200_000]])
    return train_wordpiece([PROSE[:200_000]], 2000, lowercase=kind == "uncased")


@pytest.mark.parametrize("kind", ["uncased", "cased", "bpe", "char", "clip"])
def test_what_we_save_they_read(kind: str, tmp_path: Path) -> None:
    ours = trained(kind)
    ours.save(tmp_path, layout="hf", max_length=123)
    theirs = reference(tmp_path, MODEL_TYPES[ours.kind])
    assert theirs.model_max_length == 123
    assert_same_special_tokens(ours, theirs)
    texts = [*CASES["texts"], *draw_strings(seed=11, count=1000), PROSE[:100_000]]
    assert_same(ours, theirs, texts)
    for text in texts:
        ids = ours.encode(text)
        if kind != "char":  # whose decoder in the library loses a whole run of bytes where one is broken
            assert ours.decode(ids) == theirs.decode(ids), ascii(text)
    assert theirs("a b", padding="max_length", max_length=12)["input_ids"] == (
        ours.prepare(["a b"], padding="max_length", max_length=12)["token_ids"][0].tolist()
    )


@pytest.mark.parametrize("name", NAMES)
def test_tokens_that_they_added_are_cut_out_as_they_do(name: str, tmp_path: Path) -> None:
    """Special or not, from the vocabulary or not, and as transformers saves them."""
    import tokenizers

    theirs = reference(copied(name, tmp_path / "before"), MODEL_TYPES[Tokenizer.load(GOLDEN / name).kind])
    theirs.add_tokens(["covid19", "QuickFox", tokenizers.AddedToken("Zz", normalized=False)])
    theirs.add_tokens([tokenizers.AddedToken("zebra", normalized=False)])  # which is no word of the model's
    theirs.add_tokens(["<Entity>", "fox"], special_tokens=True)
    theirs.save_pretrained(tmp_path / "after")
    ours = Tokenizer.load(tmp_path / "after")
    added = [
        "covid19",
        "COVID19",
        "Covid",
        "QuickFox",
        "quickfox",
        "zz",
        "Zz",
        "ZZ",
        "<Entity>",
        "<entity>",
        "fox",
        "FOX",
        "zebra",
        "ZEBRA",
    ]
    texts = [
        f"{before}{token}{after}" for token in added for before in ("", " ", "a") for after in ("", " b", "s", "é")
    ]
    assert_same(ours, theirs, [*texts, *CASES["texts"]])
    ours.save(tmp_path / "again", layout="hf")
    assert_same(Tokenizer.load(tmp_path / "again"), theirs, texts)
    assert_same(ours, reference(tmp_path / "again", MODEL_TYPES[ours.kind]), texts)


def edit(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(content | values), encoding="utf-8")


def as_2022(name: str, directory: Path) -> Path:
    """The files of CLIP as Stable Diffusion has them: special tokens that are looked for in lower-cased text."""
    copied(name, directory, without="tokenizer.json")
    start, end = (
        {
            "__type": "AddedToken",
            "content": token,
            "lstrip": False,
            "normalized": True,
            "rstrip": False,
            "single_word": False,
        }
        for token in ("<|startoftext|>", "<|endoftext|>")
    )
    edit(directory / "tokenizer_config.json", bos_token=start, eos_token=end, unk_token=end, do_lower_case=True)
    return directory


def test_clip_files_of_2022(tmp_path: Path) -> None:
    directory = as_2022("clip", tmp_path / "clip")
    texts = [*CASES["texts"], *draw_strings(seed=13, count=500)]
    ours = Tokenizer.load(directory)
    assert_same(ours, reference(directory, "clip"), texts)
    assert ours.encode("<|STARTOFTEXT|>") == [ours.special_ids["start"]]
    edit(directory / "tokenizer_config.json", pad_token="!")  # as Stable Diffusion 2
    ours, theirs = Tokenizer.load(directory), reference(directory, "clip")
    assert ours.special_ids["pad"] == theirs.pad_token_id == 0
    assert_same(ours, theirs, texts)


@pytest.mark.parametrize(
    "switches",
    [{"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}, {"strip_accents": None}],
    ids=str,
)
@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_switches_that_contradict_tokenizer_json(
    switches: dict[str, bool | None], tokenizer_class: str, tmp_path: Path
) -> None:
    """BERT's class goes by tokenizer_config.json, the generic one by tokenizer.json."""
    directory = copied("bert-uncased", tmp_path / "bert")
    edit(directory / "tokenizer_config.json", tokenizer_class=tokenizer_class, **switches)
    assert_same(Tokenizer.load(directory), reference(directory, "bert"), CASES["texts"])


def test_older_side_files(tmp_path: Path) -> None:
    """Added tokens and names of special tokens in files of their own, as until 2023."""
    directory = copied("bert-uncased", tmp_path / "bert", without="tokenizer.json")
    size = Tokenizer.load(directory).vocabulary_size
    edit(directory / "added_tokens.json", **{"[E1]": size, "covid19": size + 1})
    edit(
        directory / "special_tokens_map.json", additional_special_tokens=["[E1]"], unk_token="[UNK]", pad_token="[PAD]"
    )
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    texts = [*CASES["texts"], "[E1] a [e1] covid19 COVID19 [E1]b"]
    ours, theirs = Tokenizer.load(directory), reference(directory, "bert")
    assert_same(ours, theirs, texts)
    assert ours.vocabulary_size == len(theirs) == size + 2


def test_a_vocabulary_with_a_token_twice(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\ncat\n[CLS]\n[SEP]\n[MASK]\ncat\ndog \n\na\n", encoding="utf-8")
    ours, theirs = Tokenizer.load(tmp_path), reference(tmp_path, "bert")
    assert_same(ours, theirs, ["a cat and a dog"])
    assert ours.encode("cat") == [6]
    ours.save(tmp_path / "saved", layout="hf")
    assert_same(ours, reference(tmp_path / "saved", "bert"), ["a cat and a dog"])
    assert Tokenizer.load(tmp_path / "saved").same_as(ours)
