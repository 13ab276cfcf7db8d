"""Hugging Face's model directories: what their `config.json` says, and one of ours written so that they can read it."""

import importlib
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from zoo.checkpoint import Layout
from zoo.config import Config
from zoo.errors import UserError
from zoo.files import read_json, write_json
from zoo.registry import FAMILIES, Family

MARK = "tf_model_zoo"  # the field of their config.json in which ours keeps what theirs has no place for
POOLING_FILE = "1_Pooling/config.json"
SENTENCE_LENGTH = "sentence_bert_config.json"
# sentence-transformers' names of the ways to pool, and ours.
POOLINGS = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
SENTENCE_MODULES = "sentence_transformers.models"
MOST_LABELS = 1_000_000


def find_layout(family: str) -> Layout:
    """The table of a family."""
    return importlib.import_module(f"zoo.{family}.checkpoint").LAYOUT


def find_family_of(record: dict[str, Any]) -> tuple[Family, Layout]:
    """The family whose `model_type` a config of theirs has.

    Raises:
        UserError: none has it.
    """
    layouts = {name: find_layout(name) for name in FAMILIES}
    for name, layout in layouts.items():
        if record["model_type"] == layout.model_type:
            return FAMILIES[name], layout
    known = ", ".join(layout.model_type for layout in layouts.values())
    raise UserError(f"model_type is {record['model_type']!r:.80}, and must be one of {known}")


def read_settings(
    directory: Path, record: dict[str, Any], names: Iterable[str]
) -> tuple[Family, str | None, Config, tuple[str, ...] | None]:
    """Understand a `config.json` of theirs.

    Args:
        directory: where it lies.
        record: its content.
        names: the checkpoint's tensors.

    Returns:
        The family; the task, None where the checkpoint is of a kind that ours has no task for; the configuration; and
        the names of the classes, None where they have none.

    Raises:
        UserError: it is of no family, or has a setting that the family does not.
    """
    family, layout = find_family_of(record)
    _merge_old_towers(record)
    for name, allowed in layout.fixed.items():
        if name in record and record[name] not in (*allowed, None):
            raise UserError(f"{name} is {record[name]!r:.80}, and must be {' or '.join(map(repr, allowed))}")
    values: dict[str, Any] = {}
    for field in layout.fields:
        found = [value for value in (_get(record, name) for name in field.theirs) if value is not _ABSENT]
        if found or field.default is not None:
            value = found[0] if found else field.default
            # Sizes may be written for each side of a square.
            square = isinstance(value, list) and value and all(each == value[0] for each in value)
            _put(values, field.ours, field.read(value[0] if square else value))
    labels = None
    if hasattr(family.config_class, "num_classes"):
        labels, values["num_classes"] = _read_labels(record)
    if hasattr(family.config_class, "pooler"):
        canonical = {layout.canonical(name) for name in names}
        values["pooler"] = f"{layout.prefix}pooler.dense.weight" in canonical
    task, extra = _read_mark(record, family, layout)
    if task is None and (directory / "modules.json").is_file() and "embed" in family.tasks:
        task, extra = "embed", _read_sentence_modules(directory)
    for name, value in extra.items():
        _put(values, name, value)
    if task is None:
        names_given = record.get("architectures")
        first = names_given[0] if isinstance(names_given, list) and names_given else None
        task = layout.architectures.get(first) if isinstance(first, str) else family.main_task
    return family, task, family.config_class().replace(**values), labels


def write_settings(directory: Path, model: Any) -> None:
    """Write `config.json`, and where the model embeds texts what sentence-transformers reads.

    Raises:
        UserError: theirs cannot express the model's configuration.
    """
    layout, config = find_layout(model.family), model.config.to_dict()
    for name, value in layout.fixed_ours.items():
        if _get(config, name) != value:
            raise UserError(
                f"{name} is {_get(config, name)!r}, and Hugging Face's layout has {value!r} alone: save it with layout "
                "'zoo'"
            )
    if layout.square_images and len(set(model.config.image_size)) > 1:
        raise UserError(
            f"images are {' x '.join(map(str, model.config.image_size))}, and Hugging Face's layout has square ones "
            "alone: save it with layout 'zoo'"
        )
    their_class = architecture(FAMILIES[model.family], layout, model.task)
    record: dict[str, Any] = {
        "architectures": [their_class],
        "model_type": layout.model_type,
        "dtype": "float32",
    }
    for field in layout.fields:
        value = _get(config, field.ours)
        if value is None and field.default is not None:  # theirs has no word for four times the width
            value = operator.attrgetter(field.ours.replace("mlp_width", "inner_width"))(model.config)
        for name in field.theirs:
            _put(record, name, field.write(value))
    known = {field.ours for field in layout.fields} | {"vision.pooler"}
    if model.task not in (
        "backbone",
        "embed",
    ):  # whose class of theirs has a pooler, and a blank one where ours has none
        known.add("pooler")
    if their_class.endswith("Classification"):  # any other head of theirs would take the number of labels for its own
        known.add("num_classes")
        labels = model.labels or [f"LABEL_{i}" for i in range(config["num_classes"])]
        record["id2label"] = {str(i): label for i, label in enumerate(labels)}
        record["label2id"] = {label: i for i, label in enumerate(labels)}
    for token, number in _token_ids(model).items():
        _put(record, token, number)
    defaults = _leaves(type(model.config)().to_dict())
    extra = {name: value for name, value in _leaves(config).items() if name not in known and value != defaults[name]}
    record[MARK] = {"task": model.task, "config": extra}
    write_json(directory / "config.json", record)
    if model.task == "embed" and model.tokenizer is not None:
        _write_sentence_modules(directory, config, reading_length(model.tokenizer, model.config))


def architecture(family: Family, layout: Layout, task: str) -> str:
    """Their class for a task of ours: a backbone where it only pools what that gives, the family's main one for
    pretraining that has none of its own."""
    names = {ours: theirs for theirs, ours in reversed(layout.architectures.items())}
    return names.get(task) or names["backbone" if task == "embed" else family.main_task]


_ABSENT = object()


def _get(values: Any, name: str) -> Any:
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            return _ABSENT
        values = values[part]
    return values


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *path, last = name.split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise UserError(f"{name} has no place: {part} is no object")
    values[last] = value


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


def _merge_old_towers(record: dict[str, Any]) -> None:
    """Old configs of CLIP say in `text_config_dict` what differs from the defaults, and mean it, whatever
    `text_config` says beside it."""
    for name in ("text_config", "vision_config"):
        if isinstance(record.get(f"{name}_dict"), dict):
            record[name] = record[f"{name}_dict"]


def _read_labels(record: dict[str, Any]) -> tuple[tuple[str, ...] | None, int]:
    names = record.get("id2label")
    if names is None:
        number = record.get("num_labels", 2)
        return None, number
    if not isinstance(names, dict) or len(names) > MOST_LABELS:
        raise UserError("id2label is no object, or far too long")
    labels = tuple(names.get(str(i)) for i in range(len(names)))
    for i, label in enumerate(labels):
        if not isinstance(label, str) or label.splitlines() not in ([label], []):
            raise UserError(f"id2label has no name of one line for class {i}")
    if all(label == f"LABEL_{i}" for i, label in enumerate(labels)):
        return None, len(labels)
    return labels, len(labels)  # type: ignore[return-value]


def _read_mark(record: dict[str, Any], family: Family, layout: Layout) -> tuple[str | None, dict[str, Any]]:
    """The task and the settings that ours left in a config of theirs. Theirs carries them along when it has trained the
    model further, as whatever it has become: then its class is another, and they hold no more."""
    mark = record.get(MARK, {})
    if not isinstance(mark, dict) or not isinstance(mark.get("config", {}), dict):
        raise UserError(f"{MARK} is no object with a config")
    task = mark.get("task")
    if task is None:
        return None, {}
    if not isinstance(task, str) or task not in family.tasks:
        raise UserError(f"{MARK}: {family.name} has no task {task!r:.80}")
    if record.get("architectures") != [architecture(family, layout, task)]:
        return None, {}
    return task, mark.get("config", {})


def _read_sentence_modules(directory: Path) -> dict[str, Any]:
    """How a sentence-transformers model makes one vector of many."""
    modules = read_json(directory / "modules.json")
    listed = [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    kinds = [str(each.get("type")).rpartition(".")[2] for each in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UserError(
            f"modules.json lists {', '.join(kinds)!r:.80}: only Transformer, Pooling, Normalize are supported"
        )
    pooling = read_json(directory / POOLING_FILE)
    modes = [ours for theirs, ours in POOLINGS.items() if isinstance(pooling, dict) and pooling.get(theirs) is True]
    if len(modes) != 1 or sum(value is True for name, value in pooling.items() if name.startswith("pooling_mode")) != 1:
        raise UserError(f"{POOLING_FILE} asks for another pooling than one of {', '.join(POOLINGS)}")
    return {"pooling": modes[0], "normalize": kinds[2:] == ["Normalize"]}


def read_sentence_length(directory: Path) -> int | None:
    """The most tokens that a sentence-transformers model reads; None where it does not say."""
    path = directory / SENTENCE_LENGTH
    length = read_json(path) if path.is_file() else None
    length = length.get("max_seq_length") if isinstance(length, dict) else None
    return length if type(length) is int and length > 0 else None


def reading_length(tokenizer: Any, config: Any) -> int:
    """The most tokens of a text that a model reads: those that it has positions for, or what its tokenizer says."""
    return min(config.max_length, tokenizer.max_length or config.max_length)


def _write_sentence_modules(directory: Path, config: dict[str, Any], length: int) -> None:
    kinds = ["Transformer", "Pooling"] + (["Normalize"] if config["normalize"] else [])
    paths = ["", "1_Pooling", "2_Normalize"]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"{SENTENCE_MODULES}.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=False))
    ]
    write_json(directory / "modules.json", modules)
    pooling: dict[str, Any] = {"word_embedding_dimension": config["width"]}
    pooling |= {theirs: ours == config["pooling"] for theirs, ours in POOLINGS.items()}
    write_json(directory / SENTENCE_LENGTH, {"max_seq_length": length, "do_lower_case": False})
    (directory / "1_Pooling").mkdir()
    write_json(directory / POOLING_FILE, pooling)


def _token_ids(model: Any) -> dict[str, Any]:
    """The special tokens that their models and their generation look up in the config, by name."""
    ids = {} if model.tokenizer is None else dict(model.tokenizer.special_ids)
    if model.family == "gpt":
        # Their classifier finds the last real token of a padded text by the one for padding.
        pad = {"pad_token_id": ids.get("pad", ids.get("end"))} if model.task == "classify" else {}
        return {"bos_token_id": ids.get("end"), "eos_token_id": ids.get("end"), **pad}
    if model.family == "bert" and "pad" in ids:
        return {"pad_token_id": ids["pad"]}
    if model.family == "clip" and ids:
        start = ids.get("start", ids.get("cls"))  # a WordPiece tokenizer's
        return {"text_config.bos_token_id": start, "text_config.pad_token_id": ids["pad"]}
    return {}
