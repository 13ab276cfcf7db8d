"""What an artefact is held to: inputs of many shapes, and what the Keras model makes of them."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save

from zoo.errors import UserError

Tensors = dict[str, np.ndarray]

SHORT, ODD, LONGEST_UNBOUNDED, LATENCY = 5, 37, 128, 128  # tokens
WRONG_CONTENT = (ValueError, KeyError, IndexError, TypeError, AttributeError)  # what reading nonsense raises
OUTPUT_LIMIT = 16 * 2**20  # bytes of outputs that one case stores
LATENCY_CASE = "latency"

# (batch, length, right-padded, of real text). Every batch size meets every length, but 7 the longest, which costs much
# and adds nothing; every batch size and every length comes padded, unpadded, as text and as random ids.
GRID = (
    (1, "short", False, True),
    (1, "odd", True, False),
    (1, "longest", False, False),
    (2, "short", True, False),
    (2, "odd", False, True),
    (2, "longest", True, True),
    (7, "short", False, False),
    (7, "odd", True, True),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Inputs, and the outputs to be matched.

    Attributes:
        name: what it is, short, fit for a file name.
        inputs: the model's inputs by name.
        outputs: the model's outputs by name; cut to `positions` where it names them.
        positions: output -> the positions on axis 1 that are kept, evenly spaced with first and last among them;
            outputs that it does not name are kept whole.
    """

    name: str
    inputs: Tensors
    outputs: Tensors
    positions: dict[str, list[int]]

    def save(self, directory: Path) -> None:
        """Write it to `directory` as NAME.safetensors."""
        tensors = {f"input/{name}": value for name, value in self.inputs.items()}
        tensors |= {f"output/{name}": np.ascontiguousarray(value) for name, value in self.outputs.items()}
        content = save(tensors, {"positions": json.dumps(self.positions)})
        (directory / f"{self.name}.safetensors").write_bytes(content)  # save_file would make it private to its owner

    @staticmethod
    def load(file: Path) -> "Case":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or broken.
        """
        groups: dict[str, Tensors] = {"input": {}, "output": {}}
        try:
            with safetensors.safe_open(file, framework="numpy") as tensors:
                content = json.loads((tensors.metadata() or {})["positions"])
                positions = {name: [int(position) for position in kept] for name, kept in content.items()}
                for key in tensors.keys():  # noqa: SIM118 - no dict
                    group, name = key.split("/")
                    groups[group][name] = tensors.get_tensor(key)
            case = Case(file.stem, groups["input"], groups["output"], positions)
            if not case.outputs or not all(np.isfinite(value).all() for value in case.outputs.values()):
                raise ValueError("its outputs are missing, NaN or infinite")
            for output, kept in positions.items():
                if len(case.real(output)[0]) != len(kept):
                    raise ValueError(f"positions of {output} do not fit")
        except (OSError, safetensors.SafetensorError, *WRONG_CONTENT) as error:
            raise UserError(f"{file} cannot be read ({error}): export the model again") from error
        return case

    def real(self, output: str) -> np.ndarray:
        """Which rows of an output stand for something real: boolean, the shape of the output without its last axis.
        Padded positions of outputs with one row a token are the ones that do not."""
        value = self.outputs[output]
        mask = self.inputs.get("padding_mask")
        if mask is None or value.ndim < 3:
            return np.ones(value.shape[:-1], bool)
        mask = mask[:, self.positions[output]] if output in self.positions else mask
        return mask.astype(bool) if mask.shape == value.shape[:-1] else np.ones(value.shape[:-1], bool)


def make_cases(model: Any, texts: Sequence[str] = ()) -> Iterator[Case]:
    """Inputs by the `GRID`, and one more for the latency (batch 1, at most 128 tokens), with the model's outputs.

    They are computed eagerly and on the CPU: a GPU multiplies float32 matrices in a shorter format by default.

    Args:
        model: a `ZooModel`.
        texts: real text; without it, or without a tokenizer, random ids stand in.

    Raises:
        UserError: an output of the model is not finite.
    """
    text_ids = np.zeros(0, "int32")
    if model.tokenizer is not None:
        text_ids = np.array([id for text in texts for id in model.tokenizer.encode(text)], "int32")
    axes = {axis.name: axis.maximum for spec in model.input_specs for axis in spec.shape if not isinstance(axis, int)}
    longest = axes.get("tokens") or LONGEST_UNBOUNDED
    lengths = {"short": min(SHORT, longest), "odd": min(ODD, longest), "longest": longest}
    cases = [(batch, lengths[length], padded, real, "") for batch, length, padded, real in GRID]
    cases.append((1, min(LATENCY, longest), False, True, LATENCY_CASE))
    done = set()
    for seed, (batch, tokens, padded, real, name) in enumerate(cases):
        if not name:
            name = f"batch{batch}"
            if "tokens" in axes:
                kind = "text" if real and len(text_ids) else "random"
                name += f"-tokens{tokens}-{kind}" + ("-padded" if padded else "")
        if name in done:  # without tokens, or with few, cases fall together
            continue
        done.add(name)
        rng = np.random.default_rng(seed)
        inputs = _make_inputs(model.input_specs, batch, tokens, padded, text_ids if real else text_ids[:0], rng)
        yield _answer(model, name, inputs, tokens)


def _make_inputs(
    specs: Sequence[Any], batch: int, tokens: int, padded: bool, text_ids: np.ndarray, rng: np.random.Generator
) -> Tensors:
    sizes = {"batch": batch, "tokens": tokens}
    # Uneven, and at least one token in each row: 5 tokens in 2 rows make rows of 4 and 2.
    real = [max(1, tokens - (row + 1) * tokens // (batch + 1)) if padded else tokens for row in range(batch)]
    mask = (np.arange(tokens) < np.array(real)[:, None]).astype("int32")
    inputs = {}
    for spec in specs:
        shape = tuple(axis if isinstance(axis, int) else sizes[axis.name] for axis in spec.shape)
        if spec.name == "padding_mask":
            inputs[spec.name] = mask
        elif spec.name == "token_ids" and len(text_ids):
            start = int(rng.integers(len(text_ids)))
            inputs[spec.name] = (
                np.take(text_ids, np.arange(start, start + mask.size), mode="wrap").reshape(shape) * mask
            )
        elif spec.dtype.startswith("int"):
            value = rng.integers(0, spec.highest + 1, size=shape, dtype=spec.dtype)
            inputs[spec.name] = value * mask if shape == mask.shape else value
        else:
            inputs[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return inputs


def _answer(model: Any, name: str, inputs: Tensors, tokens: int) -> Case:
    import keras

    with keras.device("cpu:0"):
        computed = model({key: keras.ops.convert_to_tensor(value) for key, value in inputs.items()}, training=False)
    outputs, positions = {}, {}
    for output in model.output_names:
        value = keras.ops.convert_to_numpy(computed[output])
        if not np.isfinite(value).all():
            raise UserError(f"the model's {output} has NaN or infinite values: there is nothing to hold an export to")
        if value.nbytes > OUTPUT_LIMIT and value.ndim > 2 and value.shape[1] == tokens:
            kept = max(2, OUTPUT_LIMIT * tokens // value.nbytes)
            positions[output] = np.unique(np.linspace(0, tokens - 1, kept).astype(int)).tolist()
            value = value[:, positions[output]]
        outputs[output] = value
    return Case(name, inputs, outputs, positions)
