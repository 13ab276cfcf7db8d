"""Tokenizers inside a graph (TensorFlow only): strings in, a model's inputs out, for tf.data and SavedModels.

The work is done by TensorFlow Text's fast tokenizer for BERT and by KerasHub's byte-pair tokenizers, which are imported
when one is made. `DIFFERENCES` lists where they give other ids than `zoo.text.Tokenizer`, which is the reference.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from zoo.errors import UserError
from zoo.text.graph_splitters import BytePair, ClipBytePair, WordPiece, valid
from zoo.text.inputs import Padding, Truncation, check_request, find_template
from zoo.text.specification import Kind
from zoo.text.tokenizer import Tokenizer

# What differs from the reference, by kind: a text that shows it, and what happens to it.
DIFFERENCES: Mapping[Kind, Mapping[str, str]] = {
    "wordpiece": {
        "x" * 101: "a word of more than 100 characters, up to 400 bytes, is not unknown",
        "a\u2e43": "punctuation, marks and controls newer than Unicode 8 are heeded: the reference knows none",
        "a\U0002b820": "Chinese characters from U+2B820 to U+2B91F are split: the reference leaves them out",
    },
    "bpe": {
        "a\0b": "NUL is left out",
        "the" * 200: "after 500 characters without white space, or of nothing else, a word ends",
        "a    ": "of several spaces or tabs at the end, the last is split off",
        "\n \x0b": "white space other than spaces, tabs and line breaks is a symbol",
        "a \u096c b": "the Devanagari digit six, alone, is left out: KerasHub uses it as a mark",
        "\u0134A": "this is the first special token, for the same reason",
    },
    "clip": {
        "a\0b": "NUL is left out",
        "the" * 200: "after 500 characters without white space a word ends",
        "! 's": "a contraction that stands alone after punctuation is split",
        "<|EndOfText|>": "special tokens are looked for in the lower-cased text",
        "\ua7c0": "letters newer than TensorFlow's or the reference's Unicode stay apart, or keep their case",
        "1\u096c": "the Devanagari digit six is left out: KerasHub uses it as a mark",
    },
}


class GraphTokenizer(tf.Module):
    """Makes a model's inputs from a tensor of strings, as `Tokenizer.prepare` does from Python's.

    It can be called in `tf.data.Dataset.map`, and be part of a module that is saved; who loads that needs the operators
    of TensorFlow Text, and no Python of ours. The byte-pair tokenizers keep every word that they meet in memory.

    Args:
        tokenizer: of the kind "wordpiece", "bpe" or "clip".
        max_length: the most tokens of a row, special tokens included.
        truncation: what to shorten where a row would be longer; as for `prepare`.
        padding: "longest", or "max_length" for a width that does not depend on the texts.

    Raises:
        UserError: the package for this kind is not installed, a setting is not known, or the tokenizer has something
            that cannot be done in a graph.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        truncation: Truncation = "longest_first",
        padding: Padding = "longest",
    ) -> None:
        super().__init__(name="graph_tokenizer")
        if tokenizer.kind == "char":
            raise UserError("a char tokenizer has no counterpart in a graph: encode the texts before")
        splitters: dict[str, Any] = {"wordpiece": WordPiece, "bpe": BytePair, "clip": ClipBytePair}
        self._template = find_template(tokenizer.specification)
        check_request(max_length, truncation, padding, self._template.count(pair=False), pairs=True)
        self._padding = padding
        self._splitter = splitters[tokenizer.kind](tokenizer.specification)
        self._max_length = max_length
        self._truncation = truncation
        self._pad_id = tokenizer.special_ids["pad"]
        self._has_segments = tokenizer.kind == "wordpiece"
        # Always traced: called eagerly, KerasHub 0.32 splits words by the pattern of another model.
        strings = tf.TensorSpec([None], tf.string)
        encode = tf.function(lambda texts: self._splitter(valid(texts)), [strings])
        prepare = {
            (pair, offsets): tf.function(functools.partial(self._prepare, offsets=offsets), [strings] * (1 + pair))
            for pair in (False, True)
            for offsets in (False, True)
        }
        # Out of sight: a module that is saved has all its functions traced, which takes seconds for each.
        self._traced: Callable[..., Any] = lambda *which: prepare[which] if which else encode

    def __call__(self, texts: Any, pairs: Any = None, offsets: bool = False) -> dict[str, Any]:
        """Encode strings (batch,), each with its pair if there are `pairs` (batch,).

        Args:
            texts, pairs: UTF-8; bytes that are not become U+FFFD, as in Python's `decode(errors="replace")`.
            offsets: add the last of what is returned; for "wordpiece".

        Returns:
            int32, "token_ids" and "padding_mask" (batch, tokens); for "wordpiece" "segment_ids" (batch, tokens), and
            "offsets" (batch, tokens, 2), which are characters, as `Tokenizer.prepare` has them.

        Raises:
            UserError: `max_length` or the truncation does not suit pairs, or the lack of them; no offsets are known.
            tf.errors.InvalidArgumentError: a text cannot be made to fit by shortening what may be shortened.
        """
        pair = pairs is not None
        check_request(self._max_length, self._truncation, self._padding, self._template.count(pair), pair)
        if offsets and not isinstance(self._splitter, WordPiece):
            raise UserError("in a graph, only a wordpiece tokenizer tells which characters a token stands for")
        given = [texts, pairs] if pair else [texts]
        return self._traced(pair, offsets)(*(tf.convert_to_tensor(each, tf.string) for each in given))

    def encode(self, texts: Any) -> Any:
        """The ids of strings (batch,), with no special token added and nothing cut: ragged int32 (batch, tokens)."""
        return self._traced()(tf.convert_to_tensor(texts, tf.string))

    def _prepare(self, *given: Any, offsets: bool) -> dict[str, Any]:
        texts = valid(tf.concat(given, axis=0))  # together: KerasHub's takes seconds to build
        count = tf.size(given[0])
        tokens = self._splitter.with_spans(texts) if offsets else tf.expand_dims(self._splitter(texts), 2)
        rows = [tokens[:count], tokens[count:]][: len(given)]
        template, room = self._template, self._max_length - self._template.count(len(given) > 1)
        kept = _truncate([row.row_lengths() for row in rows], room, self._truncation)
        rows = [tf.RaggedTensor.from_tensor(row.to_tensor(), n) for row, n in zip(rows, kept, strict=True)]

        def special(ids: Sequence[int]) -> Any:
            columns = tf.pad(tf.constant([ids], tf.int32)[:, :, None], [[0, 0], [0, 0], [0, 2 if offsets else 0]])
            return tf.RaggedTensor.from_tensor(tf.tile(columns, [count, 1, 1]))

        first, second = [special(template.before), rows[0], special(template.after)], []
        if len(rows) > 1:
            first, second = [*first[:2], special(template.between)], [rows[1], first[2]]
        tokens = tf.concat([*first, *second], axis=1)  # with a column for the ids, and two for the offsets
        token_ids = tokens.with_values(tokens.values[:, 0])
        inputs = {
            "token_ids": self._padded(token_ids, self._pad_id),
            "padding_mask": self._padded(tf.ones_like(token_ids), 0),
        }
        if self._has_segments:
            segments = tf.concat([*map(tf.zeros_like, first), *map(tf.ones_like, second)], axis=1)
            inputs["segment_ids"] = self._padded(segments.with_values(segments.values[:, 0]), 0)
        if offsets:
            inputs["offsets"] = self._padded(tokens.with_values(tokens.values[:, 1:]), 0)
        return inputs

    def _padded(self, rows: Any, value: int) -> Any:
        width = self._max_length if self._padding == "max_length" else None
        return rows.to_tensor(value, shape=[None, width, *rows.shape[2:]])


def _truncate(lengths: Sequence[Any], room: int, truncation: Truncation) -> list[Any]:
    """How many tokens to keep of each text (batch,), and of each pair if there are any; see `inputs.truncate`."""
    excess = tf.maximum(tf.add_n(lengths) - room, 0)
    if truncation == "longest_first":
        if len(lengths) == 1:
            return [lengths[0] - excess]
        first, second = lengths
        short = tf.minimum(tf.minimum(first, second), room // 2)
        kept = [tf.where(first <= second, short, room - short), tf.where(first <= second, room - short, short)]
        return [tf.where(excess > 0, new, old) for new, old in zip(kept, lengths, strict=True)]
    shortened = {"only_first": 0, "only_second": 1, "none": None}[truncation]
    able = tf.zeros_like(excess) if shortened is None else lengths[shortened]
    message = f"a text is too long for the room of {room} tokens, and the truncation is {truncation!r}"
    with tf.control_dependencies([tf.debugging.assert_equal((excess == 0) | (able > excess), True, message)]):
        return [length - excess if n == shortened else tf.identity(length) for n, length in enumerate(lengths)]
