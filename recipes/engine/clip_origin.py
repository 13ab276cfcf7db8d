"""What a run of CLIP begins from: a CLIP that is there already, or fresh weights, or towers that were trained apart."""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from recipes.data.packing import TokenizerTraining
from recipes.engine.origin import changed_fields
from zoo.directory import Saved, find_model_directory, load_preprocessing, read_saved, require_vocabulary
from zoo.errors import UserError
from zoo.registry import find_preset
from zoo.text import Tokenizer
from zoo.text.inputs import find_template

if TYPE_CHECKING:
    from zoo.image import Preprocessing

logger = logging.getLogger("zoo")

TOKENIZERS = ("clip", "wordpiece")  # those that are trained, and end a text
TOWERS = {"image": "vision", "text": "text"}  # as the options call them, and as the model does
FAMILIES = {"image_from": ("vit",), "text_from": ("gpt", "bert")}  # that a tower may be of


@dataclasses.dataclass(frozen=True)
class CLIPOrigin:
    """The model that is trained, before it is."""

    source: Annotated[str | None, arg(name="from")] = None
    """CLIP to go on from, with its own tokenizer and preprocessing: a model directory, a run, a Hugging Face
    checkpoint, or hf:organisation/name. None begins with fresh weights."""
    preset: str = "clip-micro"
    """Size of a fresh model; zoo list shows them."""
    image_from: str | None = None
    """Trained ViT to begin the image tower with, which brings its size and its preprocessing."""
    text_from: str | None = None
    """Trained GPT or BERT to begin the text tower with, which brings its size and its tokenizer."""
    lock: tuple[Literal["image", "text"], ...] = ()
    """Towers to leave as they were trained, without dropout: the other one learns to meet them (LiT)."""
    image_size: int | None = None
    """Height and width of what the model sees, in pixels; positions are interpolated. None for the model's."""
    tokenizer: str = "clip"
    """clip or wordpiece, trained on the captions; or the directory of a model or a tokenizer."""
    vocabulary_size: int = 4096
    """Tokens of a tokenizer that is trained."""
    max_length: int | None = None
    """Longest caption in tokens, and of a fresh text tower the longest that it can read; None for the model's."""
    projection_width: int | None = None
    """Width of the embeddings of a fresh model; None for the preset's."""
    loss: Literal["softmax", "sigmoid"] | None = None
    """Each caption among all of the batch, or each pair by itself, right or wrong; None for the model's, at first
    softmax."""
    temperature: float | None = None
    """What cosines are divided by at first; it is learned. None for 0.07 (softmax) or 0.1 (sigmoid)."""
    dropout: float | None = None
    """Rate of every dropout; None for the model's."""
    stochastic_depth: float | None = None
    """Rate at which the image tower's last block's parts are left out, and those before it less often; None for the
    model's."""

    def __post_init__(self) -> None:
        for name in ("image_size", "max_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}, and must be at least 1")
        if self.source is not None:
            self._refuse(
                "--from brings its own model and tokenizer",
                *("preset", "image_from", "text_from", "tokenizer", "vocabulary_size"),
                *("projection_width", "temperature"),
            )
        if self.text_from is not None:
            self._refuse("--text-from brings its own tokenizer", "tokenizer", "vocabulary_size")
        for tower in self.lock:
            if self.source is None and getattr(self, f"{tower}_from") is None:
                raise UserError(
                    f"--lock {tower} leaves fresh weights as they are: give a trained tower with --{tower}-from, or a "
                    "CLIP with --from"
                )

    def _refuse(self, reason: str, *names: str) -> None:
        for name in names:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"{reason}: leave out --{name.replace('_', '-')}, or {reason.split()[0]}")

    @property
    def paths(self) -> tuple[Path, ...]:
        """What it may read from disk, which a run must not replace."""
        tokenizer = None if self.tokenizer in TOKENIZERS else self.tokenizer
        sources = (self.source, self.image_from, self.text_from, tokenizer)
        return tuple(Path(each) for each in sources if each)


@dataclasses.dataclass(frozen=True)
class CLIPBeginning:
    """A `CLIPOrigin` that was looked up, before anything heavy is imported.

    Attributes:
        config: in force, but for what hangs on a tokenizer that is still to be trained.
        length: tokens of the longest caption to train on.
        tokenizer: the model's, or what to train one with.
        preprocessing: of its images.
        directory: where weights are loaded from; None for fresh ones.
        towers: by the model's name of a tower, the directory of the model that it begins as.
        locked: the model's names of the towers that stay as they are.
    """

    config: Any
    length: int
    tokenizer: Tokenizer | TokenizerTraining
    preprocessing: "Preprocessing"
    directory: Path | None
    towers: dict[str, Path]
    locked: tuple[str, ...]

    def make(self, dtype: str, tokenizer: Tokenizer) -> Any:
        """The model, with its tokenizer and preprocessing; of locked towers nothing is trained."""
        import zoo
        from zoo.clip.model import CLIPDualEncoder
        from zoo.optimizers import freeze

        if self.directory is not None:
            model: Any = zoo.load(self.directory, "contrast", dtype, **changed_fields(self.config, self.directory))
        else:
            fields = fields_for(tokenizer) if isinstance(self.tokenizer, TokenizerTraining) else {}
            model = CLIPDualEncoder(self.config.replace(**fields), task="contrast", dtype=dtype)
            model.build()
            model.tokenizer = tokenizer
            for tower, directory in self.towers.items():
                self._fill(model, tower, directory)
        model.preprocessing = self.preprocessing
        freeze(model, [f"{tower}.*" for tower in self.locked])
        return model

    def _fill(self, model: Any, tower: str, directory: Path) -> None:
        """Give a tower the weights of a backbone."""
        import zoo

        resized = {"image_size": self.config.image_size} if tower == "vision" else {}
        trained = zoo.load(directory, "backbone", **resized).named_weights()
        for name, weight in model.named_weights().items():
            if name.startswith(f"{tower}."):
                weight.assign(trained[f"backbone.{name.removeprefix(f'{tower}.')}"])


def fields_for(tokenizer: Tokenizer) -> dict[str, Any]:
    """What of a fresh CLIP's configuration follows from its tokenizer. A text is pooled at the token that ends it;
    where the tokenizer puts none, at its last one."""
    after = find_template(tokenizer.specification).after
    return {
        "text": {"vocabulary_size": tokenizer.vocabulary_size},
        "text_pooling": "end" if after else "last",
        "end_token": after[0] if after else None,
    }


def look_up_clip(origin: CLIPOrigin) -> CLIPBeginning:
    """Find the model, or the towers, that a run begins from.

    Raises:
        UserError: one is not there, is damaged, or is of another family; or settings do not fit each other.
    """
    config: Any
    directory = None if origin.source is None else find_model_directory(origin.source)
    sources: dict[str, Saved] = {}
    saved = None if directory is None else read_saved(directory)
    family, config = find_preset(origin.preset) if saved is None else (saved.family, saved.config)
    if family.name != "clip":
        raise UserError(f"clip-pretrain trains CLIP, and {origin.source or origin.preset} is a {family.name} model")
    towers: dict[str, Any] = {"vision": config.vision, "text": config.text}
    for option, tower in (("image_from", "vision"), ("text_from", "text")):
        if (source := getattr(origin, option)) is not None:
            sources[tower] = _read_tower(option, source)
            towers[tower] = _as_tower(sources[tower].config)
    tokenizer = _tokenizer(origin, directory, sources.get("text"))
    changes: dict[str, Any] = {}
    if directory is None and isinstance(tokenizer, Tokenizer):
        changes = fields_for(tokenizer)
        vocabulary = changes.pop("text")
        if "text" in sources and sources["text"].family.name == "bert":
            # A model of embeddings was trained to mean something by what it pools; any other, if at all, by its first.
            text: Any = sources["text"]
            changes["text_pooling"] = text.config.pooling if text.task == "embed" else "first"
        if "text" not in sources:
            towers["text"] = towers["text"].replace(**vocabulary)
    named = {
        "projection_width": origin.projection_width,
        "loss": origin.loss,
        "initial_temperature": origin.temperature,
    }
    changes |= {name: value for name, value in named.items() if value is not None}
    if directory is None and "text" not in sources and origin.max_length is not None:
        towers["text"] = towers["text"].replace(max_length=origin.max_length)
    if origin.image_size is not None:
        towers["vision"] = towers["vision"].replace(image_size=origin.image_size)
    towers = {name: tower.replace(**_rates(origin, name)) for name, tower in towers.items()}
    config = config.replace(**changes, **towers)
    if isinstance(tokenizer, Tokenizer):
        require_vocabulary(tokenizer, config, origin.source or origin.text_from or origin.tokenizer)
    length = origin.max_length or config.max_length
    if length > config.max_length:
        what = "the text tower reads at most %d tokens: --max-length %d is cut to that"
        logger.warning(what, config.max_length, length)
        length = config.max_length
    return CLIPBeginning(
        config,
        length,
        tokenizer,
        _preprocessing(config, saved or sources.get("vision")),
        directory,
        {tower: each.directory for tower, each in sources.items()},
        tuple(TOWERS[tower] for tower in origin.lock),
    )


def _rates(origin: CLIPOrigin, tower: str) -> dict[str, float]:
    """At which a tower drops out what, where it is not as it was."""
    is_locked = tower in [TOWERS[each] for each in origin.lock]
    rates: dict[str, float | None] = {"dropout": origin.dropout, "attention_dropout": origin.dropout}
    if tower == "vision":
        rates["stochastic_depth"] = origin.stochastic_depth
    if is_locked:
        rates = dict.fromkeys(rates, 0.0)
    return {name: rate for name, rate in rates.items() if rate is not None}


def _read_tower(option: str, source: str) -> Saved:
    saved = read_saved(find_model_directory(source))
    if saved.family.name not in FAMILIES[option]:
        tower, families = option.removesuffix("_from"), " or a ".join(FAMILIES[option])
        raise UserError(
            f"--{tower}-from is {source}, a {saved.family.name} model, and the {tower} tower of CLIP is a {families}"
        )
    return saved


def _as_tower(config: Any) -> Any:
    """The configuration of a trained model without what is of its task."""
    fields = {field.name: field.default for field in dataclasses.fields(config)}
    of_task = {name: fields[name] for name in ("num_classes", "pooling", "normalize") if name in fields}
    return config.replace(**of_task, **({"pooler": False} if "pooler" in fields else {}))


def _tokenizer(origin: CLIPOrigin, directory: Path | None, text: Saved | None) -> Tokenizer | TokenizerTraining:
    if directory is not None or text is not None:
        return Tokenizer.load(directory if text is None else text.directory)  # type: ignore[arg-type]
    if origin.tokenizer in TOKENIZERS:
        return TokenizerTraining(origin.tokenizer, origin.vocabulary_size)  # type: ignore[arg-type]
    if not Path(origin.tokenizer).is_dir():
        known = ", ".join(TOKENIZERS)
        raise UserError(f"--tokenizer is {origin.tokenizer!r}, and must be {known}, or the directory of a tokenizer")
    return Tokenizer.load(Path(origin.tokenizer))


def _preprocessing(config: Any, saved: Saved | None) -> "Preprocessing":
    """As the image tower was trained with, or as CLIP has it."""
    preprocessing: Preprocessing | None = None if saved is None else load_preprocessing(saved)
    if preprocessing is None:
        preprocessing = (config if saved is None or saved.family.name == "clip" else config.vision).make_preprocessing()
    if preprocessing is None:
        channels = config.vision.channels
        raise UserError(f"clip-pretrain reads colour pictures, and the image tower takes {channels} channels")
    if preprocessing.output_size != config.image_size:
        preprocessing = preprocessing.with_output_size(*config.image_size)
    return preprocessing
