"""What a model directory holds besides weights, read without importing Keras: which model it is, and its config."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.checkpoint import Layout
from zoo.config import Config
from zoo.errors import UserError
from zoo.files import read_json, write_json
from zoo.hub import PREFIX, fetch
from zoo.huggingface import find_layout, read_settings
from zoo.registry import Family, find_family
from zoo.tensors import find_tensors, open_tensors
from zoo.text import Tokenizer

if TYPE_CHECKING:
    from zoo.image import Preprocessing

FORMAT = 1
LABELS = "labels.txt"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A model as it was saved.

    Attributes:
        directory: where.
        family: which.
        task: what for; None for a Hugging Face checkpoint of a kind that the family has no task for.
        config: its configuration.
        layout: the table of a Hugging Face checkpoint; None for the zoo's own.
        labels: the names of the classes; None where they have none.
    """

    directory: Path
    family: Family
    task: str | None
    config: Config
    layout: Layout | None
    labels: tuple[str, ...] | None


def find_model_directory(source: str | Path) -> Path:
    """The model directory that `source` is, or that it holds as a run does, or that is fetched for the name of one on
    the hub, `hf:organisation/name[@revision]`; a UserError where there is none."""
    if str(source).startswith(PREFIX):
        source = fetch(str(source))
    source = Path(source)
    for candidate in (source, source / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if not source.exists():
        raise UserError(f"{source}: there is no such directory")
    raise UserError(f"{source}: no model directory (it has no config.json) and no run that holds one in model/")


def read_saved(directory: Path) -> Saved:
    """Read what a model directory says of its model, in the zoo's layout or in Hugging Face's.

    Raises:
        UserError: it is neither, or says what cannot be.
    """
    path = directory / "config.json"
    record = read_json(path)
    try:
        if isinstance(record, dict) and "zoo" in record:
            return _read_zoo(directory, record)
        if isinstance(record, dict) and "model_type" in record:
            return _read_hugging_face(directory, record)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(str(directory)) else f"{path}: {error}") from None
    what = "Keras's own, which is not read here" if isinstance(record, dict) and "class_name" in record else "neither"
    raise UserError(
        f"{path}: not a model of this zoo (it has no 'zoo' field), nor Hugging Face's ('model_type'): {what}"
    )


def _read_zoo(directory: Path, record: dict[str, Any]) -> Saved:
    unknown = set(record) - {"zoo", "family", "task", "config"}
    missing = {"zoo", "family", "task", "config"} - set(record)
    if unknown or missing:
        raise UserError(f"unknown field {min(unknown)!r:.80}" if unknown else f"the field {min(missing)!r} is missing")
    if record["zoo"] != FORMAT:
        raise UserError(f"format {record['zoo']!r:.80} is not {FORMAT}, the one that this version reads")
    family = find_family(record["family"])
    family.require_task(str(record["task"]))
    config = family.config_class.from_dict(record["config"])
    return Saved(directory, family, record["task"], config, None, _read_labels(directory, config))


def _read_hugging_face(directory: Path, record: dict[str, Any]) -> Saved:
    with open_tensors(find_tensors(directory, record)) as tensors:
        names = list(tensors)
    family, task, config, labels = read_settings(directory, record, names)
    return Saved(directory, family, task, config, find_layout(family.name), labels)


def _read_labels(directory: Path, config: Any) -> tuple[str, ...] | None:
    path = directory / LABELS
    if not path.exists():
        return None
    try:
        labels = tuple(path.read_bytes().decode().split("\n")[:-1])
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    classes = getattr(config, "num_classes", 0)
    if len(labels) != classes:
        raise UserError(f"{path}: {len(labels)} names for {classes} classes: one is needed on each line")
    return labels


def load_preprocessing(saved: Saved) -> "Preprocessing | None":
    """What the images of a saved model go through, as far as its directory says it; a UserError where that is wrong."""
    from zoo.image import Preprocessing

    if not hasattr(saved.config, "image_size"):
        return None
    if saved.layout is not None:
        return Preprocessing.load_huggingface(saved.directory, saved.family.name)
    return Preprocessing.load(saved.directory) if Preprocessing.is_saved_in(saved.directory) else None


def require_vocabulary(tokenizer: Tokenizer, config: Any, where: str | Path) -> None:
    """Raise UserError where the tokenizer makes ids for which the model has no row."""
    if tokenizer.vocabulary_size > config.vocabulary_size:
        raise UserError(
            f"{where}: the tokenizer has {tokenizer.vocabulary_size:,} tokens, and the model's vocabulary_size is "
            f"{config.vocabulary_size:,}: use the tokenizer that the model was trained with"
        )
    if getattr(config, "text_pooling", None) == "end":
        # A text that lacks the token would be read at its first one, as would all others.
        ids = tokenizer.prepare(["a"], max_length=config.max_length)["token_ids"][0]
        if (int(ids.argmax()) != len(ids) - 1) if config.end_token is None else (config.end_token not in ids):
            raise UserError(
                f"{where}: the tokenizer ends a text with {ids[-1]}, and the model's end_token is "
                f"{'the highest id' if config.end_token is None else config.end_token}: use the model's own tokenizer"
            )


def require_labels(labels: Sequence[str] | None, config: Any) -> None:
    """Raise UserError where the names of the classes are too many or too few, or one has more than one line."""
    if labels is None:
        return
    classes = getattr(config, "num_classes", 0)
    if len(labels) != classes:
        raise UserError(f"there are {len(labels)} labels for {classes} classes: give one for each")
    for label in labels:
        if not isinstance(label, str) or label.splitlines() not in ([label], []):
            raise UserError(f"the label {label!r:.80} is no text of one line")


def write_config(directory: Path, family: str, task: str, config: Config) -> None:
    """Write `config.json`, which `read_saved` reads."""
    write_json(directory / "config.json", {"zoo": FORMAT, "family": family, "task": task, "config": config.to_dict()})


def write_labels(directory: Path, labels: tuple[str, ...] | None) -> None:
    """Write `labels.txt`, one name a line, where there are any."""
    if labels is not None:
        (directory / LABELS).write_bytes("".join(f"{label}\n" for label in labels).encode())
