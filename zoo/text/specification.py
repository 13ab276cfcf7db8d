"""What defines a tokenizer (tokens, merges, special tokens), read from the standard files as untrusted input."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from zoo.errors import UserError

Kind = Literal["bpe", "char"]
Merges = tuple[tuple[str, str], ...]

END_OF_TEXT = "<|endoftext|>"
MAX_FILE_BYTES = 64 * 2**20  # the largest published tokenizer.json is half of this

# GPT-2 writes each byte as one printable character: itself where it has a glyph, else the next one from U+0100 on.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in sorted(_PRINTABLE)} | {chr(0x100 + n): byte for n, byte in enumerate(_OTHERS)}
BYTE_ALPHABET = tuple(BYTE_OF)
# The character tokenizer writes the bytes of a character it has no token for as these.
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True)
class Specification:
    """A tokenizer as data. Two with the same content encode every text to the same ids.

    Attributes:
        kind: "bpe", GPT-2's byte-level BPE, or "char", one token a character with a fall-back to bytes.
        vocabulary: every token and its id, special tokens included; the ids are 0 .. n - 1.
        merges: pairs of tokens, the first to be merged first; none for "char".
        special_tokens: tokens that are cut out of a text before anything else, `<|endoftext|>` among them.

    Raises:
        ValueError: the parts contradict each other, or some text could not be encoded with them.
    """

    kind: Kind
    vocabulary: Mapping[str, int]
    merges: Merges = ()
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)

    def __post_init__(self) -> None:
        if sorted(self.vocabulary.values()) != list(range(len(self.vocabulary))):
            raise ValueError(f"the ids of its {len(self.vocabulary)} tokens are not 0 to {len(self.vocabulary) - 1}")
        required = BYTE_ALPHABET if self.kind == "bpe" else BYTE_TOKENS
        missing = [token for token in (*required, END_OF_TEXT) if token not in self.vocabulary]
        if missing:
            raise ValueError(f"{len(missing)} tokens are missing that every text needs, {missing[0]!r} first")
        for token in self.special_tokens:
            if token not in self.vocabulary:
                raise ValueError(f"the special token {token!r} is not in the vocabulary")
            # A text is encoded in pieces that are cut at white space: see `zoo.text.stream`.
            if not token or any(map(str.isspace, token)):
                raise ValueError(f"the special token {token!r} is empty or contains white space: not supported")
        if self.kind == "char":
            known = {*BYTE_TOKENS, *self.special_tokens}
            long = next((token for token in self.vocabulary if len(token) != 1 and token not in known), None)
            if long is not None or self.merges:
                raise ValueError(f"a character tokenizer has no merges and no longer tokens such as {long!r}")
        for left, right in self.merges:
            for token in (left, right, left + right):
                if token not in self.vocabulary:
                    raise ValueError(f"the merge of {left!r} and {right!r} needs {token!r}, which is not a token")

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """By id, the UTF-8 bytes that each token stands for."""
        table = [b""] * len(self.vocabulary)
        special = set(self.special_tokens)
        for token, number in self.vocabulary.items():
            if self.kind == "bpe" and token not in special and BYTE_OF.keys() >= set(token):
                table[number] = bytes(BYTE_OF[character] for character in token)
            elif self.kind == "char" and token in BYTE_TOKENS:
                table[number] = bytes([BYTE_TOKENS.index(token)])
            else:
                table[number] = token.encode()
        return table

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, in hexadecimal."""
        content = [self.kind, sorted(self.vocabulary.items()), self.merges, sorted(self.special_tokens)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def read_specification(directory: Path) -> tuple[Specification, Path]:
    """Read `tokenizer.json`, or else `vocab.json` with `merges.txt` (GPT-2's files), from `directory`.

    Returns:
        the specification, and the file that it is to be blamed on.

    Raises:
        UserError: there is no tokenizer there, or its file is broken, too large, or of a kind that is not supported.
    """
    directory = Path(directory)
    path = directory / "tokenizer.json"
    if not path.exists():
        path = directory / "vocab.json"
    if not path.exists():
        raise UserError(f"{directory} holds no tokenizer: expected tokenizer.json, or vocab.json with merges.txt")
    try:
        content = json.loads(_read(path))
        if path.name == "tokenizer.json":
            return _from_tokenizer_json(content), path
        merges = _read(directory / "merges.txt")
        return Specification("bpe", _checked_vocabulary(content), _merges_from_lines(merges)), path
    except RecursionError:
        raise UserError(f"{path} is not a tokenizer: it is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError is one too
        raise UserError(f"{path} cannot be used as a tokenizer: {error}") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path} is larger than {MAX_FILE_BYTES // 2**20} MB: not a tokenizer file")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text: not a tokenizer file") from None


def _from_tokenizer_json(content: Any) -> Specification:
    """The parts of a `tokenizer.json` that matter here; a setting that would change the ids is refused.

    Truncation, padding and the template of special tokens are not read: callers do those, visibly.
    """
    content = _expect(content, dict, "the whole file")
    model = _expect(content.get("model"), dict, '"model"')
    splitter = _expect(content.get("pre_tokenizer") or {}, dict, '"pre_tokenizer"')
    if model.get("type") != "BPE" or content.get("normalizer") is not None:
        raise ValueError("only byte-level BPE and character tokenizers without a normalizer are supported")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(name):
            raise ValueError(f'"{name}": {json.dumps(model[name])} in its model is not supported')
    kind: Kind
    if not splitter and model.get("byte_fallback") is True:
        kind = "char"
    elif splitter.get("type") == "ByteLevel" and splitter.get("use_regex", True) is True:
        if splitter.get("add_prefix_space") is not False:
            raise ValueError('"add_prefix_space": true in its pre_tokenizer is not supported')
        kind = "bpe"
    else:
        raise ValueError(f"its pre_tokenizer {splitter.get('type')!r} is not supported: expected GPT-2's ByteLevel")

    vocabulary = _checked_vocabulary(model.get("vocab"))
    special = []
    for added in _expect(content.get("added_tokens") or [], list, '"added_tokens"'):
        added = _expect(added, dict, "an added token")
        token, number = _expect(added.get("content"), str, "an added token"), _expect(added.get("id"), int, "its id")
        if added.get("lstrip") or added.get("rstrip") or added.get("single_word"):
            raise ValueError(f"the added token {token!r} strips white space or matches whole words: not supported")
        if vocabulary.setdefault(token, number) != number:
            raise ValueError(f"the added token {token!r} has two ids, {number} and {vocabulary[token]}")
        special.append(token)
    return Specification(kind, vocabulary, _merges_from_json(model.get("merges")), tuple(special))


def _checked_vocabulary(content: Any) -> dict[str, int]:
    vocabulary = _expect(content, dict, "the vocabulary")
    for token, number in vocabulary.items():
        _expect(number, int, f"the id of token {token!r}")
        if not token.isascii() and any("\ud800" <= character <= "\udfff" for character in token):
            raise ValueError(f"the token {token!r} holds a lone surrogate, which is not text")
    return vocabulary


def _merges_from_json(content: Any) -> Merges:
    """Pairs, or as older files have them, strings with a space between the two."""
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in _expect(content, list, "the merges")]
    return _checked_merges(pairs)


def _merges_from_lines(content: str) -> Merges:
    lines = content.split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    return _checked_merges([line.removesuffix("\r").split(" ") for line in lines if line.strip()])


def _checked_merges(pairs: list[Any]) -> Merges:
    for pair in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(token, str) for token in pair)):
            raise ValueError(f"the merge {pair!r} is not a pair of tokens")
    return tuple((left, right) for left, right in pairs)


def _expect(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} should be of type {kind.__name__} and is {type(value).__name__}")
    return value
