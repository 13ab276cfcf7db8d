"""Tokenizers in a TensorFlow graph agree with the reference, but for the differences that are listed, and are saved."""

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
    "wordpiece": {"[CLS] [SEP] [MASK] [UNK] [PAD]", "a[SEP]b [cls] [ MASK ] [MASK", "x" * 101, "日" * 40 + "é" * 101},
    "bpe": {"\t \r\n \x0b\x0c", "a\x00b \x00 c"},
    "clip": {"a\x00b \x00 c", "<|STARTOFTEXT|>!! a<|EndOfText|>b"},
}
NAMES = ["bert-uncased", "bert-cased", "bert-cased-stripped", "gpt2", "clip"]


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer.load(GOLDEN / request.param)


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


def test_the_ids_differ_where_it_says_so_and_nowhere_else(tokenizer: Tokenizer) -> None:
    listed = list(DIFFERENCES[tokenizer.kind])
    texts = TEXTS + listed
    rows = unpadded(GraphTokenizer(tokenizer, max_length=999)(texts))
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
    with pytest.raises(UserError, match="the special tokens alone are 2"):
        GraphTokenizer(Tokenizer.load(GOLDEN / "clip"), max_length=1)
