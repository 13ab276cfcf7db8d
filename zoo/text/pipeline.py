"""The `tokenizers` library (Rust) set up to do what a `Specification` says, as transformers sets it up."""

import tokenizers
from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece

from zoo.text.specification import Normalization, Specification
from zoo.text.tokenizer_json import CLIP_PATTERN, MAX_WORD_CHARACTERS


def build_pipeline(specification: Specification) -> tokenizers.Tokenizer:
    """The library's tokenizer, special tokens included.

    Raises:
        ValueError: the library would number the tokens in another way.
    """
    build = {"bpe": _bpe, "char": _char, "wordpiece": _wordpiece, "clip": _clip}[specification.kind]
    rust = build(specification)
    vocabulary, outside = specification.vocabulary, specification.outside_tokens
    # Those that the model does not have are numbered in the order in which they are added.
    rust.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=token in specification.normalized_tokens)
            for token in (
                *(token for token in specification.special_tokens if token not in outside),
                *sorted(outside, key=lambda token: vocabulary[token]),
            )
        ]
    )
    for token in outside:
        if rust.token_to_id(token) != vocabulary[token]:
            raise ValueError(f"the added token {token!r} has id {vocabulary[token]}, and not the next that is free")
    return rust


def _bpe(specification: Specification) -> tokenizers.Tokenizer:
    rust = tokenizers.Tokenizer(BPE(dict(specification.vocabulary), list(specification.merges)))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    return rust


def _char(specification: Specification) -> tokenizers.Tokenizer:
    rust = tokenizers.Tokenizer(BPE(dict(specification.vocabulary), [], byte_fallback=True))
    rust.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return rust


def bert_normalizer(normalization: Normalization) -> normalizers.BertNormalizer:
    """What a "wordpiece" tokenizer does to a text before it splits it."""
    return normalizers.BertNormalizer(
        clean_text=normalization.clean_text,
        handle_chinese_chars=normalization.split_chinese,
        strip_accents=normalization.strip_accents,
        lowercase=normalization.lowercase,
    )


def _wordpiece(specification: Specification) -> tokenizers.Tokenizer:
    vocabulary, roles = specification.vocabulary, specification.role_tokens
    model = {token: number for token, number in vocabulary.items() if token not in specification.outside_tokens}
    rust = tokenizers.Tokenizer(WordPiece(model, unk_token=roles["unk"], max_input_chars_per_word=MAX_WORD_CHARACTERS))
    rust.normalizer = bert_normalizer(specification.normalization)
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece(prefix="##")
    cls, sep = roles["cls"], roles["sep"]
    rust.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
        special_tokens=[(token, vocabulary[token]) for token in {cls, sep}],
    )
    return rust


def split_clip_words(rust: tokenizers.Tokenizer) -> None:
    """Have a tokenizer do to a text what "clip" does to it before any merge: lower-case it, and split it to words."""
    rust.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(CLIP_PATTERN), behavior="removed", invert=True)
    rust.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def _clip(specification: Specification) -> tokenizers.Tokenizer:
    vocabulary, roles = specification.vocabulary, specification.role_tokens
    rust = tokenizers.Tokenizer(
        BPE(dict(vocabulary), list(specification.merges), unk_token=roles["unk"], end_of_word_suffix="</w>")
    )
    split_clip_words(rust)
    rust.decoder = decoders.ByteLevel()
    start, end = ((roles[role], vocabulary[roles[role]]) for role in ("start", "end"))
    rust.post_processor = processors.RobertaProcessing(end, start, trim_offsets=False, add_prefix_space=False)
    return rust
