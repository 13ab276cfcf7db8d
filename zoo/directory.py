"""What a model directory holds besides weights, read without importing Keras: which model it is, and its config."""

import json
from pathlib import Path
from typing import Any

from zoo.config import Config
from zoo.errors import UserError
from zoo.registry import Family, find_family
from zoo.text import Tokenizer

FORMAT = 1
LARGEST_CONFIG = 1_000_000  # bytes; a config is a few hundred


def find_model_directory(source: str | Path) -> Path:
    """The model directory that `source` is, or holds as a run does; a UserError where there is none."""
    source = Path(source)
    for candidate in (source, source / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if not source.exists():
        raise UserError(f"{source}: there is no such directory")
    raise UserError(f"{source}: no model directory (it has no config.json) and no run that holds one in model/")


def read_config(directory: Path) -> tuple[Family, str, dict[str, Any]]:
    """Read `config.json`: the family, the task it was saved for, and the fields of its configuration, unchecked."""
    path = directory / "config.json"
    if path.stat().st_size > LARGEST_CONFIG:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes is too large for a configuration")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(record, dict) or "zoo" not in record:
        raise UserError(f"{path}: not a model of this zoo (it has no 'zoo' field)")
    unknown = set(record) - {"zoo", "family", "task", "config"}
    missing = {"zoo", "family", "task", "config"} - set(record)
    if unknown or missing:
        what = f"unknown field {min(unknown)!r:.80}" if unknown else f"the field {min(missing)!r} is missing"
        raise UserError(f"{path}: {what}")
    if record["zoo"] != FORMAT:
        raise UserError(f"{path}: format {record['zoo']!r:.80} is not {FORMAT}, the one that this version reads")
    try:
        family = find_family(record["family"])
        family.require_task(str(record["task"]))
        family.config_class.from_dict(record["config"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return family, record["task"], record["config"]


def require_vocabulary(tokenizer: Tokenizer, config: Any, where: str | Path) -> None:
    """Raise UserError where the tokenizer makes ids for which the model has no row."""
    if tokenizer.vocabulary_size > config.vocabulary_size:
        raise UserError(
            f"{where}: the tokenizer has {tokenizer.vocabulary_size:,} tokens, and the model's vocabulary_size is "
            f"{config.vocabulary_size:,}: use the tokenizer that the model was trained with"
        )


def write_config(directory: Path, family: str, task: str, config: Config) -> None:
    """Write `config.json`, which `read_config` reads."""
    record = {"zoo": FORMAT, "family": family, "task": task, "config": config.to_dict()}
    (directory / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
