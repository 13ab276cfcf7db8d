"""BERT: bidirectional encoders of text."""

from zoo.bert.config import PRESETS, BERTConfig

__all__ = ["PRESETS", "BERTConfig"]
