"""What defines a tokenizer: its kind, tokens, merges, special tokens and normalization, as plain checked data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Literal

Kind = Literal["bpe", "char", "wordpiece", "clip"]
Role = Literal["pad", "unk", "cls", "sep", "mask", "start", "end"]
Merges = tuple[tuple[str, str], ...]

START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
# The special tokens that each kind uses, and what they are usually called. Every role but "mask" must be filled.
ROLES: Mapping[Kind, Mapping[Role, str]] = {
    "bpe": {"pad": END_OF_TEXT, "start": END_OF_TEXT, "end": END_OF_TEXT},
    "char": {"pad": END_OF_TEXT, "start": END_OF_TEXT, "end": END_OF_TEXT},
    "wordpiece": {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    "clip": {"pad": END_OF_TEXT, "unk": END_OF_TEXT, "start": START_OF_TEXT, "end": END_OF_TEXT},
}

# GPT-2 writes each byte as one printable character: itself where it has a glyph, else the next one from U+0100 on.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_OF = {chr(byte): byte for byte in sorted(_PRINTABLE)} | {chr(0x100 + n): byte for n, byte in enumerate(_OTHERS)}
BYTE_ALPHABET = tuple(BYTE_OF)
# The character tokenizer writes the bytes of a character it has no token for as these.
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True)
class Normalization:
    """What BERT does to a text before it splits it (Devlin et al., 2018; `BasicTokenizer` of the published code).

    Attributes:
        lowercase: lower-case every character.
        strip_accents: decompose characters and drop their combining marks.
        split_chinese: make each Chinese character a word.
        clean_text: drop control characters, NUL and U+FFFD, and make every white space a space.
    """

    lowercase: bool = True
    strip_accents: bool = True
    split_chinese: bool = True
    clean_text: bool = True


@dataclass(frozen=True)
class Specification:
    """A tokenizer as data. Two with the same content encode every text to the same ids.

    Attributes:
        kind: "bpe", GPT-2's byte-level BPE; "char", one token a character with a fall-back to bytes; "wordpiece",
            BERT's; or "clip", CLIP's byte-level BPE of lower-cased words.
        vocabulary: every token and its id, special tokens included. The ids are 0 .. n - 1; those of "wordpiece" may
            have holes, since vocabulary files in use list some tokens twice.
        merges: pairs of tokens, the first to be merged first; for "bpe" and "clip".
        special_tokens: tokens that are cut out of a text before anything else, those of `role_tokens` among them.
        roles: what special tokens are for, where this differs from the kind's `ROLES`.
        normalized_tokens: special tokens that are looked for in the normalized text instead of the text itself.
        outside_tokens: special tokens of "wordpiece" that a text holds only where they are cut out: as words, they
            are unknown to the model.
        normalization: for "wordpiece".
        max_length: the most tokens that the model reads, where the files say so.

    Raises:
        ValueError: the parts contradict each other, or some text could not be encoded with them.
    """

    kind: Kind
    vocabulary: Mapping[str, int]
    merges: Merges = ()
    special_tokens: tuple[str, ...] = (END_OF_TEXT,)
    roles: Mapping[Role, str] = field(default_factory=dict)
    normalized_tokens: frozenset[str] = frozenset()
    outside_tokens: frozenset[str] = frozenset()
    normalization: Normalization = Normalization()
    max_length: int | None = None

    def __post_init__(self) -> None:
        self._check_ids()
        self._check_tokens()
        if self.merges and self.kind not in ("bpe", "clip"):
            raise ValueError(f"a {self.kind} tokenizer has no merges")
        for left, right in self.merges:
            for token in (left, right, left + right):
                if token not in self.vocabulary:
                    raise ValueError(f"the merge of {left!r} and {right!r} needs {token!r}, which is not a token")

    def _check_ids(self) -> None:
        ids, count = sorted(self.vocabulary.values()), len(self.vocabulary)
        if self.kind != "wordpiece" and ids != list(range(count)):
            raise ValueError(f"the ids of its {count} tokens are not 0 to {count - 1}")
        if self.kind == "wordpiece":
            if len(set(ids)) < count or ids[:1] < [0]:
                raise ValueError(f"the ids of its {count} tokens are not different numbers from 0 on")
            if ids[-1] >= 2 * count:  # a table of embeddings is made for them
                raise ValueError(f"its {count} tokens have ids up to {ids[-1]}: most of these stand for no token")

    def _check_tokens(self) -> None:
        alphabet = {"bpe": BYTE_ALPHABET, "char": BYTE_TOKENS}.get(self.kind, ())
        required = dict.fromkeys((*alphabet, *self.role_tokens.values()))
        missing = [token for token in required if token not in self.vocabulary]
        if missing:
            raise ValueError(f"{len(missing)} tokens are missing that every text needs, {missing[0]!r} first")
        for token in {*self.special_tokens, *self.normalized_tokens, *self.outside_tokens}:
            if token not in self.vocabulary:
                raise ValueError(f"the special token {token!r} is not in the vocabulary")
            # A text is encoded in pieces that are cut at white space: see `zoo.text.stream`.
            if not token or any(map(str.isspace, token)):
                raise ValueError(f"the special token {token!r} is empty or contains white space: not supported")
        unnamed = [token for token in self.role_tokens.values() if token not in self.special_tokens]
        if unnamed:
            raise ValueError(f"{unnamed[0]!r} has a part to play and is not a special token")
        if self.kind == "char":
            known = {*BYTE_TOKENS, *self.special_tokens}
            long = next((token for token in self.vocabulary if len(token) != 1 and token not in known), None)
            if long is not None:
                raise ValueError(f"a character tokenizer has no longer tokens such as {long!r}")

    @cached_property
    def role_tokens(self) -> dict[Role, str]:
        """By role, the token that fills it. Without a mask token there is no such role: few tasks need one."""
        tokens = {**ROLES[self.kind], **self.roles}
        return {role: token for role, token in tokens.items() if role != "mask" or token in self.vocabulary}

    @cached_property
    def size(self) -> int:
        """One more than the highest id."""
        return max(self.vocabulary.values()) + 1

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """By id, the UTF-8 bytes that each token of "bpe" or "char" stands for."""
        table = [b""] * self.size
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
        """SHA-256 of everything that decides which ids a text gets, in hexadecimal."""
        content: list[object] = [self.kind, sorted(self.vocabulary.items()), self.merges, sorted(self.special_tokens)]
        if self.normalized_tokens or self.outside_tokens:
            content += [sorted(self.normalized_tokens), sorted(self.outside_tokens)]
        if self.kind == "wordpiece":
            content += [astuple(self.normalization)]
        if self.roles.items() - ROLES[self.kind].items():
            content += [sorted(self.role_tokens.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
