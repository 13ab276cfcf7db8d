"""GPT-2: decoder-only language models."""

from zoo.gpt.config import PRESETS, GPTConfig

__all__ = ["PRESETS", "GPTConfig"]
