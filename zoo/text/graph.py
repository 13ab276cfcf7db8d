"""Tokenizers inside a graph (TensorFlow only): strings in, a model's inputs out, for tf.data and SavedModels.

The work is done by TensorFlow Text's `FastBertTokenizer` and by KerasHub's byte-pair tokenizers, which are imported
when one is made. `DIFFERENCES` lists where they give other ids than `zoo.text.Tokenizer`, which is the reference.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from zoo.errors import UserError
from zoo.text.inputs import Padding, Truncation, check_request, find_template
from zoo.text.specification import BYTE_ALPHABET, END_OF_TEXT, START_OF_TEXT, Kind, Specification
from zoo.text.tokenizer import Tokenizer

# What differs from the reference, by kind: a text that shows it, and what happens to it.
DIFFERENCES: Mapping[Kind, Mapping[str, str]] = {
    "wordpiece": {
        "a [SEP] b": "special tokens written out are text",
        "x" * 101: "a word of more than 100 characters, up to 400 bytes, is not unknown",
        "a\u2e43": "punctuation, marks and controls newer than Unicode 8 are heeded: the reference knows none",
        "a\U0002b820": "Chinese characters from U+2B820 to U+2B91F are split: the reference leaves them out",
    },
    "bpe": {
        "a\0b": "NUL is left out",
        "a    ": "of several spaces or tabs at the end, the last is split off",
        "\n \x0b": "white space other than spaces, tabs and line breaks is a symbol",
        "a \u096c b": "the Devanagari digit six, alone, is left out: KerasHub uses it as a mark",
        "\u0134A": "this is the first special token, for the same reason",
    },
    "clip": {
        "a\0b": "NUL is left out",
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
        splitters: dict[str, Any] = {"wordpiece": _WordPiece, "bpe": _BytePair, "clip": _ClipBytePair}
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
        self._single = tf.function(lambda texts: self._prepare(texts, None), [strings])
        self._paired = tf.function(self._prepare, [strings, strings])

    def __call__(self, texts: Any, pairs: Any = None) -> dict[str, Any]:
        """Encode strings (batch,), each with its pair if there are `pairs` (batch,).

        Returns:
            int32 (batch, tokens) each: "token_ids", "padding_mask" and, for "wordpiece", "segment_ids".

        Raises:
            UserError: `max_length` or the truncation does not suit pairs, or the lack of them.
            tf.errors.InvalidArgumentError: a text cannot be made to fit by shortening what may be shortened.
        """
        pair = pairs is not None
        check_request(self._max_length, self._truncation, self._padding, self._template.count(pair), pair)
        texts = tf.convert_to_tensor(texts, tf.string)
        return self._paired(texts, tf.convert_to_tensor(pairs, tf.string)) if pair else self._single(texts)

    def _prepare(self, texts: Any, pairs: Any) -> dict[str, Any]:
        if pairs is None:
            rows = [self._splitter(texts)]
        else:  # together, since KerasHub's graph takes seconds to build
            both = self._splitter(tf.concat([texts, pairs], axis=0))
            rows = [both[: tf.size(texts)], both[tf.size(texts) :]]
        template, room = self._template, self._max_length - self._template.count(pairs is not None)
        kept = _truncate([row.row_lengths() for row in rows], room, self._truncation)
        rows = [tf.RaggedTensor.from_tensor(row.to_tensor(), count) for row, count in zip(rows, kept, strict=True)]

        def special(tokens: Sequence[int]) -> Any:
            return tf.RaggedTensor.from_tensor(tf.tile(tf.constant([tokens], tf.int32), [rows[0].nrows(), 1]))

        first, second = [special(template.before), rows[0], special(template.after)], []
        if pairs is not None:
            first, second = [*first[:2], special(template.between)], [rows[1], first[2]]
        token_ids = tf.concat([*first, *second], axis=1)
        segment_ids = tf.concat([*map(tf.zeros_like, first), *map(tf.ones_like, second)], axis=1)
        inputs = {
            "token_ids": self._padded(token_ids, self._pad_id),
            "padding_mask": self._padded(tf.ones_like(token_ids), 0),
        }
        if self._has_segments:
            inputs["segment_ids"] = self._padded(segment_ids, 0)
        return inputs

    def _padded(self, rows: Any, value: int) -> Any:
        return rows.to_tensor(value, shape=[None, self._max_length if self._padding == "max_length" else None])


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


class _WordPiece(tf.Module):
    """Strings (batch,) to ragged ids (batch, tokens), as BERT does."""

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self._text = _tensorflow_text()
        self._normalization = specification.normalization
        if not (self._normalization.clean_text and self._normalization.split_chinese):
            raise UserError("in a graph, WordPiece can only clean its text and split Chinese characters")
        # The library wants a token for every id, and none with NUL: what cannot occur in a text stands in for those.
        tokens = [f"[no-token-{number}]" for number in range(specification.size)]
        for token, number in specification.vocabulary.items():
            if token not in specification.outside_tokens and "\0" not in token:
                tokens[number] = token
        # It counts bytes where the reference counts characters: the limit is 100 characters of four bytes.
        self._fast = self._text.FastBertTokenizer(
            tokens, max_bytes_per_word=400, token_out_type=tf.int32, unknown_token=specification.role_tokens["unk"]
        )

    def __call__(self, texts: Any) -> Any:
        # The library's own normalization is another than BERT's: it makes one character of "..." into three, and splits
        # words at control characters. `BertNormalizer` in Unicode classes:
        texts = tf.strings.regex_replace(texts, r"[\t\n\r\p{Z}]", " ")
        texts = tf.strings.regex_replace(texts, r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", "")
        if self._normalization.strip_accents:
            texts = tf.strings.regex_replace(self._text.normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
        return self._fast.tokenize(_lower(texts) if self._normalization.lowercase else texts)


class _BytePair(tf.Module):
    """Strings (batch,) to ragged ids (batch, tokens), as GPT-2 does."""

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        self._hub = _keras_nlp().tokenizers.BytePairTokenizer(
            dict(specification.vocabulary),
            [" ".join(pair) for pair in specification.merges],
            unsplittable_tokens=list(specification.special_tokens),
        )

    def __call__(self, texts: Any) -> Any:
        # The library splits at this mark, and drops it. It puts one in wherever GPT-2's pattern looks ahead in white
        # space, but before the last of several line breaks.
        return self._hub(tf.strings.regex_replace(_without_nul(texts), r"(\s)\n(\S)", "\\1\u096c\n\\2"))


class _ClipBytePair(tf.Module):
    """Strings (batch,) to ragged ids (batch, tokens), as CLIP does."""

    def __init__(self, specification: Specification) -> None:
        super().__init__()
        needed = [*BYTE_ALPHABET, *(f"{character}</w>" for character in BYTE_ALPHABET)]
        if {*specification.special_tokens} != {START_OF_TEXT, END_OF_TEXT} or not {*needed} <= {
            *specification.vocabulary
        }:
            raise UserError("in a graph, CLIP's tokenizer needs every byte as a token, and no further special tokens")
        self._text = _tensorflow_text()
        self._hub = _keras_nlp().tokenizers.CLIPTokenizer(
            dict(specification.vocabulary), [" ".join(pair) for pair in specification.merges]
        )

    def __call__(self, texts: Any) -> Any:
        # The library normalizes nothing here, and splits words as GPT-2 does: digits together, and "'s" only after a
        # word. White space means nothing to CLIP, and is put in and left out so that the same words come out.
        texts = self._text.normalize_utf8(_without_nul(texts), "NFC")
        texts = _lower(tf.strings.regex_replace(texts, r"[\s\x{0B}\x{85}\p{Z}]+", " "))
        texts = tf.strings.regex_replace(texts, r"\p{N}", r" \0 ")
        return self._hub(tf.strings.regex_replace(texts, r"([\p{L}\p{N}]) +('(?:s|t|re|ve|m|ll|d))", r"\1\2"))


def _lower(texts: Any) -> Any:
    """In lower case, character by character. TensorFlow has another small sigma for the end of a word."""
    return tf.strings.lower(tf.strings.regex_replace(texts, "Σ", "σ"), encoding="utf-8")


def _without_nul(texts: Any) -> Any:
    """KerasHub ends a text there."""
    return tf.strings.regex_replace(texts, r"\x00", "")


def _tensorflow_text() -> ModuleType:
    try:
        import tensorflow_text
    except ImportError:
        raise UserError("a tokenizer in a graph needs tensorflow-text: pip install 'tf-model-zoo[text]'") from None
    return tensorflow_text


def _keras_nlp() -> ModuleType:
    _tensorflow_text()  # without it, it fails later and with another message
    try:
        import keras_nlp
    except ImportError:
        raise UserError("this tokenizer in a graph needs keras-nlp: pip install 'tf-model-zoo[text]'") from None
    return keras_nlp
