"""What an artefact is held to: inputs of many shapes and real ones, and what the Keras model makes of them."""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors
from safetensors.numpy import save

from zoo.errors import UserError

if TYPE_CHECKING:  # which needs Keras
    from export.signatures import Signature

Tensors = dict[str, np.ndarray]
Purpose = Literal["shapes", "real", "latency"]

SHORT, ODD, LONGEST_UNBOUNDED, LATENCY = 5, 37, 128, 128  # tokens
WRONG_CONTENT = (ValueError, KeyError, IndexError, TypeError, AttributeError)  # what reading nonsense raises
PREFIX = "text."  # of the names of functions of strings, to tell them from those of tensors
MOST_SECONDS = 600.0  # that a case is believed to take, whoever says so
OUTPUT_LIMIT = 16 * 2**20  # bytes of outputs that one case stores

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
        function: which function of the model takes them.
        purpose: "shapes", to compare outputs at; "real", inputs that occur, to take the metric of the task by;
            "latency", to compare at and to measure the time of.
        inputs: the function's inputs by name; strings are arrays of bytes.
        outputs: the function's outputs by name; cut to `positions` where it names them.
        positions: output -> the positions on axis 1 that are kept, evenly spaced with first and last among them;
            outputs that it does not name are kept whole.
        targets: output -> what is right, int32 of the output's shape without its last axis, as far as it is known; -1
            where it is not.
        metric: what the targets are for: "accuracy", or "perplexity" where they are tokens of a text; "" without any.
        seconds: that the model took: what an artefact may take hangs on it.
    """

    name: str
    function: str
    purpose: Purpose
    inputs: Tensors
    outputs: Tensors
    positions: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    targets: Tensors = dataclasses.field(default_factory=dict)
    metric: str = ""
    seconds: float = 0.0

    def save(self, directory: Path) -> None:
        """Write it to `directory` as NAME.safetensors."""
        groups = {"input": self.inputs, "output": self.outputs, "target": self.targets}
        tensors, strings = {}, []
        for group, values in groups.items():
            for name, value in values.items():
                if value.dtype.kind == "S":  # as rows of bytes, with zeros behind
                    strings.append(f"{group}/{name}")
                    value = np.frombuffer(value.tobytes(), np.uint8).reshape(*value.shape, value.dtype.itemsize)
                tensors[f"{group}/{name}"] = np.ascontiguousarray(value).reshape(value.shape)  # which a scalar loses
        facts = {"function": self.function, "purpose": self.purpose, "metric": self.metric}
        facts["seconds"] = f"{self.seconds:.3f}"
        metadata = {"positions": json.dumps(self.positions), "strings": json.dumps(strings), **facts}
        # `save_file` would make it private to its owner.
        (directory / f"{self.name}.safetensors").write_bytes(save(tensors, metadata))

    @staticmethod
    def load(file: Path) -> "Case":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing or broken.
        """
        groups: dict[str, Tensors] = {"input": {}, "output": {}, "target": {}}
        try:
            with safetensors.safe_open(file, framework="numpy") as tensors:
                metadata = tensors.metadata() or {}
                content = json.loads(metadata["positions"])
                positions = {name: [int(position) for position in kept] for name, kept in content.items()}
                strings = json.loads(metadata["strings"])
                for key in tensors.keys():  # noqa: SIM118 - no dict
                    group, name = key.split("/")
                    value = tensors.get_tensor(key)
                    if key in strings:
                        value = np.ascontiguousarray(value).view(f"S{value.shape[-1]}")[..., 0]
                    groups[group][name] = value
                facts = {name: metadata[name] for name in ("function", "purpose", "metric")}
            case = Case(
                file.stem,
                inputs=groups["input"],
                outputs=groups["output"],
                targets=groups["target"],
                positions=positions,
                seconds=min(max(float(metadata["seconds"]), 0.0), MOST_SECONDS),
                **facts,
            )
            if not case.outputs or not all(_is_finite(value) for value in case.outputs.values()):
                raise ValueError("its outputs are missing, NaN or infinite")
            case.check()
        except (OSError, safetensors.SafetensorError, *WRONG_CONTENT) as error:
            raise UserError(f"{file} cannot be read ({error}): export the model again") from error
        return case

    def check(self) -> None:
        """Raise one of `WRONG_CONTENT` where its parts do not fit together."""
        if not any(value.ndim for value in self.inputs.values()):
            raise ValueError("no input has rows")
        if "padding_mask" in self.inputs and self.inputs["padding_mask"].ndim != 2:
            raise ValueError("its padding_mask is no matrix")
        for output, kept in self.positions.items():
            if len(self.real(output)[0]) != len(kept):
                raise ValueError(f"positions of {output} do not fit")
        for output, target in self.targets.items():
            shape = self.outputs[output].shape
            if target.shape != shape[:-1] or target.max(initial=-1) >= shape[-1]:
                raise ValueError(f"targets of {output} do not fit")

    def real(self, output: str) -> np.ndarray:
        """Which rows of an output stand for something real: boolean, the shape of the output without its last axis.
        Padded positions of outputs with one row a token are the ones that do not."""
        value = self.outputs[output]
        mask = self.inputs.get("padding_mask")
        if mask is None or value.ndim < 3:
            return np.ones(value.shape[:-1], bool)
        mask = mask[:, self.positions[output]] if output in self.positions else mask
        return mask.astype(bool) if mask.shape == value.shape[:-1] else np.ones(value.shape[:-1], bool)


def make_cases(function: "Signature", text_ids: np.ndarray | None = None, latency: int = LATENCY) -> Iterator[Case]:
    """Inputs by the `GRID`, and one more for the latency (batch 1), with the function's outputs.

    They are computed eagerly and on the CPU: a GPU multiplies float32 matrices in a shorter format by default.

    Args:
        function: of the model.
        text_ids: int32 (tokens,), real text, which random ids stand in for where there is none.
        latency: tokens that the latency is measured on, at most.

    Raises:
        UserError: an output of the model is not finite.
    """
    text_ids = np.zeros(0, "int32") if text_ids is None else text_ids
    axes = {axis.name: axis.maximum for spec in function.inputs for axis in spec.shape if not isinstance(axis, int)}
    longest = axes.get("tokens") or LONGEST_UNBOUNDED
    lengths = {"short": min(SHORT, longest), "odd": min(ODD, longest), "longest": longest}
    cases = [(batch, lengths[length], padded, real, "") for batch, length, padded, real in GRID]
    cases.append((1, min(latency, longest), False, True, "latency"))
    done = set()
    for seed, (batch, tokens, padded, real, name) in enumerate(cases):
        purpose: Purpose = "latency" if name else "shapes"
        if not name:
            name = f"batch{batch}"
            if "tokens" in axes:
                kind = "text" if real and len(text_ids) else "random"
                name += f"-tokens{tokens}-{kind}" + ("-padded" if padded else "")
        if name in done:  # without tokens, or with few, cases fall together
            continue
        done.add(name)
        rng = np.random.default_rng(seed)
        inputs = _make_inputs(function.inputs, batch, tokens, padded, text_ids if real else text_ids[:0], rng)
        yield answer(function, f"{function.name}-{name}", purpose, inputs)


def make_real_cases(
    function: "Signature", batches: Sequence[tuple[Tensors, Tensors]], metric: str = ""
) -> Iterator[Case]:
    """Inputs that occur, with the function's outputs.

    Args:
        function: of the model.
        batches: inputs, and what is right, as `Case.targets` has it.
        metric: what is right is for.

    Raises:
        UserError: an output of the model is not finite.
    """
    for number, (inputs, targets) in enumerate(batches):
        yield answer(function, f"{function.name}-real{number}", "real", inputs, targets, metric if targets else "")


def _make_inputs(
    specs: Sequence[Any], batch: int, tokens: int, padded: bool, text_ids: np.ndarray, rng: np.random.Generator
) -> Tensors:
    sizes = {"batch": batch, "tokens": tokens, "masked": min(SHORT, tokens)}
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
            above = tokens if spec.highest is None else spec.highest + 1  # without a limit of its own, a position
            value = rng.integers(0, above, size=shape, dtype=spec.dtype)
            inputs[spec.name] = value * mask if shape == mask.shape else value
        else:
            inputs[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return inputs


def answer(
    function: "Signature",
    name: str,
    purpose: Purpose,
    inputs: Tensors,
    targets: Tensors | None = None,
    metric: str = "",
) -> Case:
    """A case of what a function makes of inputs, computed eagerly, on the CPU.

    Raises:
        UserError: an output is not finite.
    """
    import keras
    import tensorflow as tf

    began = time.perf_counter()
    with keras.device("cpu:0"):
        computed = function.compute({key: tf.constant(value) for key, value in inputs.items()})
    mask = inputs.get("padding_mask")
    tokens = None if mask is None else mask.shape[1]
    outputs, positions, right = {}, {}, dict(targets or {})
    for output in function.outputs:
        value = computed[output].numpy()
        value = value.astype("S") if value.dtype == object else value
        if not _is_finite(value):
            raise UserError(f"the model's {output} has NaN or infinite values: there is nothing to hold an export to")
        if value.nbytes > OUTPUT_LIMIT and value.ndim > 2 and value.shape[1] == tokens:
            kept = max(2, OUTPUT_LIMIT * tokens // value.nbytes)
            positions[output] = np.unique(np.linspace(0, tokens - 1, kept).astype(int)).tolist()
            value = value[:, positions[output]]
            if output in right:
                right[output] = right[output][:, positions[output]]
        outputs[output] = value
    took = time.perf_counter() - began
    return Case(name, function.name, purpose, inputs, outputs, positions, right, metric, took)


def _is_finite(value: np.ndarray) -> bool:
    return value.dtype.kind == "S" or bool(np.isfinite(value).all())
