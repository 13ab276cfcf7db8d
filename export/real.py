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

    @property
    def rows(self) -> int:
        return sum(len(next(iter(inputs.values()))) for inputs, _ in self.batches)

    def fitting(self, tokens: int) -> "Examples":
        """The rows of at most so many tokens, and no padding beyond."""
        parts = []
        for inputs, right in self.batches:
            mask = inputs.get("padding_mask")
            if mask is not None and mask.shape[1] > tokens:
                fits = mask[:, tokens:].sum(1) == 0
                per_token = {name for name, value in inputs.items() if value.shape[:2] == mask.shape}
                per_token |= {name for name, value in right.items() if value.shape[:2] == mask.shape}
                inputs, right = (
                    {n: value[fits][:, :tokens] if n in per_token else value[fits] for n, value in each.items()}
                    for each in (inputs, right)
                )
            if len(next(iter(inputs.values()))):
                parts.append((inputs, right))
        return dataclasses.replace(self, batches=parts)

    def divide(self) -> tuple["Examples", "Examples"]:
        """A quarter of the rows of every batch, and the others: what is set by the ones is judged by the others."""
        parts: tuple[Batches, Batches] = [], []
        for inputs, right in self.batches:
            first = np.arange(len(next(iter(inputs.values())))) % 4 == 0
            for part, chosen in zip(parts, (first, ~first), strict=True):
                if chosen.any():
                    part.append(tuple({n: value[chosen] for n, value in each.items()} for each in (inputs, right)))  # type: ignore[arg-type]
        return tuple(dataclasses.replace(self, batches=part) for part in parts)  # type: ignore[return-value]


def make_examples(
    model: ZooModel, texts: Sequence[str], images: Sequence[np.ndarray] = (), tokens: int | None = None
) -> Examples:
    """Examples of texts and images that nothing is known of; of texts, the tokens themselves are what a language model
    is to find.

    Args:
        model: with its tokenizer and preprocessing, as far as it reads and sees.
        texts: real text, one long one that is cut, or several short ones; without it, or without a tokenizer, there are
            no examples of texts.
        images: uint8 (height, width, 3) of any sizes; likewise.
        tokens: the most that an example of text may have.
    """
    inputs, right, metric = _read(model, texts, min(TOKENS, tokens or TOKENS))
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


def _read(model: ZooModel, texts: Sequence[str], most: int) -> tuple[Tensors, Tensors, str]:
    """Inputs of texts of at most so many tokens, and what is right: those that were masked, or those that come next."""
    tokenizer = model.tokenizer
    specs = {spec.name: spec for spec in model.input_specs}
    if tokenizer is None or "token_ids" not in specs:
        return {}, {}, ""
    longest: Any = specs["token_ids"].shape[1]
    longest = min(most, longest.maximum or most)
    texts = [text for text in texts if text.strip()]
    # Several texts are taken as they are, but where a model goes on, or answers of one from another.
    if len(texts) > 1 and not (hasattr(model, "project") or model.task == "answer"):
        firsts, seconds = list(texts[:ROWS]), None
    else:
        ids = np.array([id for text in texts for id in tokenizer.encode(text)], "int32")
        if not len(ids):
            return {}, {}, ""
        length = min(longest, len(ids))
        windows = ids[: min(ROWS, len(ids) // length) * length].reshape(-1, length)
        # With their special tokens; of two texts, the first is a question and is short.
        ends = max(1, length // 4) if model.task == "answer" else length
        firsts = [tokenizer.decode(row[:ends].tolist()) for row in windows]
        seconds = [tokenizer.decode(row[ends:].tolist()) for row in windows] if model.task == "answer" else None
    if hasattr(model, "project"):
        inputs = {"token_ids": windows, "padding_mask": np.ones_like(windows)}
    else:
        prepared = tokenizer.prepare(firsts, seconds, max_length=longest)
        inputs = {name: value for name, value in prepared.items() if name in specs}
    token_ids = inputs["token_ids"]
    if "masked_positions" in specs:
        places = np.arange(0, token_ids.shape[1], 7, dtype="int32")
        inputs["masked_positions"] = np.tile(places, (len(token_ids), 1))
    if model.task == "masked_lm" and "mask" in tokenizer.special_ids:
        draw = np.random.default_rng(0).random(token_ids.shape)
        masked = (draw < MASK_RATE) & (inputs["padding_mask"] == 1)
        masked &= ~np.isin(token_ids, list(tokenizer.special_ids.values()))
        inputs["token_ids"] = np.where(masked, tokenizer.special_ids["mask"], token_ids).astype("int32")
        return inputs, {"logits": np.where(masked, token_ids, UNKNOWN).astype("int32")}, "perplexity"
    if hasattr(model, "project"):
        following = np.pad(token_ids[:, 1:], [(0, 0), (0, 1)], constant_values=UNKNOWN)
        return inputs, {"logits": following}, "perplexity"
    return inputs, {}, ""
