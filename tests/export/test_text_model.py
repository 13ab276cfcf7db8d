"""Models of strings: what none can be made of is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest

import zoo
from export.text_model import reads_text, write_text_model
from tests.export.served import load_tokenizer, make_model
from zoo.errors import UserError
from zoo.model import ZooModel
from zoo.text import train_characters


def test_models_that_read_no_strings_are_refused(enliven: Callable[..., ZooModel], tmp_path: Path) -> None:
    sees, reads = zoo.create("vit-nano"), zoo.create("gpt-nano")
    assert not reads_text(sees) and reads_text(reads)
    with pytest.raises(UserError, match=r"a vit model for .* reads no text"):
        write_text_model(sees, tmp_path / "none")
    with pytest.raises(UserError, match="the gpt model has no tokenizer"):
        write_text_model(reads, tmp_path / "none")
    reads.tokenizer = train_characters(["a"])
    with pytest.raises(UserError, match="a char tokenizer has no counterpart in a graph"):
        write_text_model(reads, tmp_path / "none")
    reads.tokenizer = load_tokenizer("bert")
    with pytest.raises(UserError, match="what a wordpiece tokenizer generates cannot be written"):
        write_text_model(reads, tmp_path / "none")
    pretrained = make_model(enliven, "bert", "pretrain")
    with pytest.raises(UserError, match="a bert model for 'pretrain' gives no answer in words"):
        write_text_model(pretrained, tmp_path / "none")
    blind = zoo.create("clip-nano")
    blind.tokenizer, blind.preprocessing = load_tokenizer("clip"), None
    with pytest.raises(UserError, match="no preprocessing for images of colour"):
        write_text_model(blind, tmp_path / "none")
    assert not (tmp_path / "none").exists()
