"""`zoo train RECIPE`: train a model on the user's data."""

import json
from typing import Any

from recipes.catalogue import RECIPES, Recipe
from recipes.command.parsing import parse
from zoo.config import nearest
from zoo.errors import UserError


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: zoo train RECIPE ...      (zoo train RECIPE --help lists its settings)\n")
        for name, recipe in RECIPES.items():
            print(f"  {name:16}{recipe.title}")
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in RECIPES:
        raise UserError(f"unknown recipe {name!r}{nearest(name, RECIPES)}")
    recipe = RECIPES[name]
    settings = _parse_length(recipe, rest, f"zoo train {name}")
    summary = recipe.train(settings)
    if settings.json:
        print(json.dumps(summary))
    else:
        for key, value in summary.items():
            print(
                f"{key.replace('_', ' ')}: {value:,.4f}"
                if isinstance(value, float)
                else f"{key.replace('_', ' ')}: {value}"
            )
    return 0


def _parse_length(recipe: Recipe, arguments: list[str], program: str) -> Any:
    """Parse, with the recipe's own number of epochs put aside where --steps says how long to train.

    Raises:
        UserError: --epochs says so too, or as `parse`.
    """
    named = {argument.partition("=")[0] for argument in arguments}
    if "--steps" not in named:
        return parse(recipe.settings, arguments, program, recipe.help)
    if "--epochs" not in named:
        return parse(recipe.settings, [*arguments, "--epochs", "None"], program, recipe.help)
    parsed: Any = parse(recipe.settings, arguments, program, recipe.help)
    if parsed.training.epochs is not None:
        raise UserError("--steps and --epochs both say how long to train: give one of them")
    return parsed
