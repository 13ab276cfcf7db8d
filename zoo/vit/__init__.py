"""ViT: transformers over the patches of an image."""

from zoo.vit.config import PRESETS, ViTConfig

__all__ = ["PRESETS", "ViTConfig"]
