"""`zoo list`: what there is."""

import dataclasses
import json
import operator
from typing import Any

from recipes.catalogue import RECIPES
from recipes.command.parsing import parse
from zoo.registry import FAMILIES, Family

TEXT: dict[str, str | tuple[str, ...]] = {  # heading -> the field of a config that it shows
    "width": "width",
    "depth": "depth",
    "heads": "num_heads",
    "context": "max_length",
    "vocabulary": "vocabulary_size",
}
COLUMNS: dict[str, dict[str, str | tuple[str, ...]]] = {
    "bert": TEXT,
    "gpt": TEXT,
    "vit": {"width": "width", "depth": "depth", "heads": "num_heads", "image": "image_size", "patch": "patch_size"},
    "clip": {
        "image tower": ("vision.width", "vision.depth"),
        "patch": "vision.patch_size",
        "text tower": ("text.width", "text.depth"),
        "context": "text.max_length",
        "embedding": "projection_width",
    },
}


@dataclasses.dataclass(frozen=True)
class List:
    """Families, their sizes with parameter counts and operations, tasks, and recipes."""

    json: bool = False
    """Print one JSON object instead of tables."""


def run(arguments: list[str]) -> int:
    settings = parse(List, arguments, "zoo list")
    recipes = {name: recipe.title for name, recipe in RECIPES.items()}
    if settings.json:
        print(json.dumps({"families": [_record(family) for family in FAMILIES.values()], "recipes": recipes}))
        return 0

    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for family in FAMILIES.values():
        console.print(f"[bold]{family.name}[/bold]: {family.title}\ntasks: {', '.join(family.tasks)}")
        console.print(f"parameters for {family.main_task}, FLOPs for one {family.unit}")
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("preset", no_wrap=True)
        for heading in ("parameters", "FLOPs", *COLUMNS[family.name]):
            table.add_column(heading, justify="right", no_wrap=True)
        for name, config in family.presets.items():
            shown = [_shown(config, fields) for fields in COLUMNS[family.name].values()]
            parameters = config.count_parameters(family.main_task)
            table.add_row(name, f"{parameters:,}", _with_prefix(config.count_flops()), *shown)
        console.print(table)
    console.print("[bold]recipes[/bold]")
    for name, title in recipes.items():
        console.print(f"  {name}: {title}")
    return 0


def _record(family: Family) -> dict[str, Any]:
    presets = {
        name: {
            "parameters": config.count_parameters(family.main_task),
            "flops": config.count_flops(),
            **config.to_dict(),
        }
        for name, config in family.presets.items()
    }
    return {
        "family": family.name,
        "title": family.title,
        "tasks": list(family.tasks),
        "parameters_of": family.main_task,
        "flops_per": family.unit,
        "presets": presets,
    }


def _shown(config: Any, fields: str | tuple[str, ...]) -> str:
    values = [operator.attrgetter(field)(config) for field in ([fields] if isinstance(fields, str) else fields)]
    return " x ".join(f"{size:,}" for value in values for size in (value if isinstance(value, tuple) else (value,)))


def _with_prefix(number: float) -> str:
    prefixes = iter(("", "k", "M", "G", "T"))
    prefix = next(prefixes)
    while number >= 1000:
        number, prefix = number / 1000, next(prefixes)
    return f"{number:.3g} {prefix}"
