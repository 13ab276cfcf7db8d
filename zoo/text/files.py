"""A tokenizer's files: found and read into a `Specification` as untrusted input, and written from one."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from zoo.errors import UserError
from zoo.files import write_text
from zoo.text.specification import ROLES, Kind, Merges, Normalization, Role, Specification
from zoo.text.tokenizer_config import (
    CLASSES,
    GENERIC_CLASSES,
    AddedToken,
    TokenizerConfig,
    format_tokenizer_config,
    read_tokenizer_config,
)
from zoo.text.tokenizer_json import TokenizerJSON, parse_tokenizer_json
from zoo.text.untrusted import blamed_on, checked_merges, checked_vocabulary, read_json, read_text

MAIN_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")  # the first that is there is read


def read_specification(directory: Path) -> tuple[Specification, Path]:
    """Read `tokenizer.json`, or else `vocab.txt` (BERT's), or else `vocab.json` with `merges.txt` (GPT-2's or CLIP's).

    What `tokenizer_config.json` says is heeded as transformers does: it overrules `tokenizer.json`.

    Returns:
        the specification, and the file that it is to be blamed on.

    Raises:
        UserError: there is no tokenizer there, or its file is broken, too large, or of a kind that is not supported.
    """
    directory = Path(directory)
    path = next((directory / name for name in MAIN_FILES if (directory / name).exists()), None)
    if path is None:
        raise UserError(
            f"{directory} holds no tokenizer: expected tokenizer.json, vocab.txt, or vocab.json with merges.txt"
        )
    config = read_tokenizer_config(directory)
    with blamed_on(path):
        if path.name == "tokenizer.json":
            return _from_tokenizer_json(parse_tokenizer_json(read_json(path)), config), path
        if path.name == "vocab.txt":
            _require_class("wordpiece", config)
            vocabulary = _vocabulary_from_lines(read_text(path))
            return _assemble("wordpiece", vocabulary, (), (), {}, _switched(Normalization(), config), config), path
        vocabulary = checked_vocabulary(read_json(path))
        suffixed = any(token.endswith("</w>") for token in vocabulary)
        kind: Kind = "clip" if suffixed or config.tokenizer_class == "CLIPTokenizer" else "bpe"
        _require_class(kind, config)
        merges = _merges_from_lines(read_text(directory / "merges.txt"))
        return _assemble(kind, vocabulary, merges, (), {}, Normalization(), config), path


def _from_tokenizer_json(content: TokenizerJSON, config: TokenizerConfig) -> Specification:
    normalization = content.normalization
    if config.tokenizer_class not in GENERIC_CLASSES:
        normalization = _switched(normalization, config)
    return _assemble(
        content.kind, content.vocabulary, content.merges, content.added, content.roles, normalization, config
    )


def _assemble(
    kind: Kind,
    vocabulary: Mapping[str, int],
    merges: Merges,
    added: tuple[AddedToken, ...],
    roles: Mapping[Role, str],
    normalization: Normalization,
    config: TokenizerConfig,
) -> Specification:
    """Put together what the main file and the configuration say."""
    # GPT-2's own start and end are always <|endoftext|>.
    heeded = {"pad"} if kind in ("bpe", "char") else ROLES[kind].keys()
    special = {role: token for role, token in config.special.items() if role in heeded}
    names = {**ROLES[kind], **roles, **{role: token.text for role, token in special.items()}}
    # Of a token that is described several times, the last counts.
    described = {token.text: token for token in (*special.values(), *added, *config.added)}
    everything = dict(vocabulary)
    for token in described.values():
        if token.number is not None and everything.setdefault(token.text, token.number) != token.number:
            raise ValueError(f"the added token {token.text!r} has two ids, {token.number} and {everything[token.text]}")
    tokens = [*described, *(name for role, name in names.items() if role != "mask" or name in everything)]
    special_tokens = tuple(dict.fromkeys(tokens))
    normalizes = kind in ("wordpiece", "clip")
    return Specification(
        kind,
        everything,
        merges,
        special_tokens,
        {role: name for role, name in names.items() if name != ROLES[kind][role]},
        frozenset(token.text for token in described.values() if token.normalized and normalizes),
        frozenset(token for token in special_tokens if kind == "wordpiece" and token not in vocabulary),
        normalization,
        config.max_length,
    )


def _switched(normalization: Normalization, config: TokenizerConfig) -> Normalization:
    """With the fields that the configuration sets. Accents are usually stripped where text is lower-cased."""
    switches = {name: on for name, on in config.switches.items() if on is not None}
    if "lowercase" in switches:
        switches.setdefault("strip_accents", switches["lowercase"])
    return replace(normalization, **switches)


def _require_class(kind: Kind, config: TokenizerConfig) -> None:
    """Files without a pipeline mean different things to different classes."""
    known = (None, *CLASSES[kind], *GENERIC_CLASSES)
    if config.tokenizer_class not in known:
        raise ValueError(f"it is meant for {config.tokenizer_class!r:.80}, which is not supported")


def _vocabulary_from_lines(content: str) -> dict[str, int]:
    """One token a line; its id is the number of the line. Of a token that is there twice the later line counts."""
    return {token: number for number, line in enumerate(content.split("\n")) if (token := line.rstrip())}


def _merges_from_lines(content: str) -> Merges:
    lines = content.split("\n")
    if lines[0].startswith("#version"):
        del lines[0]
    return checked_merges([line.removesuffix("\r").split(" ") for line in lines if line.strip()])


def write_vocabulary(specification: Specification, directory: Path) -> None:
    """Write `vocab.txt`, or `vocab.json` and `merges.txt`, as the kind has them."""
    vocabulary = dict(sorted(specification.vocabulary.items(), key=lambda item: item[1]))
    if specification.kind == "wordpiece":
        lines = [""] * specification.size
        for token, number in vocabulary.items():
            if token not in specification.outside_tokens:
                lines[number] = token
        text = "".join(f"{line}\n" for line in lines)
        # A token with a line break, which no text can hold, cannot be written there: tokenizer.json has it.
        if _vocabulary_from_lines(text).keys() == vocabulary.keys() - specification.outside_tokens:
            write_text(directory / "vocab.txt", text)
    elif specification.kind != "char":  # read as GPT-2's files, its vocabulary would mean something else
        write_text(directory / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
        merges = "".join(f"{left} {right}\n" for left, right in specification.merges)
        write_text(directory / "merges.txt", f"#version: 0.2\n{merges}")


def write_tokenizer_config(specification: Specification, directory: Path, max_length: int | None) -> None:
    """Write `tokenizer_config.json`."""
    content = format_tokenizer_config(specification, max_length)
    write_text(directory / "tokenizer_config.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
