"""Strings split into the ids of tokens inside a graph (TensorFlow only), each as one kind of tokenizer does it.

TensorFlow Text and KerasHub do the work; what they do otherwise than the reference is put right before and after, as
far as that is possible.
"""

import re
from types import ModuleType
from typing import Any

import tensorflow as tf

from zoo.errors import UserError
from zoo.text.specification import BYTE_ALPHABET, END_OF_TEXT, START_OF_TEXT, Specification

MARK = "\x1f"  # put around special tokens, to cut a text there


class WordPiece(tf.Module):
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
        # What the reference looks for in the normalized text is looked for in the text itself, in capital letters or
        # not where the tokenizer makes them small: only accents on letters, and marks between them, hide it here.
        longest_first = sorted(specification.special_tokens, key=lambda token: (-len(token), token))
        lowercase = self._normalization.lowercase
        self._lowercased = [token for token in longest_first if lowercase and token in specification.normalized_tokens]
        self._special_pattern = "|".join(
            f"(?i:{re.escape(token)})" if token in self._lowercased else re.escape(token) for token in longest_first
        )
        self._special_ids = _table({token: specification.vocabulary[token] for token in longest_first})
        if self._lowercased:
            self._lowercased_ids = _table(
                {token.lower(): specification.vocabulary[token] for token in self._lowercased}
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
        special = self._special_ids.lookup(parts.values)
        if self._lowercased:
            special = tf.maximum(special, self._lowercased_ids.lookup(_lower(parts.values)))
        return parts, special

    def _normalize(self, texts: Any) -> Any:
        # The library's own normalization is another than BERT's: it makes one character of "..." into three, and splits
        # words at control characters. `BertNormalizer` in Unicode classes:
        texts = tf.strings.regex_replace(texts, r"[\t\n\r\p{Z}]", " ")
        texts = tf.strings.regex_replace(texts, r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", "")
        if self._normalization.strip_accents:
            texts = tf.strings.regex_replace(self._text.normalize_utf8(texts, "NFD"), r"\p{Mn}", "")
        return self._clean.normalize(_lower(texts) if self._normalization.lowercase else texts)


def _table(ids: dict[str, int]) -> Any:
    """Ids by token, -1 for what has none. TensorFlow makes none of no tokens."""
    tokens, numbers = tf.constant([*ids], tf.string), tf.constant([*ids.values()], tf.int32)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tokens, numbers), default_value=-1)


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


class BytePair(tf.Module):
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


class ClipBytePair(tf.Module):
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


def valid(texts: Any) -> Any:
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
