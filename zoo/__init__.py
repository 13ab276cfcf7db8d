"""BERT, GPT-2, ViT and CLIP for Keras 3: create, load and save models, and run them.

Importing this package imports neither TensorFlow nor Keras; the first use of one of its verbs does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from zoo.errors import UserError

if TYPE_CHECKING:
    from zoo.generation import generate
    from zoo.presets import create, load, save

__all__ = ["UserError", "create", "generate", "load", "save"]


def __getattr__(name: str) -> Any:
    if name in ("create", "load", "save"):
        from zoo import presets

        return getattr(presets, name)
    if name == "generate":
        from zoo.generation import generate

        return generate
    if name in ("lora", "objectives", "optimizers"):
        return importlib.import_module(f"zoo.{name}")
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")
