"""Tokenizers in a TensorFlow graph agree with the reference, but for the differences that are listed, and are saved."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from zoo.errors import UserError
from zoo.text import Tokenizer, train_characters
from zoo.text.graph import DIFFERENCES, GraphTokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "text"
CASES = json.loads((GOLDEN / "cases.json").read_text())
TEXTS = [
    *CASES["texts"],
    "ellipsis… full，width ½ ß ﬁ",
    "ΟΔΟΣ ΣΑΣ",
    "é" * 90,
    "paragraph\n\nparagraph\n \n\n\tindented\r\n\r\nend\n",
    "'steak' and 'tis, dogs 's they 're",
    "in 1984\u20282001\u0085",
]
# Which of those strings hold what `DIFFERENCES` lists.
DIFFERENT = {
    "wordpiece": {"x" * 101, "日" * 40 + "é" * 101},
    "bpe": {"\t \r\n \x0b\x0c", "a\x00b \x00 c"},
    "clip": {"a\x00b \x00 c", "<|STARTOFTEXT|>!! a<|EndOfText|>b"},
}
NAMES = ["bert-uncased", "bert-cased", "bert-cased-stripped", "gpt2", "clip"]


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.load(GOLDEN / request.param)


@pytest.fixture(scope="module")
def whole(tokenizer: Tokenizer) -> GraphTokenizer:
    """Of more tokens than any text here has, but one."""
    return GraphTokenizer(tokenizer, max_length=999)


@pytest.fixture(scope="module")
def short() -> Callable[[str], GraphTokenizer]:
    """Of twelve tokens; each made once, since tracing KerasHub's takes seconds."""
    made: dict[str, GraphTokenizer] = {}

    def make(name: str) -> GraphTokenizer:
        if name not in made:
            made[name] = GraphTokenizer(Tokenizer.load(GOLDEN / name), max_length=12, padding="max_length")
        return made[name]

    return make


def unpadded(inputs: dict[str, tf.Tensor]) -> list[list[int]]:
    return tf.RaggedTensor.from_tensor(inputs["token_ids"], tf.reduce_sum(inputs["padding_mask"], axis=1)).to_list()


def test_the_ids_differ_where_it_says_so_and_nowhere_else(tokenizer: Tokenizer, whole: GraphTokenizer) -> None:
    listed = list(DIFFERENCES[tokenizer.kind])
    texts = TEXTS + listed
    rows = unpadded(whole(texts))
    expected = [tokenizer.prepare([text], max_length=999)["token_ids"][0].tolist() for text in texts]
    different = {text for text, row, wanted in zip(texts, rows, expected, strict=True) if row != wanted}
    assert different == DIFFERENT[tokenizer.kind] | set(listed)


def assert_as_reference(graph: GraphTokenizer, tokenizer: Tokenizer, max_length: int, padding: str) -> None:
    texts, pairs = zip(*((a, b) for a, b in CASES["pairs"] if "[SEP]" not in a), strict=True)
    for arguments in ((texts,), (texts, pairs), (pairs, texts)):
        expected = tokenizer.prepare(*arguments, max_length=max_length, padding=padding)
        inputs = graph(*arguments)
        assert inputs.keys() == expected.keys()
        for key, array in expected.items():
            assert inputs[key].dtype == tf.int32
            np.testing.assert_array_equal(inputs[key], array, err_msg=key)


@pytest.mark.parametrize("name", ["bert-uncased", "bert-cased", "bert-cased-stripped"])
def test_tokens_stand_for_the_same_characters_as_in_the_reference(name: str) -> None:
    """Of every text, alone and in pairs that are cut, whatever normalization made of it."""
    tokenizer = Tokenizer.load(GOLDEN / name)
    different = DIFFERENT["wordpiece"] | {*DIFFERENCES["wordpiece"]}
    texts = [text for text in TEXTS if text not in different]
    texts += [
        "e\u0301 cafe\u0301s \u1e9e",
        "İstanbul",
        "a[MASK][MASK] b\x1f [MASK]\x1e[SEP]",
        "\ufeffa\u200db",
        "日本é 語",
        "",
    ]
    graph = GraphTokenizer(tokenizer, max_length=24)
    for arguments in ((texts,), (texts, texts[::-1])):
        expected = tokenizer.prepare(*arguments, max_length=24, offsets=True)
        inputs = graph(*arguments, offsets=True)
        assert inputs.keys() == expected.keys() - {"sequence_ids"}
        for key, value in inputs.items():
            assert value.dtype == tf.int32
            np.testing.assert_array_equal(value, expected[key], err_msg=key)
    assert graph([], offsets=True)["offsets"].shape == (0, 0, 2)


@pytest.mark.parametrize("name", ["bert-uncased", "bert-cased"])
def test_special_tokens_can_be_of_the_normalized_text(name: str) -> None:
    """All of them, or some: an uncased tokenizer then finds them in small letters too. One is part of a word."""
    loaded = Tokenizer.load(GOLDEN / name).specification
    specification = dataclasses.replace(loaded, special_tokens=(*loaded.special_tokens, "the"))
    texts = ["a [MASK] b[mask]c [SEP] [sep][Sep]", "[MASK]", "[sep", "other oTHEr", "a", ""]
    for normalized in ({"[MASK]"}, {*specification.special_tokens}):
        tokenizer = Tokenizer(dataclasses.replace(specification, normalized_tokens=frozenset(normalized)))
        expected = tokenizer.prepare(texts, max_length=32, offsets=True)
        assert (expected["token_ids"][0] == specification.vocabulary["[MASK]"]).sum() == 1 + (name == "bert-uncased")
        inputs = GraphTokenizer(tokenizer, max_length=32)(texts, offsets=True)
        for key, value in inputs.items():
            np.testing.assert_array_equal(value, expected[key], err_msg=key)


def test_bytes_that_are_no_text_are_replaced(tokenizer: Tokenizer, whole: GraphTokenizer) -> None:
    broken = [b"a \xff\xfe b", b"\xe6\x97", b"x\xf0\x9f\x98 y", b"\xed\xa0\x80"]
    expected = tokenizer.prepare([text.decode(errors="replace") for text in broken], max_length=999)
    np.testing.assert_array_equal(whole(broken)["token_ids"], expected["token_ids"])


def test_a_word_of_100000_letters_is_no_trouble(tokenizer: Tokenizer, whole: GraphTokenizer) -> None:
    letters = "".join(np.random.default_rng(0).choice([*"etaoinshrdlu"], 100_000))
    if tokenizer.kind == "wordpiece":
        assert unpadded(whole([letters])) == tokenizer.prepare([letters], max_length=999)["token_ids"].tolist()
    else:
        (row,) = unpadded(whole([letters]))
        assert len(row) == 999
        text = "".join(tokenizer.decode(row).removeprefix("<|startoftext|>").removesuffix("<|endoftext|>").split())
        assert letters.startswith(text)


def test_texts_of_very_many_characters_or_parts_take_little_memory() -> None:
    """As many as there are parts for each character of the longest would be terabytes."""
    tokenizer = Tokenizer.load(GOLDEN / "bert-uncased")
    texts = ["word" * 25_000, "[MASK]" * 16_000, "word and " * 11_000, "[SEP]" + "é" * 100_000]
    expected = tokenizer.prepare(texts, max_length=64, offsets=True)
    inputs = GraphTokenizer(tokenizer, max_length=64)(texts, offsets=True)
    np.testing.assert_array_equal(inputs["offsets"], expected["offsets"])


@pytest.mark.parametrize(
    ("max_length", "padding"), [(7, "longest"), (17, "max_length"), (18, "longest"), (64, "longest")]
)
def test_texts_and_pairs_are_truncated_and_padded_as_by_the_reference(max_length: int, padding: str) -> None:
    tokenizer = Tokenizer.load(GOLDEN / "bert-uncased")
    graph = GraphTokenizer(tokenizer, max_length=max_length, padding=padding)
    assert_as_reference(graph, tokenizer, max_length, padding)


@pytest.mark.parametrize("name", ["gpt2", "clip"])
def test_byte_pairs_are_truncated_and_padded_as_by_the_reference(
    name: str, short: Callable[[str], GraphTokenizer]
) -> None:
    assert_as_reference(short(name), Tokenizer.load(GOLDEN / name), 12, "max_length")


def test_only_one_of_two_texts_is_cut() -> None:
    tokenizer = Tokenizer.load(GOLDEN / "bert-uncased")
    texts, pairs = ["the quick brown fox jumps", "a"], ["over the lazy dog", "b"]
    for truncation in ("only_first", "only_second"):
        expected = tokenizer.prepare(texts, pairs, max_length=9, truncation=truncation)
        inputs = GraphTokenizer(tokenizer, max_length=9, truncation=truncation)(texts, pairs)
        np.testing.assert_array_equal(inputs["token_ids"], expected["token_ids"])
        with pytest.raises(tf.errors.InvalidArgumentError, match="too long for the room of 4 tokens"):
            GraphTokenizer(tokenizer, max_length=7, truncation=truncation)(texts, pairs)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too long for the room of 6 tokens"):
        GraphTokenizer(tokenizer, max_length=9, truncation="none")(texts, pairs)
    with pytest.raises(UserError, match="there are no pairs"):
        GraphTokenizer(tokenizer, max_length=9, truncation="only_second")(texts)
    with pytest.raises(UserError, match="the special tokens alone are 3"):
        GraphTokenizer(tokenizer, max_length=2)(texts, pairs)


@pytest.mark.parametrize("name", ["bert-uncased", "gpt2", "clip"])
def test_in_a_dataset(name: str, short: Callable[[str], GraphTokenizer]) -> None:
    texts = CASES["texts"][6:8] * 3
    dataset = tf.data.Dataset.from_tensor_slices(texts).batch(4, drop_remainder=True).map(short(name))
    assert dataset.element_spec["token_ids"].shape.as_list() == [None, 12]
    (batch,) = dataset
    expected = Tokenizer.load(GOLDEN / name).prepare(texts[:4], max_length=12, padding="max_length")
    np.testing.assert_array_equal(batch["token_ids"], expected["token_ids"])


@pytest.mark.parametrize("name", ["bert-uncased", "gpt2", "clip"])
def test_ids_alone_have_nothing_put_around_them(name: str, short: Callable[[str], GraphTokenizer]) -> None:
    texts = [*CASES["texts"][6:10], ""]
    assert short(name).encode(texts).to_list() == Tokenizer.load(GOLDEN / name).encode_batch(texts)


@pytest.mark.full  # a process of its own; the graphs are compared in the quick tier
def test_saved_models_serve_strings_without_our_code(tmp_path: Path, short: Callable[[str], GraphTokenizer]) -> None:
    """In a fresh process that has TensorFlow Text's operators and nothing of this project."""
    texts = CASES["texts"][6:10]
    module, signatures, expected = tf.Module(), {}, {}
    module.graphs = {name: short(name) for name in ("bert-uncased", "gpt2", "clip")}
    for name, graph in module.graphs.items():
        strings = tf.TensorSpec([None], tf.string, name="text")
        signatures[name] = tf.function(lambda text, graph=graph: graph(text)).get_concrete_function(strings)
        inputs = Tokenizer.load(GOLDEN / name).prepare(texts, max_length=12, padding="max_length")
        expected[name] = inputs["token_ids"].tolist()
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    program = (
        "import json, sys\n"
        "import tensorflow as tf, tensorflow_text\n"
        "texts = tf.constant(json.loads(sys.argv[1]))\n"
        "signatures = tf.saved_model.load('.').signatures\n"
        "ids = {name: call(text=texts)['token_ids'].numpy().tolist() for name, call in signatures.items()}\n"
        "assert not {'zoo', 'keras_hub', 'tokenizers'} & set(sys.modules)\n"
        "print(json.dumps(ids))\n"
    )
    command = [sys.executable, "-c", program, json.dumps(texts)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == expected


def test_what_cannot_be_done_in_a_graph_is_refused() -> None:
    with pytest.raises(UserError, match="a char tokenizer has no counterpart"):
        GraphTokenizer(train_characters(["a"]), max_length=8)
    with pytest.raises(UserError, match="can only clean its text"):
        GraphTokenizer(Tokenizer.load(GOLDEN / "bert-accents"), max_length=8)
    with pytest.raises(UserError, match="only a wordpiece tokenizer tells which characters"):
        GraphTokenizer(Tokenizer.load(GOLDEN / "clip"), max_length=8)(["a"], offsets=True)
    with pytest.raises(UserError, match="the special tokens alone are 2"):
        GraphTokenizer(Tokenizer.load(GOLDEN / "clip"), max_length=1)
