"""Tokenizers behind one interface: text to token ids and back, by the `tokenizers` library (Rust)."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers.models import BPE

from zoo.errors import UserError
from zoo.files import write_text
from zoo.text.specification import END_OF_TEXT, Kind, Specification, read_specification

logger = logging.getLogger("zoo")


class Tokenizer:
    """Encodes any Unicode string to ids below `vocabulary_size`, from which `decode` gives it back exactly.

    The one exception is a lone surrogate, which is no character: it becomes U+FFFD, with a warning. A special token
    written out in the text becomes its id, as in Hugging Face's GPT-2 tokenizer. None is ever added.

    "bpe" is the byte-level BPE of GPT-2 (Radford et al., 2019, section 2.2).
    """

    def __init__(self, specification: Specification) -> None:
        self.specification = specification
        self._rust = _build(specification)

    @property
    def kind(self) -> Kind:
        return self.specification.kind

    @property
    def vocabulary_size(self) -> int:
        return len(self.specification.vocabulary)

    @property
    def end_of_text(self) -> int:
        """The id of `<|endoftext|>`, which separates documents."""
        return self.specification.vocabulary[END_OF_TEXT]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text gets, in hexadecimal."""
        return self.specification.fingerprint

    def same_as(self, other: "Tokenizer") -> bool:
        """Whether both give every text the same ids."""
        return self.fingerprint == other.fingerprint

    def encode(self, text: str) -> list[int]:
        """The ids of a text; see the class."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Encode each text by itself, on all cores."""
        # The fast variant leaves out character offsets, and takes half the time.
        encodings = self._rust.encode_batch_fast([without_surrogates(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens written out. Bytes that are no character become U+FFFD.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        # Not by the library: its character decoder loses a whole run of bytes where one of them is broken.
        table = self.specification.token_bytes
        parts = []
        for number in ids:
            if not 0 <= number < len(table):
                raise ValueError(f"token id {number} is not in the vocabulary of {len(table)} tokens")
            parts.append(table[number])
        return b"".join(parts).decode(errors="replace")

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` and, for BPE, GPT-2's `vocab.json` and `merges.txt` into `directory`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "tokenizer.json", self._rust.to_str(pretty=True))
        if self.kind == "bpe":  # read as GPT-2's files, a character vocabulary would mean something else
            vocabulary = dict(sorted(self.specification.vocabulary.items(), key=lambda item: item[1]))
            write_text(directory / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
            merges = "".join(f"{left} {right}\n" for left, right in self.specification.merges)
            write_text(directory / "merges.txt", f"#version: 0.2\n{merges}")

    @staticmethod
    def is_saved_in(directory: Path) -> bool:
        """Whether `load` has something to read there."""
        return any((Path(directory) / name).exists() for name in ("tokenizer.json", "vocab.json"))

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read `tokenizer.json`, or else `vocab.json` with `merges.txt`.

        Raises:
            UserError: there is no tokenizer there, or it is broken, too large, or of a kind that is not supported.
        """
        specification, path = read_specification(directory)
        try:
            return cls(specification)
        except ValueError as error:
            raise UserError(f"{path} cannot be used as a tokenizer: {error}") from None


def _build(specification: Specification) -> tokenizers.Tokenizer:
    merges = list(specification.merges)
    rust = tokenizers.Tokenizer(BPE(dict(specification.vocabulary), merges, byte_fallback=specification.kind == "char"))
    if specification.kind == "bpe":
        rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        rust.decoder = decoders.ByteLevel()
    else:
        rust.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    rust.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in specification.special_tokens]
    )
    return rust


def without_surrogates(text: str) -> str:
    """The text with U+FFFD, and a warning, for each surrogate that is not half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # By way of UTF-16, in which a high and a low one in a row are simply a character.
        repaired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        logger.warning("the text holds lone surrogates, which are no characters: replaced by U+FFFD")
        return repaired
    return text
