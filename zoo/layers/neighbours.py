"""Fresh weights with which attention looks at neighbouring tokens, where it would else have to find out that there are
any."""

import numpy as np
from keras import ops

from zoo.layers.embeddings import PositionEmbedding
from zoo.layers.transformer import TransformerStack

# Turns by the golden ratio fill the circle evenly, however many are taken, and never come round again.
_GOLDEN = (5**0.5 - 1) / 2
POSITION_SHARE = 0.7  # of the variance of positions and tokens; a table of segments beside them makes it 0.54
PEAK = 8.0  # the score of the neighbour over that of any other token; with segments 5.4


def look_at_neighbours(positions: PositionEmbedding, stack: TransformerStack, blocks: int) -> None:
    """Set the table of positions, and the queries and keys of the first blocks, so that each head looks at one
    neighbour.

    Positions are sines and cosines, of which any offset is a rotation (Vaswani et al. 2017, section 3.5): keys are made
    to hold the position, and queries the position rotated by the head's offset. Values, outputs and all else stay as
    they are drawn, and all of it is trained as ever: it is a place to begin from (as in Trockman and Kolter 2023,
    "Mimetic initialization of self-attention layers"), and changes no formula. Drawn at random, the heads of a small
    model look nowhere for thousands of updates, in which BERT learns how frequent words are and nothing else.

    Causal heads look 1, 2, 3, ... tokens back, others 1 back, 1 ahead, 2 back, and so on, from block to block.

    Args:
        positions: built; what is added to the tokens' vectors.
        stack: built; self attention.
        blocks: how many of its blocks, from the first.
    """
    rows, width = positions.table.shape
    half = width // 2
    angles = np.pi * (np.arange(1, half + 1) * _GOLDEN % 1.0)  # radians a token
    turned = np.arange(rows)[:, None] * angles
    table = np.zeros((rows, width), "float32")
    table[:, :half], table[:, half : 2 * half] = np.sin(turned), np.cos(turned)
    # The table of tokens, and of segments, has the same deviation as this one had.
    ratio = (POSITION_SHARE / (1.0 - POSITION_SHARE)) ** 0.5
    positions.table.assign(table * (2.0**0.5 * ratio * positions.stddev))
    for number, block in enumerate(stack.blocks[:blocks]):
        attention = block.attention
        kernel = np.array(ops.convert_to_numpy(attention.qkv.kernel))  # (width, 3 * width)
        pairs = attention.head_dim // 2
        scale = (PEAK / (POSITION_SHARE * attention.head_dim**0.5)) ** 0.5
        for head in range(attention.num_heads):
            place = number * attention.num_heads + head
            offset = -(place + 1) if attention.causal else (-1) ** (place + 1) * (place // 2 + 1)
            chosen = (head * pairs + np.arange(pairs)) % half  # which sines; their cosines stand `half` further on
            query = head * attention.head_dim + np.arange(pairs)
            key = query + width
            cosine, sine = np.cos(angles[chosen] * offset), np.sin(angles[chosen] * offset)
            # sin(a + b) = sin a cos b + cos a sin b, and cos(a + b) = cos a cos b - sin a sin b
            kernel[chosen, query] += scale * cosine
            kernel[chosen + half, query] += scale * sine
            kernel[chosen, query + pairs] -= scale * sine
            kernel[chosen + half, query + pairs] += scale * cosine
            kernel[chosen, key] += scale
            kernel[chosen + half, key + pairs] += scale
        attention.qkv.kernel.assign(kernel)
