"""`tokenizer.json`, the file of the `tokenizers` library: the parts that matter here, and what they have to be."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.text.specification import Kind, Merges, Normalization, Role
from zoo.text.tokenizer_config import AddedToken, parse_added_token
from zoo.text.untrusted import checked_merges, checked_vocabulary, expect

MAX_WORD_CHARACTERS = 100  # a longer word is unknown to a WordPiece model
CLIP_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# Files converted by transformers 4 lack the first two alternatives, which transformers 5 puts in for them. Only where
# a special token is written in capital letters does it make a difference.
_OLD_CLIP_PATTERN = CLIP_PATTERN.removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|")
_CLIP_NORMALIZERS = [
    {"type": "NFC"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
    {"type": "Lowercase"},
]
_SWITCHES = {
    "clean_text": "clean_text",
    "handle_chinese_chars": "split_chinese",
    "lowercase": "lowercase",
    "strip_accents": "strip_accents",
}


@dataclass(frozen=True)
class TokenizerJSON:
    """What the file says, checked piece by piece.

    Attributes:
        kind: the kind of tokenizer.
        vocabulary: the model's own tokens and their ids.
        merges: pairs of tokens.
        added: tokens that are cut out of the text, with their ids.
        roles: the special tokens whose part the file tells.
        normalization: for "wordpiece".
    """

    kind: Kind
    vocabulary: dict[str, int]
    merges: Merges
    added: tuple[AddedToken, ...]
    roles: Mapping[Role, str] = field(default_factory=dict)
    normalization: Normalization = field(default_factory=Normalization)


def parse_tokenizer_json(content: Any) -> TokenizerJSON:
    """Read the parsed content of a file.

    Truncation and padding are not read: callers do those, visibly.

    Raises:
        ValueError: a part is missing or malformed, or a setting that would change the ids is not supported.
    """
    content = expect(content, dict, "the whole file")
    if "registered_name" in content:
        raise ValueError("it is a file of Keras, which has the name in common with that of the tokenizers library")
    model = expect(content.get("model"), dict, '"model"')
    # Files from before 2021, bert-base-uncased's among them, do not name the type.
    name = model.get("type") or ("WordPiece" if "max_input_chars_per_word" in model else "BPE")
    added = tuple(
        parse_added_token(entry, expect(expect(entry, dict, "an added token").get("id"), int, "its id"))
        for entry in expect(content.get("added_tokens") or [], list, '"added_tokens"')
    )
    vocabulary = checked_vocabulary(model.get("vocab"))
    if name == "WordPiece":
        _require(model, continuing_subword_prefix="##", max_input_chars_per_word=MAX_WORD_CHARACTERS)
        _require_pre_tokenizer(content, {"type": "BertPreTokenizer"})
        roles = _template_roles(content.get("post_processor"), "wordpiece")
        unknown: dict[Role, str] = {"unk": expect(model.get("unk_token"), str, '"unk_token"')}
        return TokenizerJSON(
            "wordpiece", vocabulary, (), added, {**roles, **unknown}, _normalization(content.get("normalizer"))
        )
    if name != "BPE":
        raise ValueError(f"its model {name!r:.80} is not supported: expected BPE or WordPiece")
    kind = _bpe_kind(content, model)
    roles = _template_roles(content.get("post_processor"), kind)
    if kind == "clip":
        roles["unk"] = expect(model.get("unk_token"), str, '"unk_token"')
    return TokenizerJSON(kind, vocabulary, checked_merges(model.get("merges")), added, roles)


def _bpe_kind(content: Mapping[str, Any], model: Mapping[str, Any]) -> Kind:
    for name in ("dropout", "continuing_subword_prefix", "ignore_merges"):
        if model.get(name):
            raise ValueError(f'"{name}": {json.dumps(model[name])} in its model is not supported')
    if model.get("end_of_word_suffix") == "</w>":
        _require(model, fuse_unk=False, byte_fallback=False)
        _require_clip_pipeline(content)
        return "clip"
    if model.get("end_of_word_suffix"):
        raise ValueError(f'"end_of_word_suffix": {json.dumps(model["end_of_word_suffix"])} is not supported')
    if content.get("normalizer") is not None:
        raise ValueError("a byte-level BPE or character tokenizer with a normalizer is not supported")
    splitter = expect(content.get("pre_tokenizer") or {}, dict, '"pre_tokenizer"')
    if not splitter and model.get("byte_fallback") is True:
        return "char"
    _require_byte_level(splitter)
    return "bpe"


def _require_byte_level(splitter: Any) -> None:
    splitter = expect(splitter, dict, "a pre_tokenizer")
    if splitter.get("type") != "ByteLevel" or splitter.get("use_regex", True) is not True:
        raise ValueError(f"its pre_tokenizer {splitter.get('type')!r:.80} is not supported: expected GPT-2's ByteLevel")
    if splitter.get("add_prefix_space") is not False:
        raise ValueError('"add_prefix_space": true in its pre_tokenizer is not supported')


def _require_clip_pipeline(content: Mapping[str, Any]) -> None:
    if content.get("normalizer") != {"type": "Sequence", "normalizers": _CLIP_NORMALIZERS}:
        raise ValueError("its normalizer is not CLIP's, and no other is supported with the suffix </w>")
    sequence = expect(content.get("pre_tokenizer"), dict, '"pre_tokenizer"')
    steps = sequence.get("pretokenizers")
    if sequence.get("type") != "Sequence" or not isinstance(steps, list) or len(steps) != 2:
        raise ValueError("its pre_tokenizer is not CLIP's, and no other is supported with the suffix </w>")
    split = {"type": "Split", "behavior": "Removed", "invert": True}
    if steps[0] not in [{**split, "pattern": {"Regex": pattern}} for pattern in (CLIP_PATTERN, _OLD_CLIP_PATTERN)]:
        raise ValueError("its pre_tokenizer does not split as CLIP's does, and no other is supported")
    _require_byte_level(steps[1])


def _require_pre_tokenizer(content: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    if content.get("pre_tokenizer") != expected:
        raise ValueError(f"its pre_tokenizer is not supported: expected {json.dumps(expected)}")


def _require(model: Mapping[str, Any], **values: Any) -> None:
    """The settings have these values, or are left to them."""
    for name, value in values.items():
        if model.get(name, value) != value:
            raise ValueError(f'"{name}": {json.dumps(model[name])} in its model is not supported: only {value!r} is')


def _normalization(content: Any) -> Normalization:
    content = expect(content, dict, '"normalizer"')
    if content.get("type") != "BertNormalizer" or not content.keys() <= {"type", *_SWITCHES}:
        raise ValueError(f"its normalizer {content.get('type')!r:.80} is not supported: expected BertNormalizer")
    values = {field: content.get(name) for name, field in _SWITCHES.items()}
    if values["strip_accents"] is None:
        values["strip_accents"] = values["lowercase"]
    return Normalization(**{field: expect(value, bool, f'"{field}"') for field, value in values.items()})


def _template_roles(content: Any, kind: Kind) -> dict[Role, str]:
    """Which special tokens the file puts around texts; a ValueError where the kind has other places for them."""
    if content is None:
        return {}
    single, pair = _template(expect(content, dict, '"post_processor"'))
    names = [name for name, _ in single]
    if kind in ("bpe", "char"):
        if names == ["$A"]:
            return {}
    elif len(single) == 3 and names[1] == "$A":
        first, last = names[0], names[2]
        if kind == "clip":
            return {"start": first, "end": last}
        if (single, pair) == _bert_template(first, last):
            return {"cls": first, "sep": last}
    raise ValueError(f"its post_processor does not put special tokens where a {kind} tokenizer has them")


Template = list[tuple[str, int]]  # special tokens, $A and $B for the texts, and the segment of each


def _bert_template(first: str, last: str) -> tuple[Template, Template]:
    single = [(first, 0), ("$A", 0), (last, 0)]
    return single, [*single, ("$B", 1), (last, 1)]


def _template(content: Mapping[str, Any]) -> tuple[Template, Template]:
    """What is made of one text, and of two."""
    name = content.get("type")
    if name == "ByteLevel":  # it only moves offsets
        return [("$A", 0)], [("$A", 0), ("$B", 0)]
    if name in ("BertProcessing", "RobertaProcessing"):
        ends = [expect(content.get(part), list, f'"{part}"') for part in ("cls", "sep")]
        if not all(end and isinstance(end[0], str) for end in ends):
            raise ValueError("its post_processor names no tokens")
        (first, *_), (last, *_) = ends
        if name == "BertProcessing":
            return _bert_template(first, last)
        single = [(first, 0), ("$A", 0), (last, 0)]
        return single, [*single, (last, 0), ("$B", 0), (last, 0)]
    if name != "TemplateProcessing":
        raise ValueError(f"its post_processor {name!r:.80} is not supported")
    return _pieces(content.get("single")), _pieces(content.get("pair"))


def _pieces(content: Any) -> Template:
    pieces = []
    for entry in expect(content, list, "a template"):
        for name, piece in expect(entry, dict, "a piece of a template").items():
            piece = expect(piece, dict, "a piece of a template")
            text = expect(piece.get("id"), str, "the id of a piece")
            pieces.append((f"${text}" if name == "Sequence" else text, expect(piece.get("type_id"), int, "a type_id")))
    return pieces
