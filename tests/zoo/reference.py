"""The transformer's parts in NumPy, float64, written from the papers with loops: what the layers are compared with."""

import math
from typing import Any

import numpy as np

Weights = dict[str, np.ndarray]


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """The largest error is at most `tolerance` times the largest number expected."""
    actual, expected = np.asarray(actual, "float64"), np.asarray(expected, "float64")
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    scale = np.abs(expected).max()
    assert scale > 0
    error = np.abs(actual - expected).max() / scale
    assert error <= tolerance, f"off by {error:.2e} of the largest value"


def weights_of(layer: Any) -> Weights:
    """Weights by their path inside the layer, such as `attention/qkv/kernel`."""
    return {weight.path.split("/", 1)[1]: np.asarray(weight.numpy(), "float64") for weight in layer.weights}


def inside(weights: Weights, layer: str) -> Weights:
    """The weights of a sublayer."""
    return {path.removeprefix(f"{layer}/"): value for path, value in weights.items() if path.startswith(f"{layer}/")}


def dense(x: np.ndarray, weights: Weights, layer: str) -> np.ndarray:
    return x @ weights[f"{layer}/kernel"] + weights[f"{layer}/bias"]


def layer_norm(x: np.ndarray, weights: Weights, epsilon: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * weights["gamma"] + weights["beta"]


def each(function: Any, x: Any) -> np.ndarray:
    return np.vectorize(function, otypes=["float64"])(x)


# Hendrycks and Gimpel 2016, equation 1 and the two approximations in section 2.
ACTIVATIONS = {
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2.0)),
    "gelu_tanh": lambda x: 0.5 * x * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3))),
    "quick_gelu": lambda x: x / (1.0 + math.exp(-1.702 * x)),
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
}


def attention(
    x: np.ndarray,
    weights: Weights,
    num_heads: int,
    causal: bool = False,
    context: np.ndarray | None = None,
    padding_mask: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Vaswani et al. 2017, section 3.2: a query at a time, over the keys that it may see and no others.

    Returns:
        The output and the attention weights.
    """
    if context is None:
        query, key, value = np.split(dense(x, weights, "qkv"), 3, axis=-1)
    else:
        query = dense(x, weights, "query")
        key, value = np.split(dense(context, weights, "key_value"), 2, axis=-1)
    batch, tokens, width = query.shape
    keys, size = key.shape[1], width // num_heads
    mixed, shares = np.zeros((batch, tokens, width)), np.zeros((batch, num_heads, tokens, keys))
    for b in range(batch):
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            for i in range(tokens):
                seen = [
                    j
                    for j in range(keys)
                    if (not causal or j <= i) and (padding_mask is None or padding_mask[b, j] == 1)
                ]
                scores = [query[b, i, part] @ key[b, j, part] / math.sqrt(size) for j in seen]
                powers = [math.exp(score - max(scores)) for score in scores]
                for j, power in zip(seen, powers, strict=True):
                    shares[b, head, i, j] = power / sum(powers)
                    mixed[b, i, part] += shares[b, head, i, j] * value[b, j, part]
    return dense(mixed, weights, "output"), shares


def feed_forward(x: np.ndarray, weights: Weights, activation: str) -> np.ndarray:
    """Vaswani et al. 2017, section 3.3."""
    return dense(each(ACTIVATIONS[activation], dense(x, weights, "up")), weights, "down")


def block(
    x: np.ndarray,
    weights: Weights,
    num_heads: int,
    norm: str,
    activation: str,
    epsilon: float,
    causal: bool = False,
    padding_mask: np.ndarray | None = None,
    context: np.ndarray | None = None,
    context_mask: np.ndarray | None = None,
) -> np.ndarray:
    """One transformer block; `norm` as in `zoo.layers.TransformerBlock`."""
    parts = [
        (
            "attention_norm",
            lambda h: attention(h, inside(weights, "attention"), num_heads, causal, None, padding_mask)[0],
        )
    ]
    if context is not None:
        cross = inside(weights, "cross_attention")
        parts.append(("cross_norm", lambda h: attention(h, cross, num_heads, False, context, context_mask)[0]))
    parts.append(("feed_forward_norm", lambda h: feed_forward(h, inside(weights, "feed_forward"), activation)))
    for name, part in parts:
        if norm == "pre":
            x = x + part(layer_norm(x, inside(weights, name), epsilon))
        else:
            x = layer_norm(x + part(x), inside(weights, name), epsilon)
    return x
