"""`tokenizer_config.json` and the small files beside it: what Hugging Face says of a tokenizer besides its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo.text.specification import Kind, Role, Specification
from zoo.text.untrusted import blamed_on, checked_vocabulary, expect, read_json

# In the order of transformers: where two roles describe one token in different ways, the last of them is heeded.
NAMES: Mapping[str, Role] = {
    "bos_token": "start",
    "eos_token": "end",
    "unk_token": "unk",
    "sep_token": "sep",
    "pad_token": "pad",
    "cls_token": "cls",
    "mask_token": "mask",
}
# How fields of `Normalization` are called there. `clean_text` has no name, and is always on.
SWITCHES = {"do_lower_case": "lowercase", "strip_accents": "strip_accents", "tokenize_chinese_chars": "split_chinese"}
# Classes of transformers, without "Fast", that read a kind's files. The generic ones take tokenizer.json as it is.
CLASSES: Mapping[Kind, tuple[str, ...]] = {
    "bpe": ("GPT2Tokenizer",),
    "char": (),
    "wordpiece": ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer"),
    "clip": ("CLIPTokenizer",),
}
GENERIC_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")
UNLIMITED = 10**9  # where it knows of no limit, transformers writes 1e30


@dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of the text before anything else.

    Attributes:
        text: how it is written.
        normalized: it is looked for in the normalized text.
        number: its id, where the file says so.
    """

    text: str
    normalized: bool = False
    number: int | None = None


@dataclass(frozen=True)
class TokenizerConfig:
    """What the files say; each of them and all that is in them is optional.

    Attributes:
        tokenizer_class: the class of transformers that reads the tokenizer, without its "Fast".
        max_length: the most tokens that the model reads.
        switches: by the field of `Normalization`, whether it is on; None for the usual.
        special: the special token in each role.
        added: further tokens that are cut out.
    """

    tokenizer_class: str | None = None
    max_length: int | None = None
    switches: Mapping[str, bool | None] = field(default_factory=dict)
    special: Mapping[Role, AddedToken] = field(default_factory=dict)
    added: tuple[AddedToken, ...] = ()


def read_tokenizer_config(directory: Path) -> TokenizerConfig:
    """Read `tokenizer_config.json`, and the older `special_tokens_map.json` and `added_tokens.json`, where they are.

    Raises:
        UserError: one of them is broken, or a token in it is of a kind that is not supported.
    """
    path = directory / "tokenizer_config.json"
    content: dict[str, Any] = {}
    if path.exists():
        with blamed_on(path):
            content = expect(read_json(path), dict, "the whole file")
            config = _parse(content)
    else:
        config = TokenizerConfig()
    if "added_tokens_decoder" in content:  # since 2023, and the older files are read no more
        return config
    special, added = dict(config.special), config.added
    path = directory / "special_tokens_map.json"
    if path.exists():
        with blamed_on(path):
            special |= _special(expect(read_json(path), dict, "the whole file"))
    path = directory / "added_tokens.json"
    if path.exists():
        names = {token.text for token in special.values()}
        with blamed_on(path):
            added = tuple(
                AddedToken(text, text not in names, number)
                for text, number in checked_vocabulary(read_json(path)).items()
            )
    return replace(config, special=special, added=added)


def _parse(content: Mapping[str, Any]) -> TokenizerConfig:
    added = []
    for number, entry in expect(content.get("added_tokens_decoder", {}), dict, '"added_tokens_decoder"').items():
        if not number.isdecimal():
            raise ValueError(f"the id {number!r:.80} of an added token is not a number")
        added.append(parse_added_token(entry, int(number)))
    name, length = content.get("tokenizer_class"), content.get("model_max_length")
    if length is not None and not (isinstance(length, int | float) and length >= 1):
        raise ValueError(f'"model_max_length" is {length!r:.80}, and should be a number from 1 on')
    return TokenizerConfig(
        None if name is None else expect(name, str, '"tokenizer_class"').removesuffix("Fast"),
        None if length is None or length >= UNLIMITED else int(length),
        {SWITCHES[key]: _switch(content[key], key) for key in SWITCHES if key in content},
        _special(content),
        tuple(added),
    )


def parse_added_token(entry: Any, number: int | None) -> AddedToken:
    """An added token as it is written in JSON; a ValueError where its setting would have to change the text."""
    entry = expect(entry, dict, "an added token")
    text = expect(entry.get("content"), str, "an added token")
    if entry.get("lstrip") or entry.get("rstrip") or entry.get("single_word"):
        raise ValueError(f"the added token {text!r} strips white space or matches whole words: not supported")
    return AddedToken(text, bool(entry.get("normalized")), number)


def _special(content: Mapping[str, Any]) -> dict[Role, AddedToken]:
    """The token in each role, which is written as a string or as an added token is."""
    entries = {role: content[name] for name, role in NAMES.items() if content.get(name) is not None}
    return {
        role: AddedToken(entry) if isinstance(entry, str) else parse_added_token(entry, None)
        for role, entry in entries.items()
    }


def _switch(value: Any, name: str) -> bool | None:
    return None if value is None else expect(value, bool, f'"{name}"')


def format_tokenizer_config(specification: Specification, max_length: int | None) -> dict[str, Any]:
    """The content of a `tokenizer_config.json` with which transformers gives the ids of `specification`."""
    normalization = specification.normalization
    classes = CLASSES[specification.kind]
    generic = not classes or not normalization.clean_text  # which their own classes switch on
    content: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast" if generic else classes[0],
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(specification.vocabulary[token]): {
                "content": token,
                "lstrip": False,
                "normalized": token in specification.normalized_tokens,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for token in sorted(specification.special_tokens, key=lambda token: specification.vocabulary[token])
        },
    }
    content |= {
        name: specification.role_tokens[role] for name, role in NAMES.items() if role in specification.role_tokens
    }
    if specification.kind == "wordpiece":
        content |= {name: getattr(normalization, field) for name, field in SWITCHES.items()}
    if max_length is not None:
        content["model_max_length"] = max_length
    return content
