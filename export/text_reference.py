"""What a SavedModel that takes strings is held to: the same functions over the tokenizer that is the reference."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from export.reference import PREFIX, Case, Purpose, Tensors, answer
from export.signatures import Signature
from export.text_model import text_signatures
from zoo.huggingface import reading_length
from zoo.model import ZooModel

ROWS, LONGEST = 4, 200  # texts, and their characters
SETTINGS = {  # of generation: greedy
    "max_new_tokens": np.array(8, "int32"),
    "temperature": np.array(0.0, "float32"),
    "top_k": np.array(0, "int32"),
    "top_p": np.array(1.0, "float32"),
    "seed": np.array(0, "int64"),
}


class ReferenceTokenizer:
    """The model's tokenizer outside of a graph, as `zoo.text.graph.GraphTokenizer` is called."""

    def __init__(self, model: ZooModel) -> None:
        self.tokenizer = model.tokenizer
        self.max_length = reading_length(model.tokenizer, model.config)

    def __call__(self, texts: Any, pairs: Any = None, offsets: bool = False) -> dict[str, Any]:
        """Inputs of the model, and where asked for the offsets, as tensors."""
        firsts, seconds = _words(texts), None if pairs is None else _words(pairs)
        prepared = self.tokenizer.prepare(firsts, seconds, max_length=self.max_length, offsets=offsets)
        return {name: tf.constant(value) for name, value in prepared.items() if name != "sequence_ids"}

    def encode(self, texts: Any) -> Any:
        """Ids without special tokens, ragged (batch, tokens)."""
        return tf.ragged.constant(self.tokenizer.encode_batch(_words(texts)), dtype=tf.int32, ragged_rank=1)


def make_text_cases(model: ZooModel, texts: Sequence[str], pictures: Sequence[bytes]) -> Iterator[Case]:
    """Texts, with what the model makes of them through its own tokenizer.

    Args:
        model: with a tokenizer that can be part of a graph.
        texts: real text; of long ones the lines.
        pictures: the content of image files, for a model that also sees.
    """
    rows = _choose(texts)
    # A question, and what it may be answered from.
    given: Tensors = {
        "text": _strings(rows),
        "pair": _strings(rows[::-1]),
        "question": _strings([row[:30].strip() for row in rows]),
        "context": _strings(rows[::-1]),
        "image_bytes": np.array(list(pictures), "S"),
        **SETTINGS,
    }
    mask = model.tokenizer.special_ids.get("mask")
    if model.task == "masked_lm":
        spelling = model.tokenizer.specification.role_tokens["mask"]
        # Near the front, since a long text is cut at its end.
        given["text"] = _strings([" ".join([*row.split()[:1], spelling, *row.split()[1:]]) for row in rows])
        assert mask is not None
    for function in text_signatures(model, ReferenceTokenizer(model)):  # type: ignore[arg-type]
        inputs = {spec.name: given[spec.name] for spec in function.inputs}
        if any(not value.size for value in inputs.values()):
            continue
        named = Signature(PREFIX + function.name, function.inputs, function.outputs, function.compute)
        alone = {name: value if value.ndim == 0 else value[:1] for name, value in inputs.items()}
        for suffix, purpose, some in (("latency", "latency", alone), ("batch", "shapes", inputs)):
            kind: Purpose = purpose  # type: ignore[assignment]
            yield answer(named, f"{named.name}-{suffix}", kind, some)


def _choose(texts: Sequence[str]) -> list[str]:
    """A few lines, of plain characters where there are such: not what `zoo.text.graph.DIFFERENCES` lists."""
    lines = [" ".join(line.split())[:LONGEST].strip() for text in texts for line in text.splitlines()]
    plain = [line for line in lines if line.isascii() and len(line) > 20] or [line for line in lines if line]
    lines = plain or ["The quick brown fox jumps over the lazy dog."]
    return [lines[place * len(lines) // ROWS] for place in range(ROWS)]


def _strings(texts: Sequence[str]) -> np.ndarray:
    return np.array([text.encode() for text in texts], "S")


def _words(texts: Any) -> list[str]:
    return [text.decode() for text in texts.numpy().tolist()]
