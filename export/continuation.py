"""What a language model writes after some prompts, token by token: an artefact that generates is to write the same."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.files import read_json, write_text

FILE = "continuation.json"
# Where the two best logits are nearer than this, either may be chosen: twice the error that each may have.
UNDECIDED = 2e-4


@dataclasses.dataclass(frozen=True)
class Continuation:
    """Prompts, and the tokens that the Keras model finds most likely after them, one after the other.

    Attributes:
        prompts: token ids.
        tokens: the new ones of each prompt, equally many.
        smallest_gap: the smallest distance of the two best logits among all these choices.
    """

    prompts: list[list[int]]
    tokens: list[list[int]]
    smallest_gap: float

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
            prompts, tokens = (
                [[int(token) for token in row] for row in content[name]] for name in ("prompts", "tokens")
            )
            found = Continuation(prompts, tokens, float(content["smallest_gap"]))
            if not found.prompts or len(found.prompts) != len(found.tokens) or not all(found.prompts):
                raise ValueError("prompts are missing")
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}): export the model again") from None
        return found

    def request(self) -> dict[str, Any]:
        """What `export.runtimes` is asked."""
        return {"prompts": self.prompts, "count": len(self.tokens[0])}

    def judge(self, found: Sequence[dict[str, Any]], precision: str, failures: list[str]) -> dict[str, float]:
        """How much of it an artefact wrote; adds to `failures` where one of float32 wrote anything else, though no
        choice was a close one."""
        pairs = list(zip(self.tokens, found, strict=True))
        same = sum(int(a == b) for expected, each in pairs for a, b in zip(expected, each["ids"], strict=True))
        total = sum(map(len, self.tokens))
        if precision == "float32" and same < total and self.smallest_gap > UNDECIDED:
            failures.append(f"continues prompts otherwise than the Keras model: {same} of {total} tokens are the same")
        further = [time for each in found for time in each["milliseconds"][1:]]
        return {
            "continued": same / total,
            "smallest_gap": min(each["smallest_gap"] for each in found),
            "token_ms": float(np.median(further)) if further else 0.0,
        }


def continue_prompts(model: Any, prompts: Sequence[Sequence[int]], count: int) -> Continuation:
    """What `model` writes: by the whole text for each token, and no cache, which is another way than that of whoever
    is compared with it."""
    tokens, gap = [], float("inf")
    known = model.config.vocabulary_size
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(count):
            sequence = model.backbone({"token_ids": np.array([ids], "int32")}, training=False)["sequence"]
            logits = np.asarray(model.project(sequence[:, -1]))[0, :known]
            second, best = np.partition(logits, -2)[-2:]
            gap = min(gap, float(best - second))
            ids.append(int(np.argmax(logits)))
        tokens.append(ids[len(prompt) :])
    return Continuation([list(prompt) for prompt in prompts], tokens, gap)
