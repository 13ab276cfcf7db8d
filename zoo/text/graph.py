"""Tokenizers inside a graph (TensorFlow only): strings in, a model's inputs out, for tf.data and SavedModels.

The work is done by TensorFlow Text's fast tokenizer for BERT and by KerasHub's byte-pair tokenizers, which are imported
when one is made. `DIFFERENCES` lists where they give other ids than `zoo.text.Tokenizer`, which is the reference.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import tensorflow as tf

from zoo.errors import UserError
from zoo.text.inputs import Padding, Truncation, check_request, find_template
from zoo.text.specification import BYTE_ALPHABET, END_OF_TEXT, START_OF_TEXT, Kind, Specification
from zoo.text.tokenizer import Tokenizer

MARK = "\x1f"  # put around special tokens, to cut a text there

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
        encode = tf.function(lambda texts: self._splitter(_valid(texts)), [strings])
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
        if offsets and not isinstance(self._splitter, _WordPiece):
            raise UserError("in a graph, only a wordpiece tokenizer tells which characters a token stands for")
        given = [texts, pairs] if pair else [texts]
        return self._traced(pair, offsets)(*(tf.convert_to_tensor(each, tf.string) for each in given))

    def encode(self, texts: Any) -> Any:
        """The ids of strings (batch,), with no special token added and nothing cut: ragged int32 (batch, tokens)."""
        return self._traced()(tf.convert_to_tensor(texts, tf.string))

    def _prepare(self, *given: Any, offsets: bool) -> dict[str, Any]:
        texts, count = (
            _valid(tf.concat(given, axis=0)),
            tf.size(given[0]),
        )  # together: KerasHub's takes seconds to build
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
        # These two are its `FastBertTokenizer`, whose own offsets take memory as `_rows_of` says.
        self._clean = self._text.FastBertNormalizer(lower_case_nfd_strip_accents=False)
        self._words = self._text.FastWordpieceTokenizer(
            tokens, max_bytes_per_word=400, token_out_type=tf.int32, unknown_token=specification.role_tokens["unk"]
        )
        special = {*specification.special_tokens} - specification.normalized_tokens
        longest_first = sorted(special, key=lambda token: (-len(token), token))
        self._special_pattern = "|".join(map(re.escape, longest_first))
        self._special_ids = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(
                tf.constant(longest_first, tf.string),
                tf.constant([specification.vocabulary[token] for token in longest_first], tf.int32),
            ),
            default_value=-1,
        )

    def __call__(self, texts: Any) -> Any:
        parts, special = self._cut_out_special(texts)
        tokens = self._words.tokenize(self._normalize(tf.where(special < 0, parts.values, "")))
        return _put_back(parts, special, special, tokens)

    def with_spans(self, texts: Any) -> Any:
        """The same, and the first character of the text that a token stands for and one past its last: ragged int32
        (batch, tokens, 3), the id first."""
        parts, special = self._cut_out_special(texts)
        characters = tf.strings.unicode_split(parts.values, "UTF-8")  # (parts, characters)
        different, number = tf.unique(characters.values)
        normalized = tf.gather(self._normalize(different), number)  # one by one, nothing loses its place
        count = tf.size(special)
        strings = tf.strings.unsorted_segment_join(normalized, _rows_of(characters), count)
        tokens, starts, ends = self._words.tokenize_with_offsets(tf.where(special < 0, strings, ""))
        # All parts one after another: where each character ends, and where each part begins, in normalized bytes.
        character_ends = tf.cumsum(tf.strings.length(normalized))
        part_starts, part_ends = (
            tf.cast(each, tf.int32) for each in (characters.row_starts(), characters.row_limits())
        )
        part_bytes = tf.gather(tf.concat([[0], character_ends], axis=0), part_starts)
        text_starts = tf.gather(tf.gather(part_starts, parts.row_starts()), _rows_of(parts))  # (parts,)
        part = _rows_of(tokens)  # of each token

        def find(byte: Any) -> Any:
            """The character that holds a byte of each token's part, among the characters of all parts."""
            return tf.searchsorted(character_ends, tf.cast(byte, tf.int32) + tf.gather(part_bytes, part), side="right")

        def join(ids: Any, first: Any, end: Any, part: Any) -> Any:
            start = tf.gather(text_starts, part)
            return tf.stack([ids, first - start, end - start], axis=1)

        spans = join(tokens.values, find(starts.values), find(ends.values - 1) + 1, part)
        return _put_back(
            parts, special, join(special, part_starts, part_ends, tf.range(count)), tokens.with_values(spans)
        )

    def _cut_out_special(self, texts: Any) -> tuple[Any, Any]:
        """Texts (batch,) cut into parts, ragged (batch, parts), at special tokens, which are parts themselves; and the
        ids of those, int32 (all parts,), -1 for text."""
        texts = tf.strings.regex_replace(texts, MARK, "\x1e")  # one control character for another: both are left out
        texts = tf.strings.regex_replace(texts, self._special_pattern, rf"{MARK}\0{MARK}")
        parts = tf.strings.split(texts, MARK)
        return parts, self._special_ids.lookup(parts.values)

    def _normalize(self, texts: Any) -> Any:
        # The library's own normalization is another than BERT's: it makes one character of "..." into three, and splits
        # words at control characters. `BertNormalizer` in Unicode classes:
        texts = tf.strings.regex_replace(texts, r"[\t\n\r\p{Z}]", " ")
        texts = tf.strings.regex_replace(texts, r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", "")
        if self._normalization.strip_accents:
            texts = tf.strings.regex_replace(self._text.normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
        return self._clean.normalize(_lower(texts) if self._normalization.lowercase else texts)


def _rows_of(ragged: Any) -> Any:
    """The row of each value, int32. TensorFlow's `value_rowids` takes memory for as many values in every row as there
    are in the longest, which a text can make too much."""
    splits = tf.cast(ragged.row_splits, tf.int32)
    return tf.searchsorted(splits[1:], tf.range(splits[-1]), side="right")


def _put_back(parts: Any, special: Any, values: Any, tokens: Any) -> Any:
    """Texts of parts (batch, parts), some of which are special tokens with `values` (all parts, ...), and the tokens of
    each, ragged (all parts, tokens, ...), as texts of tokens, ragged (batch, tokens, ...)."""
    is_special = special >= 0
    alone = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(values, is_special), tf.cast(is_special, tf.int64))
    return parts.with_values(tf.concat([alone, tokens], axis=1)).merge_dims(1, 2)


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
        texts = tf.strings.regex_replace(_without_nul(texts), r"(\s)\n(\S)", "\\1\u096c\n\\2")
        return self._hub(_split_long_words(texts))


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
        texts = tf.strings.regex_replace(texts, r"([\p{L}\p{N}]) +('(?:s|t|re|ve|m|ll|d))", r"\1\2")
        return self._hub(_split_long_words(texts))


def _lower(texts: Any) -> Any:
    """In lower case, character by character. TensorFlow has another small sigma for the end of a word."""
    return tf.strings.lower(tf.strings.regex_replace(texts, "Σ", "σ"), encoding="utf-8")


def _valid(texts: Any) -> Any:
    """With U+FFFD for bytes that are no UTF-8."""
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def _split_long_words(texts: Any) -> Any:
    """KerasHub merges one pair of a word at a time, all words at once: one of 100,000 characters takes minutes."""
    return tf.strings.regex_replace(texts, r"(\S{500}|\s{500})", "\\1\u096c")


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
