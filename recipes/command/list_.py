"""`zoo list`: what there is."""

import dataclasses
import json
from typing import Any

from recipes.catalogue import RECIPES
from recipes.command.parsing import parse
from zoo.registry import FAMILIES


@dataclasses.dataclass(frozen=True)
class List:
    """Families, their sizes with parameter counts, tasks, and recipes."""

    json: bool = False
    """Print one JSON object instead of tables."""


def run(arguments: list[str]) -> int:
    settings = parse(List, arguments, "zoo list")
    families: list[dict[str, Any]] = [
        {
            "family": family.name,
            "title": family.title,
            "tasks": list(family.tasks),
            "presets": {
                name: {"parameters": config.parameter_count, **config.to_dict()}
                for name, config in family.presets.items()
            },
        }
        for family in FAMILIES.values()
    ]
    if settings.json:
        print(json.dumps({"families": families, "recipes": {name: recipe.title for name, recipe in RECIPES.items()}}))
        return 0

    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for family in families:
        console.print(f"[bold]{family['family']}[/bold]: {family['title']}\ntasks: {', '.join(family['tasks'])}")
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        shown = {"parameters": "parameters", "width": "width", "depth": "depth", "num_heads": "heads"}
        shown |= {"max_length": "context", "vocabulary_size": "vocabulary"}
        table.add_column("preset", no_wrap=True)
        for heading in shown.values():
            table.add_column(heading, justify="right", no_wrap=True)
        for name, preset in family["presets"].items():
            table.add_row(name, *(f"{preset[field]:,}" for field in shown))
        console.print(table)
    console.print("[bold]recipes[/bold]")
    for name, recipe in RECIPES.items():
        console.print(f"  {name}: {recipe.title}")
    return 0
