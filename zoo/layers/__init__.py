"""The layers that every family is assembled from. They know no family."""

from zoo.layers.attention import MultiHeadAttention, empty_cache
from zoo.layers.embeddings import PatchEmbedding, PositionEmbedding, SegmentEmbedding, TokenEmbedding
from zoo.layers.feed_forward import ACTIVATIONS, FeedForward
from zoo.layers.pooling import TokenPooling
from zoo.layers.transformer import TransformerBlock, TransformerStack

__all__ = [
    "ACTIVATIONS",
    "FeedForward",
    "MultiHeadAttention",
    "PatchEmbedding",
    "PositionEmbedding",
    "SegmentEmbedding",
    "TokenEmbedding",
    "TokenPooling",
    "TransformerBlock",
    "TransformerStack",
    "empty_cache",
]
