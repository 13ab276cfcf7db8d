"""The recipes by name. A recipe's module holds its settings and nothing heavy: TensorFlow comes with its `run`."""

import dataclasses
import inspect
import sys
from collections.abc import Callable
from typing import Any

from recipes.answer_questions import AnswerQuestions, train_answerer
from recipes.bert_pretrain import BERTPretrain, train_bert
from recipes.classify_image import ClassifyImage
from recipes.classify_image import train_classifier as train_image_classifier
from recipes.classify_text import ClassifyText, train_classifier
from recipes.clip_pretrain import CLIPPretrain, train_clip
from recipes.distill import Distill, train_student
from recipes.embed_text import EmbedText, train_embedder
from recipes.generate_text import GenerateText, train_generator
from recipes.gpt_pretrain import GPTPretrain, train_gpt
from recipes.mae_pretrain import MAEPretrain, train_mae
from recipes.tag_text import TagText, train_tagger
from recipes.vit_pretrain import ViTPretrain, train_vit


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

    @property
    def help(self) -> str:
        """Paper, commands for a laptop and a GPU, what to expect, and what a run leaves: of its module and settings."""
        module = sys.modules[self.settings.__module__]
        return f"{inspect.getdoc(module)}\n\n{inspect.getdoc(self.settings)}"


RECIPES: dict[str, Recipe] = {
    "answer-questions": Recipe("train a model to find answers in texts", AnswerQuestions, train_answerer),
    "bert-pretrain": Recipe("train BERT on text to predict masked tokens and successors", BERTPretrain, train_bert),
    "classify-image": Recipe("train a classifier of images on folders of them", ClassifyImage, train_image_classifier),
    "classify-text": Recipe("train a classifier of texts on a table", ClassifyText, train_classifier),
    "clip-pretrain": Recipe("train CLIP on images with captions", CLIPPretrain, train_clip),
    "distill": Recipe("train a small student to say what a large teacher says", Distill, train_student),
    "embed-text": Recipe("train an embedder of texts on pairs that belong together", EmbedText, train_embedder),
    "generate-text": Recipe("go on training GPT on prompts and completions, or on text", GenerateText, train_generator),
    "gpt-pretrain": Recipe("train GPT on text to predict the next token", GPTPretrain, train_gpt),
    "mae-pretrain": Recipe("train ViT on images without labels, to complete them", MAEPretrain, train_mae),
    "tag-text": Recipe("train a tagger: named entities, or other labels of words", TagText, train_tagger),
    "vit-pretrain": Recipe("train ViT on labelled images from fresh weights", ViTPretrain, train_vit),
}
