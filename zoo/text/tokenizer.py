"""Tokenizers behind one interface: text to token ids and back, by the `tokenizers` library (Rust)."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from zoo.errors import UserError
from zoo.files import write_text
from zoo.text.files import MAIN_FILES, read_specification, write_tokenizer_config, write_vocabulary
from zoo.text.inputs import Encoded, Padding, Template, Truncation, find_template, make_inputs
from zoo.text.pipeline import build_pipeline
from zoo.text.specification import Kind, Role, Specification
from zoo.text.windows import make_windows

logger = logging.getLogger("zoo")


class Tokenizer:
    """Encodes any Unicode string to ids below `vocabulary_size`, exactly as Hugging Face's fast tokenizers do.

    A special token written out in the text becomes its id, as it does there. A lone surrogate is no character: it
    becomes U+FFFD, with a warning. There are four kinds:

    - "bpe", the byte-level BPE of GPT-2 (Radford et al., 2019, section 2.2), and "char", one token a character:
      `decode` gives the text back exactly.
    - "wordpiece", that of BERT (Devlin et al., 2018), and "clip", the BPE of CLIP (Radford et al., 2021, section 2.4):
      `decode` gives back what is left of the text, with spaces where the words were split.
    """

    def __init__(self, specification: Specification) -> None:
        self.specification = specification
        self._rust = build_pipeline(specification)

    @property
    def kind(self) -> Kind:
        return self.specification.kind

    @property
    def vocabulary_size(self) -> int:
        """One more than the highest id: the rows that a table of embeddings needs."""
        return self.specification.size

    @property
    def max_length(self) -> int | None:
        """The most tokens that the model reads, where the tokenizer's files say so."""
        return self.specification.max_length

    @cached_property
    def special_ids(self) -> Mapping[Role, int]:
        """By role, the ids of the special tokens: "pad", "unk", "cls", "sep" and, unless the vocabulary lacks it,
        "mask" of "wordpiece"; "pad", "unk", "start" and "end" of "clip"; "pad", "start" and "end" of the others."""
        vocabulary = self.specification.vocabulary
        return {role: vocabulary[token] for role, token in self.specification.role_tokens.items()}

    @property
    def end_of_text(self) -> int:
        """The id of `<|endoftext|>`, which separates documents.

        Raises:
            UserError: the tokenizer has none.
        """
        if "end" not in self.special_ids:
            raise UserError(f"a {self.kind} tokenizer has no token for the end of a text: use a bpe or char tokenizer")
        return self.special_ids["end"]

    @property
    def separator(self) -> str:
        """The special token, written out, that stands between documents: the one for the end of a text, or of a segment
        where there is no such."""
        roles = self.specification.role_tokens
        return roles.get("end") or roles["sep"]

    @property
    def separator_id(self) -> int:
        """The id of `separator`."""
        return self.specification.vocabulary[self.separator]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text gets, in hexadecimal."""
        return self.specification.fingerprint

    @cached_property
    def continues_word(self) -> np.ndarray:
        """By id, whether a token goes on with the word of the one before it, as `##s` of "wordpiece" does:
        (vocabulary_size,) bool."""
        continues = np.zeros(self.vocabulary_size, bool)
        for token, number in self.specification.vocabulary.items():
            continues[number] = self.kind == "wordpiece" and token.startswith("##") and len(token) > 2
        return continues

    def same_as(self, other: "Tokenizer") -> bool:
        """Whether both give every text the same ids."""
        return self.fingerprint == other.fingerprint

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with no special token added; see the class."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Encode each text by itself, on all cores."""
        # The fast variant leaves out character offsets, and takes half the time.
        encodings = self._rust.encode_batch_fast([without_surrogates(text) for text in texts], add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_spans(self, texts: Iterable[str]) -> list[Encoded]:
        """Encode each text by itself, with the characters that each token stands for, as `offsets` of `prepare`."""
        encodings = self._rust.encode_batch([without_surrogates(text) for text in texts], add_special_tokens=False)
        return [Encoded(encoding.ids, encoding.offsets) for encoding in encodings]

    def prepare(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int,
        truncation: Truncation = "longest_first",
        padding: Padding = "longest",
        special_tokens: bool = True,
        offsets: bool = False,
    ) -> dict[str, np.ndarray]:
        """Make a model's inputs: encode, put special tokens around, truncate at the end, pad at the end.

        Special tokens are `[CLS] text [SEP]` or `[CLS] text [SEP] pair [SEP]` for "wordpiece",
        `<|startoftext|> text <|endoftext|>` for "clip", none for the others. They are never truncated.

        Args:
            texts: what to encode.
            pairs: for each text another one, to be read together with it.
            max_length: the most tokens of a row, special tokens included.
            truncation: what to shorten where a row would be longer: "longest_first" the longer of text and pair until
                they are alike, then both; "only_first" the text; "only_second" the pair; "none" neither.
            padding: how long rows are: "longest" as the longest of them, "max_length" as that.
            special_tokens: put them around the texts.
            offsets: add the last two of the arrays below.

        Returns:
            arrays of int32, by name:

            - "token_ids" (batch, tokens).
            - "padding_mask" (batch, tokens): 1 for tokens, 0 for padding.
            - "segment_ids" (batch, tokens), for "wordpiece" alone: 1 for the pair and the token after it, else 0.
            - "offsets" (batch, tokens, 2): the first character and one past the last that a token stands for, counted
              in its own text as `without_surrogates` leaves it; 0, 0 for special tokens put in and for padding.
            - "sequence_ids" (batch, tokens): 0 for a token of the text, 1 for one of the pair, -1 for those.

        Raises:
            UserError: a text cannot be made to fit, the settings contradict each other, or are not known.
        """
        _check_texts(texts, pairs)
        inputs = make_inputs(
            self._encode(texts, offsets),
            None if pairs is None else self._encode(pairs, offsets),
            find_template(self.specification) if special_tokens else Template(),
            self.special_ids["pad"],
            max_length,
            truncation,
            padding,
        )
        wanted = ["token_ids", "padding_mask"]
        wanted += ["segment_ids"] if self.kind == "wordpiece" else []
        wanted += ["offsets", "sequence_ids"] if offsets else []
        return {name: inputs[name] for name in wanted}

    def prepare_windows(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        *,
        max_length: int,
        stride: int = 128,
        max_question: int = 64,
        padding: Padding = "longest",
    ) -> dict[str, np.ndarray]:
        """Make a model's inputs of questions about contexts of any length, for "wordpiece".

        A context that does not fit is cut into windows that overlap, each a row `[CLS] question [SEP] part [SEP]`, as
        in BERT's `run_squad.py`. A pair that fits is one row, the same that `prepare` makes.

        Args:
            questions: what is asked.
            contexts: for each question the text that may hold its answer.
            max_length: the most tokens of a row, special tokens included.
            stride: by how many tokens a window is further on than the one before; by half of what it holds of the
                context at most, so that a short answer at the edge of one stands whole in the next.
            max_question: the most tokens that are read of a question, or half of the room if that is less, where the
                context needs the rest.
            padding: as for `prepare`.

        Returns:
            arrays of int32, by name: those of `prepare`, the last two as well, and "pair" (rows,), the number of the
            question that a row belongs to. Each has a row or more, one after another.

        Raises:
            UserError: the tokenizer is of another kind, the settings leave no room, or are not known.
        """
        if self.kind != "wordpiece":
            raise UserError(
                f"a {self.kind} tokenizer reads no questions with their contexts: use a wordpiece tokenizer"
            )
        _check_texts(questions, contexts)
        return make_windows(
            self.encode_with_spans(questions),
            self.encode_with_spans(contexts),
            find_template(self.specification),
            self.special_ids["pad"],
            max_length,
            stride,
            max_question,
            padding,
        )

    def _encode(self, texts: Sequence[str], offsets: bool) -> list[Encoded]:
        return self.encode_with_spans(texts) if offsets else [Encoded(ids) for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens written out. Bytes that are no character become U+FFFD.

        Of "wordpiece" and "clip" it is what transformers' `decode` gives.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        numbers = list(map(int, ids))
        for number in numbers:
            if not 0 <= number < self.vocabulary_size:
                raise ValueError(f"token id {number} is not in the vocabulary of {self.vocabulary_size} tokens")
        if self.kind in ("bpe", "char"):
            # Not by the library: its character decoder loses a whole run of bytes where one of them is broken.
            table = self.specification.token_bytes
            return b"".join(table[number] for number in numbers).decode(errors="replace")
        text = self._rust.decode(numbers, skip_special_tokens=False)
        return text.replace("</w>", " ").strip() if self.kind == "clip" else text

    def save(self, directory: Path, *, layout: Literal["zoo", "hf"] = "zoo", max_length: int | None = None) -> None:
        """Write the tokenizer's files into `directory`.

        These are `tokenizer.json`; `vocab.txt` ("wordpiece"), or `vocab.json` and `merges.txt` ("bpe" and "clip"); and
        `tokenizer_config.json`, which the layout "zoo" leaves out for "bpe" and "char", where it says nothing new.

        Args:
            directory: where to; it is made if need be.
            layout: "hf" writes all that `transformers.AutoTokenizer` needs beside a model's `config.json`.
            max_length: the most tokens that the model reads, if other than the tokenizer's own.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "tokenizer.json", self._rust.to_str(pretty=True))
        write_vocabulary(self.specification, directory)
        if layout == "hf" or self.kind in ("wordpiece", "clip"):
            write_tokenizer_config(self.specification, directory, max_length or self.max_length)

    @staticmethod
    def is_saved_in(directory: Path) -> bool:
        """Whether `load` has something to read there."""
        return any((Path(directory) / name).exists() for name in MAIN_FILES)

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """Read `tokenizer.json`, or else `vocab.txt`, or else `vocab.json` with `merges.txt`.

        What `tokenizer_config.json` says beside them is heeded. A `vocab.txt` without it is of lower-cased text.

        Raises:
            UserError: there is no tokenizer there, or it is broken, too large, or of a kind that is not supported.
        """
        specification, path = read_specification(directory)
        try:
            return cls(specification)
        except ValueError as error:
            raise UserError(f"{path} cannot be used as a tokenizer: {error}") from None


def _check_texts(texts: Sequence[str], pairs: Sequence[str] | None) -> None:
    if isinstance(texts, str) or isinstance(pairs, str):
        raise UserError("one string was given: give a list of strings")
    if pairs is not None and len(texts) != len(pairs):
        raise UserError(f"there are {len(texts)} texts and {len(pairs)} pairs: give as many")


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
