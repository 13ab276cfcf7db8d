"""How a language model goes on after some prompts, token by token: what an artefact's cache is held to."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from export.metrics import PRECISIONS, TOLERANCE, Metric
from zoo.errors import UserError
from zoo.files import read_json, write_text

FILE = "continuation.json"
# Two numbers may each be wrong by the tolerance: where the two best logits are nearer, either may be chosen.
UNDECIDED = 2 * TOLERANCE


@dataclasses.dataclass(frozen=True)
class Continuation:
    """Prompts, and the tokens that the Keras model finds most likely after them, one after the other.

    Attributes:
        prompts: token ids.
        tokens: the new ones of each prompt, equally many.
        gaps: of each new token, how far its logit is above the second best.
        losses: of each new token, minus the logarithm of its probability.
    """

    prompts: list[list[int]]
    tokens: list[list[int]]
    gaps: list[list[float]]
    losses: list[list[float]]

    def save(self, directory: Path) -> None:
        """Write it to `directory`."""
        write_text(directory / FILE, json.dumps(dataclasses.asdict(self)) + "\n")

    @staticmethod
    def load(directory: Path) -> "Continuation | None":
        """Read what `save` wrote, which may come from anywhere; None where there is nothing.

        Raises:
            UserError: it is broken.
        """
        file = directory / FILE
        if not file.is_file():
            return None
        try:
            content = read_json(file)
            prompts, tokens = ([[int(each) for each in row] for row in content[name]] for name in ("prompts", "tokens"))
            gaps, losses = ([[float(each) for each in row] for row in content[name]] for name in ("gaps", "losses"))
            count = len(tokens[0])
            if not count or not all(prompts) or not len(prompts) == len(tokens) == len(gaps) == len(losses):
                raise ValueError("prompts or tokens are missing")
            if any(len(row) != count for rows in (tokens, gaps, losses) for row in rows):
                raise ValueError("not every prompt has equally many tokens")
            if not np.isfinite([*gaps, *losses]).all():
                raise ValueError("a figure is not finite")
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise UserError(f"{file} cannot be read ({error}): export the model again") from None
        return Continuation(prompts, tokens, gaps, losses)

    def request(self) -> dict[str, Any]:
        """What `export.runtimes` is asked: to read the model's own tokens, whatever the artefact would have chosen, so
        that one choice between equals does not decide over all that follow."""
        return {"prompts": self.prompts, "count": len(self.tokens[0]), "given": self.tokens}

    def judge(self, found: Sequence[dict[str, Any]], precision: str, failures: list[str]) -> dict[str, Any]:
        """How much of it an artefact chose too; adds to `failures`.

        One of float32 is to choose the same wherever the choice is not a close one, and to find each token as probable.
        Another one's perplexity over the model's own tokens is a metric, and has its limit.

        Args:
            found: what the runtime answered, for each prompt.
            precision: the artefact's.
            failures: what is wrong, one line each.

        Returns:
            `continued`, the part of the tokens that are the same; `smallest_gap` of the artefact's own choices;
            `token_ms`, the median time of a token; and `metrics`, not for float32.

        Raises:
            ValueError: the answers are not of as many tokens.
        """
        chosen, losses = (np.array([each[name] for each in found]) for name in ("ids", "losses"))
        expected = np.array(self.tokens)
        if not chosen.shape == losses.shape == expected.shape:
            raise ValueError(f"{chosen.shape} tokens for {expected.shape}")
        same = chosen == expected
        lost = np.abs(losses - np.array(self.losses))
        metrics = []
        if precision == "float32":
            wrong = ~same & (np.array(self.gaps) > UNDECIDED)
            if wrong.any():
                failures.append(
                    f"continues prompts otherwise than the Keras model: {same.sum()} of {same.size} tokens are the same"
                )
            elif lost.max() > 2 * TOLERANCE:
                failures.append(f"finds what continues a prompt less or more probable, by {lost.max():.1e} nats")
        else:
            model, artefact = (float(np.exp(np.mean(values))) for values in (self.losses, losses))
            metrics = [Metric("perplexity of continuations", model, artefact, losses.size)]
            failures += filter(None, (each.failure(PRECISIONS[precision]) for each in metrics))
        further = [time for each in found for time in each["milliseconds"][1:]]
        return {
            "continued": float(same.mean()),
            "smallest_gap": min(each["smallest_gap"] for each in found),
            "token_ms": float(np.median(further)) if further else 0.0,
            "metrics": metrics,
        }


def continue_prompts(model: Any, prompts: Sequence[Sequence[int]], count: int) -> Continuation:
    """What `model` writes: by the whole text for each token, and no cache, which is another way than that of whoever
    is compared with it."""
    tokens: list[list[int]] = []
    gaps: list[list[float]] = []
    losses: list[list[float]] = []
    known = model.config.vocabulary_size
    for prompt in prompts:
        ids = list(prompt)
        gaps.append([])
        losses.append([])
        for _ in range(count):
            sequence = model.backbone({"token_ids": np.array([ids], "int32")}, training=False)["sequence"]
            logits = np.asarray(model.project(sequence[:, -1]))[0, :known].astype("float64")
            second, best = np.partition(logits, -2)[-2:]
            gaps[-1].append(float(best - second))
            losses[-1].append(float(np.log(np.exp(logits - best).sum())))
            ids.append(int(np.argmax(logits)))
        tokens.append(ids[len(prompt) :])
    return Continuation([list(prompt) for prompt in prompts], tokens, gaps, losses)
