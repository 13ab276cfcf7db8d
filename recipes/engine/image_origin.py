"""What a run on images begins from: fresh weights of a named size, or a model that is there already."""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from recipes.engine.origin import changed_fields, resized
from zoo.directory import find_model_directory, load_preprocessing, read_saved
from zoo.errors import UserError
from zoo.registry import Family, find_preset

if TYPE_CHECKING:
    from zoo.image import Preprocessing

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class ImageOrigin:
    """The model that is trained, before it is."""

    source: Annotated[str | None, arg(name="from")] = None
    """Model to go on from, with its own preprocessing: a model directory, a run, a Hugging Face checkpoint, or
    hf:organisation/name. None begins with fresh weights."""
    fresh: bool = False
    """Take size and preprocessing of --from, and fresh weights: what its training was worth."""
    preset: str = "vit-micro"
    """Size of a fresh model; zoo list shows them."""
    width: int | None = None
    """Width of a fresh model, in heads as wide as the preset's; None for the preset's."""
    depth: int | None = None
    """Blocks of a fresh model; None for the preset's."""
    patch_size: int | None = None
    """Side of a patch in pixels, of a fresh model; None for the preset's."""
    image_size: int | None = None
    """Height and width of what the model sees, in pixels; positions are interpolated. None for the model's."""
    dropout: float | None = None
    """Rate of every dropout; None for the model's."""
    stochastic_depth: float | None = None
    """Rate at which the last block's parts are left out, and those before it less often; None for the model's."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}, and must be at least 1")
        if self.source is None and self.fresh:
            raise UserError("--fresh takes the size of a model: give one with --from")
        if self.source is not None:
            for name in ("preset", "width", "depth", "patch_size"):
                if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                    raise UserError(f"--from brings its own size: leave out --{name.replace('_', '-')}, or --from")

    @property
    def paths(self) -> tuple[Path, ...]:
        """What it may read from disk, which a run must not replace."""
        return () if self.source is None else (Path(self.source),)


@dataclasses.dataclass(frozen=True)
class ImageBeginning:
    """An `ImageOrigin` that was looked up, before anything heavy is imported.

    Attributes:
        family: of the model.
        config: in force, but for what is found in the data, such as classes.
        preprocessing: of its images, to the size that the model takes.
        directory: where weights are loaded from; None for fresh ones.
    """

    family: Family
    config: Any
    preprocessing: "Preprocessing"
    directory: Path | None

    def make(self, task: str, dtype: str, **overrides: Any) -> Any:
        """The model for `task`, with its preprocessing, and with the settings in force and `overrides`."""
        import zoo

        if self.directory is not None:
            changes = changed_fields(self.config, self.directory)
            model = zoo.load(self.directory, task=task, dtype=dtype, **changes, **overrides)
        else:
            model = self.family.model_class(task)(self.config.replace(**overrides), task=task, dtype=dtype)
            model.build()
        model.preprocessing = self.preprocessing
        return model


def look_up_image_model(origin: ImageOrigin, recipe: str, task: str) -> ImageBeginning:
    """Find the model that a run begins from.

    Args:
        origin: the settings.
        recipe: its name, for messages.
        task: what the model must be able to do.

    Raises:
        UserError: the model is not there, is damaged, is not for colour pictures, or does not do the task.
    """
    config: Any
    directory = None if origin.source is None else find_model_directory(origin.source)
    preprocessing: Preprocessing | None = None
    if directory is None:
        family, config = find_preset(origin.preset)
    else:
        saved = read_saved(directory)
        family, config = saved.family, saved.config
        preprocessing = load_preprocessing(saved)
    source = origin.source or origin.preset
    if not hasattr(config, "patch_size") or task not in family.tasks:
        raise UserError(f"{recipe} trains a model of images to {task}, and {source} is a {family.name} model")
    changes = resized(config, origin.width, origin.depth)
    if origin.patch_size is not None:
        changes["patch_size"] = origin.patch_size
    if origin.image_size is not None:
        changes["image_size"] = origin.image_size
    if origin.dropout is not None:
        changes |= {"dropout": origin.dropout, "attention_dropout": origin.dropout}
    if origin.stochastic_depth is not None:
        changes["stochastic_depth"] = origin.stochastic_depth
    config = config.replace(**changes)
    preprocessing = preprocessing or config.make_preprocessing()
    if preprocessing is None:
        raise UserError(f"{recipe} reads colour pictures, and {source} takes {config.channels} channels")
    if any(side % config.patch_size for side in config.image_size):
        logger.warning(
            "images of %d x %d pixels are no whole patches of %d: what is left over at the right and below is not seen",
            *config.image_size[::-1],
            config.patch_size,
        )
    if preprocessing.output_size != config.image_size:
        preprocessing = preprocessing.with_output_size(*config.image_size)
    return ImageBeginning(family, config, preprocessing, None if origin.fresh else directory)
