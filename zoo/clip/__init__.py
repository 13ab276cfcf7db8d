"""CLIP: an image tower and a text tower that meet in one space."""

from zoo.clip.config import PRESETS, CLIPConfig

__all__ = ["PRESETS", "CLIPConfig"]
