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
Lines = dict[str, tuple[np.ndarray, np.ndarray]]  # by the input's name, from where to where it is moved

POINTS = 9  # of the quadrature on each piece of the line
# A difference that is small because the score rises and falls again cannot be held to itself alone: this part of all
# that it rises and falls counts as well; and so does what float32 cannot tell apart.
CANCELLATION = 0.01
ROUNDING = 1e-6


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
    max_evaluations: int = 1024,
    batch_size: int = POINTS,
) -> Attribution:
    """Attribute a score to its inputs (Sundararajan, Taly and Yan 2017, equation 1).

    An attribution is an input's distance from its baseline times the gradient's mean over the straight line between
    them. Their sum is the difference of the scores at its ends (proposition 1, completeness). That holds up to each
    point of the line as well, and so tells where the quadrature is too coarse: the piece that is furthest off is halved
    until what all pieces miss is within the tolerance.

    Args:
        score: from inputs with a batch axis to (batch,), differentiable; each row for itself.
        inputs: what `score` takes, a batch of one.
        baselines: for the inputs that are to be moved, where they begin; of the same shape, float. The others stay.
        tolerance: the most that may be missed, as a fraction of the difference; or of a hundredth of all that the score
            rises and falls along the line, where that is more; beyond what float32 rounds off.
        max_evaluations: where to stop, with a warning.
        batch_size: points at a time, which memory grows with; it does not change the result.

    Raises:
        UserError: the score is not finite.
    """
    lines = {
        name: (np.asarray(baselines[name], np.float32), np.asarray(inputs[name], np.float32)) for name in baselines
    }
    held = {name: value for name, value in inputs.items() if name not in baselines}

    def integrate(start: float, end: float) -> _Piece:
        return _integrate(score, lines, held, start, end, batch_size)

    whole = integrate(0.0, 1.0)
    difference = whole.last - whole.first
    pieces, evaluations = [whole], POINTS
    totals = {name: values.astype(np.float64) for name, values in whole.attributions.items()}
    while True:
        size = sum(np.abs(values).sum() for values in totals.values()) + abs(whole.first) + abs(whole.last)
        varied = max(abs(difference), CANCELLATION * sum(piece.variation for piece in pieces))
        missed = sum(piece.gap for piece in pieces)
        complete = bool(missed <= tolerance * varied + ROUNDING * size)
        if complete or evaluations + 2 * POINTS > max_evaluations:
            break
        worst = max(pieces, key=lambda piece: piece.gap)
        middle = (worst.start + worst.end) / 2
        halves = [integrate(worst.start, middle), integrate(middle, worst.end)]
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
    """The integral over a piece of the line between two fractions of it, the scores at its ends, and all that the score
    rises and falls between them.

    `gap` is the most by which the integral from its start to any point of the quadrature misses the change of the
    score: between two ends that are alike much can rise and fall.
    """

    start: float
    end: float
    attributions: dict[str, np.ndarray]
    first: float
    last: float
    variation: float
    gap: float


def _quadrature(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Lobatto quadrature on 0 to 1 (Abramowitz and Stegun 1964, 25.4.32), which has both ends among its places.

    Returns:
        the places (points,), and for the integral from 0 to each of them a row of weights (points, points).
    """
    polynomials = [np.polynomial.legendre.Legendre.basis(degree, domain=[0, 1]) for degree in range(points)]
    places = np.concatenate([[0.0], np.sort(polynomials[-1].deriv().roots().real), [1.0]])
    values = np.stack([polynomial(places) for polynomial in polynomials], axis=1)
    integrals = np.stack([polynomial.integ(lbnd=0)(places) for polynomial in polynomials], axis=1)
    return places, integrals @ np.linalg.inv(values)


def _integrate(score: Score, lines: Lines, held: dict[str, Any], start: float, end: float, batch_size: int) -> _Piece:
    places, weights = _quadrature(POINTS)
    along = start + (end - start) * places
    scores, slopes = np.zeros(POINTS), np.zeros(POINTS)
    sums = {name: np.zeros(value.shape[1:]) for name, (_, value) in lines.items()}
    for first in range(0, POINTS, batch_size):
        rows = slice(first, first + batch_size)
        scores[rows], gradients = _differentiate(score, lines, held, along[rows])
        for name, (baseline, value) in lines.items():
            steps = gradients[name] * ((value - baseline) * np.float32(end - start))
            slopes[rows] += steps.reshape(len(steps), -1).sum(axis=1, dtype=np.float64)
            sums[name] += np.tensordot(weights[-1, rows], steps, 1)
    if not np.isfinite(scores).all():
        raise UserError(
            "the model's output is not finite on the way from the baseline to the input: nothing explains it"
        )
    gap = np.abs(weights @ slopes - (scores - scores[0])).max()
    attributions = {name: values[None].astype(np.float32) for name, values in sums.items()}
    variation = np.abs(np.diff(scores)).sum()
    return _Piece(start, end, attributions, float(scores[0]), float(scores[-1]), float(variation), float(gap))


def _differentiate(
    score: Score, lines: Lines, held: dict[str, Any], along: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The scores (points,) at these fractions of the lines, and their gradients (points, ...) by input."""
    moved = {}
    for name, (baseline, value) in lines.items():
        fractions = along.reshape(-1, *[1] * (value.ndim - 1)).astype(np.float32)
        moved[name] = tf.constant(baseline + fractions * (value - baseline))
    repeated = {name: np.repeat(value, len(along), axis=0) for name, value in held.items()}
    with tf.GradientTape(watch_accessed_variables=False) as tape:  # what weights' gradients need would be kept as well
        tape.watch(moved)
        scores = score({**repeated, **moved})
    gradients = tape.gradient(scores, moved, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return scores.numpy(), {name: gradient.numpy() for name, gradient in gradients.items()}
