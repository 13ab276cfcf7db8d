"""What a run begins from: fresh weights of a named size, or a model that is there already."""

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from recipes.data.packing import TokenizerTraining
from zoo.directory import find_model_directory, read_saved, require_vocabulary
from zoo.errors import UserError
from zoo.registry import Family, find_preset
from zoo.text import Tokenizer

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The model that is trained, before it is."""

    source: Annotated[str | None, arg(name="from")] = None
    """Model to go on from, with its own tokenizer: a model directory, a run, a Hugging Face checkpoint, or
    hf:organisation/name. None begins with fresh weights."""
    fresh: bool = False
    """Take size and tokenizer of --from, and fresh weights: what its training was worth."""
    preset: str = "bert-mini"
    """Size of a fresh model; zoo list shows them."""
    width: int | None = None
    """Width of a fresh model, in heads as wide as the preset's; None for the preset's."""
    depth: int | None = None
    """Blocks of a fresh model; None for the preset's."""
    tokenizer: str = "wordpiece"
    """wordpiece, bpe or char, trained on the data; or the directory of a model or a tokenizer."""
    vocabulary_size: int = 8192
    """Tokens of a tokenizer that is trained."""
    max_length: int | None = None
    """Longest input in tokens, and of a fresh model the longest that it can read; None for the model's."""
    dropout: float | None = None
    """Rate of every dropout; None for the model's."""
    neighbour_blocks: int = 0
    """Blocks of a fresh model, from the first, whose heads begin by looking at one neighbour each; 0 draws all at
    random, and a small model takes thousands of updates to find its neighbours."""

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise UserError(f"--max-length is {self.max_length}, and must be at least 1")
        if self.neighbour_blocks < 0:
            raise UserError(f"--neighbour-blocks is {self.neighbour_blocks}, and must be 0 or more")
        if self.source is None and self.fresh:
            raise UserError("--fresh takes the size of a model: give one with --from")
        if self.source is not None:
            for field in dataclasses.fields(self):
                if field.name not in ("source", "fresh", "max_length", "dropout", "neighbour_blocks") and (
                    getattr(self, field.name) != field.default
                ):
                    raise UserError(
                        f"--from brings its own model and tokenizer: leave out --{field.name.replace('_', '-')}, "
                        "or --from"
                    )

    @property
    def paths(self) -> tuple[Path, ...]:
        """What it may read from disk, which a run must not replace."""
        return tuple(Path(each) for each in (self.source, self.tokenizer) if each)


@dataclasses.dataclass(frozen=True)
class Beginning:
    """An `Origin` that was looked up, before anything heavy is imported.

    Attributes:
        family: of the model.
        config: in force, but for what is found in the data: the vocabulary of a tokenizer that is trained, classes.
        length: tokens of the longest input to train on.
        tokenizer: the model's, or what to train one with.
        directory: where weights are loaded from; None for fresh ones.
        neighbour_blocks: of fresh ones, how many blocks begin by looking at neighbours.
    """

    family: Family
    config: Any
    length: int
    tokenizer: Tokenizer | TokenizerTraining
    directory: Path | None
    neighbour_blocks: int

    def make(self, task: str, dtype: str, tokenizer: Tokenizer, **overrides: Any) -> Any:
        """The model for `task`, with its tokenizer, and with the settings in force and `overrides`."""
        import zoo

        if self.directory is not None:
            changes = changed_fields(self.config, self.directory)
            return zoo.load(self.directory, task=task, dtype=dtype, **changes, **overrides)
        if isinstance(self.tokenizer, TokenizerTraining):
            overrides["vocabulary_size"] = tokenizer.vocabulary_size
        config = self.config.replace(**overrides)
        model = self.family.model_class(task)(config, task=task, dtype=dtype)
        model.build()
        if self.neighbour_blocks:
            from zoo.layers.neighbours import look_at_neighbours

            backbone: Any = getattr(model, "backbone", model)
            look_at_neighbours(backbone.position_embedding, backbone.transformer, self.neighbour_blocks)
        model.tokenizer = tokenizer
        return model


def changed_fields(config: Any, directory: Path) -> dict[str, Any]:
    """What of a configuration is not as it was saved in a model directory."""
    saved = read_saved(directory).config.to_dict()
    return {name: value for name, value in config.to_dict().items() if value != saved[name]}


def resized(config: Any, width: int | None, depth: int | None) -> dict[str, Any]:
    """What of a configuration is another by `--width`, with heads as wide as they were, and by `--depth`.

    Raises:
        UserError: heads of that width do not make up the width.
    """
    changes: dict[str, Any] = {}
    if width is not None:
        head = config.width // config.num_heads
        if width % head:
            raise UserError(f"--width is {width}, and must be a multiple of {head}, the width of a head")
        changes |= {"width": width, "num_heads": width // head}
    return changes if depth is None else {**changes, "depth": depth}


def look_up(origin: Origin, recipe: str, *tasks: str) -> Beginning:
    """Find the model that a run begins from.

    Args:
        origin: the settings.
        recipe: its name, for messages.
        *tasks: the model must be able to do one of them.

    Raises:
        UserError: the model or the tokenizer is not there, is damaged, or does none of the tasks.
    """
    config: Any
    directory = None if origin.source is None else find_model_directory(origin.source)
    if directory is None:
        family, config = find_preset(origin.preset)
    else:
        saved = read_saved(directory)
        family, config = saved.family, saved.config
    if not any(task in family.tasks for task in tasks):
        raise UserError(
            f"{recipe} trains a model to {' or '.join(tasks)}, and {origin.source or origin.preset} is a "
            f"{family.name} model"
        )
    if not hasattr(config, "max_length"):
        source = origin.source or origin.preset
        raise UserError(f"{recipe} trains a model of text, and {source} is a {family.name} model")
    overrides = resized(config, origin.width, origin.depth)
    length = origin.max_length or config.max_length
    if directory is None:
        overrides["max_length"] = length
    elif length > config.max_length:
        logger.warning(
            "%s reads at most %d tokens: --max-length %d is cut to that", directory, config.max_length, length
        )
        length = config.max_length
    if origin.dropout is not None:
        overrides |= {"dropout": origin.dropout, "attention_dropout": origin.dropout}
    tokenizer = _tokenizer(origin, directory)
    if isinstance(tokenizer, Tokenizer):
        if directory is None:
            overrides["vocabulary_size"] = tokenizer.vocabulary_size
        else:
            require_vocabulary(tokenizer, config, directory)
    return Beginning(
        family,
        config.replace(**overrides),
        length,
        tokenizer,
        None if origin.fresh else directory,
        origin.neighbour_blocks,
    )


def _tokenizer(origin: Origin, directory: Path | None) -> TokenizerTraining | Tokenizer:
    """What text is encoded with: the tokenizer of the model to go on from, a saved one, or one to be trained."""
    if directory is not None:
        return Tokenizer.load(directory)
    return find_tokenizer(origin.tokenizer, origin.vocabulary_size)


def find_tokenizer(tokenizer: str, vocabulary_size: int) -> TokenizerTraining | Tokenizer:
    """What `--tokenizer` and `--vocabulary-size` ask for; a UserError where there is no such."""
    if tokenizer in ("wordpiece", "bpe", "char"):
        return TokenizerTraining(tokenizer, vocabulary_size)  # type: ignore[arg-type]
    saved = Path(tokenizer)
    if not saved.is_dir():
        raise UserError(
            f"--tokenizer is {tokenizer!r}, and must be wordpiece, bpe, char, or the directory of a tokenizer"
        )
    return Tokenizer.load(saved)
