"""What an output rests on (TensorFlow only): attention followed through the blocks, and integrated gradients."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from zoo.errors import UserError

logger = logging.getLogger("zoo")

Score = Callable[[dict[str, Any]], Any]

POINTS = 9  # of the quadrature on each piece of the path; also the batch of one call
# Attributions that cancel each other cannot be held to their small sum: their own size times this counts as well.
CANCELLATION = 0.01


def attention_rollout(weights: Sequence[Any], padding_mask: Any = None) -> np.ndarray:
    """How much of each token's last vector comes from each token of the input (Abnar and Zuidema 2020, section 3).

    The weights of a block are averaged over its heads; the residual connection adds as much of the token itself; rows
    are divided by their sums; and the matrices of the blocks are multiplied. Causal weights stay causal.

    Args:
        weights: a model's `"attention"`, for each block (batch, num_heads, tokens, tokens).
        padding_mask: (batch, tokens), 1 for real tokens: nothing comes from the others.

    Returns:
        float64 (batch, tokens, tokens), rows that add up to 1.

    Raises:
        ValueError: there are no weights.
    """
    if not len(weights):
        raise ValueError("there are no attention weights: call the model with return_weights=True")
    rollout = np.eye(weights[0].shape[-1])
    for block in weights:
        mixed = np.mean(np.asarray(block, np.float64), axis=1)
        if padding_mask is not None:
            mixed = mixed * np.asarray(padding_mask)[:, None, :]
        mixed = mixed + np.eye(mixed.shape[-1])
        rollout = mixed / mixed.sum(axis=-1, keepdims=True) @ rollout
    return rollout


@dataclasses.dataclass(frozen=True)
class Attribution:
    """What each number of an input contributes to a score.

    Attributes:
        attributions: by the input's name, float64, of its shape.
        output: the score of the input.
        baseline_output: the score of the baseline.
        evaluations: the points at which the score and its gradient were computed.
        complete: the attributions add up to `difference`, as closely as was asked for.
    """

    attributions: dict[str, np.ndarray]
    output: float
    baseline_output: float
    evaluations: int
    complete: bool

    @property
    def difference(self) -> float:
        """What there is to explain: the score of the input less that of the baseline."""
        return self.output - self.baseline_output

    @property
    def total(self) -> float:
        """What the attributions add up to."""
        return float(sum(values.sum() for values in self.attributions.values()))

    @property
    def gap(self) -> float | None:
        """What `total` misses of `difference`, as a fraction of it; None where that is 0."""
        return abs(self.total / self.difference - 1.0) if self.difference else None


def integrated_gradients(
    score: Score,
    inputs: dict[str, np.ndarray],
    baselines: dict[str, np.ndarray],
    tolerance: float = 0.01,
    max_evaluations: int = 2048,
) -> Attribution:
    """Attribute a score to its inputs (Sundararajan, Taly and Yan 2017, equation 1).

    An attribution is an input's distance from its baseline times the gradient's mean over the straight line between
    them. Their sum is the difference of the scores at its ends (proposition 1, completeness), which holds on each piece
    of the line as well, and so tells where the quadrature is too coarse: the piece that is furthest off is halved until
    what all pieces miss is within the tolerance.

    Args:
        score: from inputs with a batch axis to (batch,), differentiable; each row for itself.
        inputs: what `score` takes, a batch of one.
        baselines: for the inputs that are to be moved, where they begin; of the same shape, float. The others stay.
        tolerance: the most that may be missed, as a fraction of the difference. Where this is below a hundredth of what
            the attributions, regardless of their signs, add up to, that counts instead.
        max_evaluations: where to stop, with a warning.

    Raises:
        UserError: the score is not finite.
    """
    lines = {
        name: (np.asarray(baselines[name], np.float32), np.asarray(inputs[name], np.float32)) for name in baselines
    }
    held = {name: np.repeat(value, POINTS, axis=0) for name, value in inputs.items() if name not in baselines}

    whole = _integrate(score, lines, held, 0.0, 1.0)
    difference = whole.last - whole.first
    pieces, evaluations = [whole], POINTS
    totals = {name: values.astype(np.float64) for name, values in whole.attributions.items()}
    while True:
        size = sum(np.abs(values).sum() for values in totals.values())
        missed = sum(abs(piece.gap) for piece in pieces)
        complete = bool(missed <= tolerance * max(abs(difference), CANCELLATION * size))
        if complete or evaluations + 2 * POINTS > max_evaluations:
            break
        worst = max(pieces, key=lambda piece: abs(piece.gap))
        middle = (worst.start + worst.end) / 2
        halves = [
            _integrate(score, lines, held, worst.start, middle),
            _integrate(score, lines, held, middle, worst.end),
        ]
        pieces = [piece for piece in pieces if piece is not worst] + halves
        evaluations += 2 * POINTS
        for name in totals:
            totals[name] += sum(half.attributions[name].astype(np.float64) for half in halves)
            totals[name] -= worst.attributions[name]
    result = Attribution(totals, whole.last, whole.first, evaluations, complete)
    if not complete:
        logger.warning(
            "the attributions add up to %.4g, and are to explain %.4g: %d evaluations are too few to be within %g %%",
            result.total,
            difference,
            evaluations,
            100 * tolerance,
        )
    return result


def embed_tokens(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs of a text model with `token_vectors` beside `token_ids`: the rows of its table, float32 (batch,
    tokens, width), which the model takes in their place, and which can be moved as ids cannot."""
    encoder = getattr(model, "text", getattr(model, "backbone", model))
    return {**inputs, "token_vectors": np.asarray(encoder.token_embedding(inputs["token_ids"]), np.float32)}


def neutral_baselines(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs that say nothing, of the shape of `token_vectors` and `images`: zeros for words and a black image
    (Sundararajan et al. 2017, section 2). The special tokens stay what they are, since they are no words."""
    baselines = {}
    if "token_vectors" in inputs:
        roles = model.tokenizer.special_ids if model.tokenizer is not None else {}
        special = [number for role, number in roles.items() if role != "unk"]  # an unknown word is a word
        stays = np.isin(inputs["token_ids"], special)[..., None]
        baselines["token_vectors"] = np.where(stays, inputs["token_vectors"], np.float32(0))
    if "images" in inputs:
        black = model.preprocessing.table()[0] if model.preprocessing is not None else np.zeros(1, np.float32)
        baselines["images"] = np.broadcast_to(black, inputs["images"].shape)
    return baselines


@dataclasses.dataclass(frozen=True)
class _Piece:
    """The integral over a piece of the line, as fractions of it from the baseline, and the scores at its ends."""

    start: float
    end: float
    attributions: dict[str, np.ndarray]
    first: float
    last: float

    @property
    def gap(self) -> float:
        total = sum(values.sum(dtype=np.float64) for values in self.attributions.values())
        return float(total - (self.last - self.first))


def _lobatto(points: int) -> tuple[np.ndarray, np.ndarray]:
    """The places and weights of the Gauss-Lobatto quadrature on 0 to 1: both ends are among its places, so that the
    scores there come at no price (Abramowitz and Stegun 1964, 25.4.32)."""
    polynomial = np.polynomial.legendre.Legendre.basis(points - 1)
    places = np.concatenate([[-1.0], np.sort(polynomial.deriv().roots().real), [1.0]])
    weights = 2.0 / (points * (points - 1) * polynomial(places) ** 2)
    return (places + 1) / 2, weights / 2


def _integrate(
    score: Score, lines: dict[str, tuple[np.ndarray, np.ndarray]], held: dict[str, np.ndarray], start: float, end: float
) -> _Piece:
    places, weights = _lobatto(POINTS)
    places = start + (end - start) * places
    moved = {}
    for name, (baseline, value) in lines.items():
        along = places.reshape(-1, *[1] * (value.ndim - 1)).astype(np.float32)
        moved[name] = tf.constant(baseline + along * (value - baseline))
    with tf.GradientTape() as tape:
        tape.watch(moved)
        scores = score({**held, **moved})
    gradients = tape.gradient(scores, moved, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    scores = scores.numpy()
    if not np.isfinite(scores).all():
        raise UserError(
            "the model's output is not finite on the way from the baseline to the input: nothing explains it"
        )
    attributions = {
        name: (value - baseline) * (end - start) * np.tensordot(weights, gradients[name].numpy(), 1)[None]
        for name, (baseline, value) in lines.items()
    }
    return _Piece(start, end, {k: v.astype(np.float32) for k, v in attributions.items()}, *map(float, scores[[0, -1]]))
