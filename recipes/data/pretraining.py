"""The text that a pretraining reads: tokenised before by `zoo prepare`, or found, and packed into the cache."""

from pathlib import Path
from typing import Any

from recipes.data.packing import PackedText, TokenizerTraining, pack
from recipes.data.shards import open_shards
from recipes.data.text import is_prepared, open_corpus
from zoo.errors import UserError
from zoo.text import Tokenizer

_OWN = ("tokenizer", "vocabulary_size", "text_column", "validation_data", "validation_fraction")


def pretraining_text(settings: Any, tokenizer: TokenizerTraining | Tokenizer) -> PackedText:
    """The text that a recipe's settings name.

    Args:
        settings: with `data`, `text_column`, `validation_data`, `validation_fraction` and `origin`.
        tokenizer: that of the model, or what to train; prepared text has its own.

    Raises:
        UserError: there is no such text; or it was prepared and is not complete, is not alone, was made by another
            tokenizer than the model's, or the settings say how to make it.
    """
    for path in settings.data:
        if is_prepared(path):
            return _prepared_text(settings, path, tokenizer)
    corpus = open_corpus(settings.data, settings.validation_data, settings.validation_fraction, settings.text_column)
    return pack(corpus, tokenizer)


def _prepared_text(settings: Any, path: Path, tokenizer: TokenizerTraining | Tokenizer) -> PackedText:
    if len(settings.data) > 1:
        raise UserError(f"{path} was prepared for training already, with its own tokenizer: give it alone with --data")
    for name in _OWN:
        holder = settings if hasattr(settings, name) else settings.origin
        if getattr(holder, name) != getattr(type(holder), name):
            raise UserError(
                f"{path} was prepared with its own tokenizer and held-out text: leave out --{name.replace('_', '-')}, "
                "or give the texts themselves"
            )
    packed = open_shards(path)
    if isinstance(tokenizer, Tokenizer) and not tokenizer.same_as(packed.tokenizer):
        raise UserError(
            f"{path} was prepared with another tokenizer than that of {settings.origin.source}: prepare it again with "
            "--tokenizer and the directory of that model"
        )
    return packed
