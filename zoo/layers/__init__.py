"""The layers that every family is assembled from. They know no family."""

from zoo.layers.attention import MultiHeadAttention, empty_cache
from zoo.layers.dense import Dense, LowRankAdapter, dense
from zoo.layers.documents import positions_in_documents, same_document
from zoo.layers.dropout import Dropout
from zoo.layers.embeddings import (
    GridPositionEmbedding,
    PatchEmbedding,
    PositionEmbedding,
    SegmentEmbedding,
    TokenEmbedding,
    grid_interpolation,
)
from zoo.layers.feed_forward import ACTIVATIONS, FeedForward
from zoo.layers.pooling import TokenPooling, l2_normalize
from zoo.layers.transformer import TransformerBlock, TransformerStack

__all__ = [
    "ACTIVATIONS",
    "Dense",
    "Dropout",
    "FeedForward",
    "GridPositionEmbedding",
    "LowRankAdapter",
    "MultiHeadAttention",
    "PatchEmbedding",
    "PositionEmbedding",
    "SegmentEmbedding",
    "TokenEmbedding",
    "TokenPooling",
    "TransformerBlock",
    "TransformerStack",
    "dense",
    "empty_cache",
    "grid_interpolation",
    "l2_normalize",
    "positions_in_documents",
    "same_document",
]
