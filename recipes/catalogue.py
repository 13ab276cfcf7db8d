"""The recipes by name. A recipe's module holds its settings and nothing heavy: TensorFlow comes with its `run`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from recipes.bert_pretrain import BERTPretrain, train_bert
from recipes.classify_text import ClassifyText, train_classifier
from recipes.gpt_pretrain import GPTPretrain, train_gpt


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A named way to train.

    Attributes:
        title: what it does, in a line.
        settings: the dataclass of its settings, each an option of `zoo train NAME`.
        train: runs it; returns what there is to tell at the end.
    """

    title: str
    settings: type
    train: Callable[[Any], dict[str, Any]]


RECIPES: dict[str, Recipe] = {
    "bert-pretrain": Recipe("train BERT on text to predict masked tokens and successors", BERTPretrain, train_bert),
    "classify-text": Recipe("train a classifier of texts on a table", ClassifyText, train_classifier),
    "gpt-pretrain": Recipe("train GPT on text to predict the next token", GPTPretrain, train_gpt),
}
