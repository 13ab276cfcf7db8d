"""Inputs that occur, to judge quantised artefacts by: texts and images as the model reads and sees them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.reference import Tensors
from zoo.model import ZooModel

ROWS = 64  # of texts or images
ROWS_AT_ONCE = 16
TOKENS = 64  # of a text
MASK_RATE = 0.15  # of its tokens, for a model that finds masked ones
UNKNOWN = -1

Batches = list[tuple[Tensors, Tensors]]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs of a model with what is right, as far as it is known.

    Attributes:
        batches: inputs, and the right classes of outputs, int32 and -1 where they are not known, as
            `export.reference.Case.targets` has them.
        metric: what these are for: "accuracy" or "perplexity"; "" where they are not known.
    """

    batches: Batches
    metric: str = ""

    def of(self, names: Sequence[str]) -> "Examples":
        """The same of these inputs alone, which one tower of two may take; none where one of them is missing."""
        parts = [
            ({name: inputs[name] for name in names}, right)
            for inputs, right in self.batches
            if all(name in inputs for name in names)
        ]
        return dataclasses.replace(self, batches=parts)


def make_examples(model: ZooModel, texts: Sequence[str], images: Sequence[np.ndarray] = ()) -> Examples:
    """Examples of texts and images that nothing is known of; of texts, the tokens themselves are what a language model
    is to find.

    Args:
        model: with its tokenizer and preprocessing, as far as it reads and sees.
        texts: real text, one long one that is cut, or several short ones; without it, or without a tokenizer, there are
            no examples of texts.
        images: uint8 (height, width, 3) of any sizes; likewise.
    """
    inputs, right, metric = _read(model, texts)
    if model.preprocessing is not None and len(images):
        from zoo.image import preprocess

        inputs["images"] = preprocess(list(images[:ROWS]), model.preprocessing)
    rows = min((len(value) for value in inputs.values()), default=0)
    batches = []
    for start in range(0, rows, ROWS_AT_ONCE):
        place = slice(start, min(start + ROWS_AT_ONCE, rows))
        parts = ({name: value[place] for name, value in each.items()} for each in (inputs, right))
        batches.append(tuple(parts))
    return Examples(batches, metric)  # type: ignore[arg-type]


def _read(model: ZooModel, texts: Sequence[str]) -> tuple[Tensors, Tensors, str]:
    """Inputs of texts, and what is right: the tokens that were masked, or those that come next."""
    tokenizer = model.tokenizer
    specs = {spec.name: spec for spec in model.input_specs}
    if tokenizer is None or "token_ids" not in specs:
        return {}, {}, ""
    longest: Any = specs["token_ids"].shape[1]
    length = min(TOKENS, longest.maximum or TOKENS)
    ids = np.array([id for text in texts for id in tokenizer.encode(text)], "int32")
    windows = ids[: min(ROWS, len(ids) // length) * length].reshape(-1, length)
    if not len(windows):
        return {}, {}, ""
    if tokenizer.kind in ("bpe", "char"):
        inputs = {"token_ids": windows, "padding_mask": np.ones_like(windows)}
    else:  # with their special tokens; of two texts, the first is a question and is short
        ends = length // 4 if model.task == "answer" else length
        firsts = [tokenizer.decode(row[:ends].tolist()) for row in windows]
        seconds = [tokenizer.decode(row[ends:].tolist()) for row in windows] if ends < length else None
        if len(texts) > 1 and seconds is None:
            firsts = list(texts[:ROWS])
        prepared = tokenizer.prepare(firsts, seconds, max_length=length)
        inputs = {name: value for name, value in prepared.items() if name in specs}
    token_ids = inputs["token_ids"]
    if "masked_positions" in specs:
        places = np.arange(0, token_ids.shape[1], 7, dtype="int32")
        inputs["masked_positions"] = np.tile(places, (len(token_ids), 1))
    if model.task == "masked_lm":
        draw = np.random.default_rng(0).random(token_ids.shape)
        masked = (draw < MASK_RATE) & (inputs["padding_mask"] == 1)
        masked &= ~np.isin(token_ids, list(tokenizer.special_ids.values()))
        inputs["token_ids"] = np.where(masked, tokenizer.special_ids["mask"], token_ids).astype("int32")
        return inputs, {"logits": np.where(masked, token_ids, UNKNOWN).astype("int32")}, "perplexity"
    if hasattr(model, "project"):
        following = np.pad(token_ids[:, 1:], [(0, 0), (0, 1)], constant_values=UNKNOWN)
        return inputs, {"logits": following}, "perplexity"
    return inputs, {}, ""
