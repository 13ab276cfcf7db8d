"""An explanation: which tokens and pixels an output rests on, and what the model attended to."""

import dataclasses
import logging
from typing import Any

import numpy as np

from recipes.explanation.target import Question, Target, find_kind, find_target, name_token, require_options
from zoo.errors import UserError
from zoo.explanation import (
    POINTS,
    Attribution,
    attention_rollout,
    embed_tokens,
    integrated_gradients,
    neutral_baselines,
)
from zoo.prediction import embed, model_inputs

logger = logging.getLogger("zoo")

LONGEST_TEXT = 256  # tokens: more cannot be told apart in a picture
LARGE = 50_000_000  # parameters: from there on a batch of the quadrature's points would take gigabytes
BATCH = 3


@dataclasses.dataclass(frozen=True)
class TextPart:
    """What there is to say of a text of T tokens.

    Attributes:
        tokens: as they are written.
        attention: for each block (heads, T, T).
        rollout: (T, T), see `zoo.explanation.attention_rollout`.
        attributions: (T,), or None for a backbone.
        places: the tokens that the explained output is read at.
    """

    tokens: list[str]
    attention: list[np.ndarray]
    rollout: np.ndarray
    attributions: np.ndarray | None
    places: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ImagePart:
    """What there is to say of an image.

    Attributes:
        pixels: uint8 (height, width, 3), as the model saw it.
        rollout: (rows, columns) of patches, how much of the output comes from each.
        patch_size: the side of a patch in pixels; what is left over at the right and the bottom is not seen.
        attributions: (height, width), or None for a backbone.
    """

    pixels: np.ndarray
    rollout: np.ndarray
    patch_size: int
    attributions: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One output explained.

    Attributes:
        model: the model's family and task.
        target: what is explained; None for a backbone, of which attention is all there is.
        attribution: the integrated gradients.
        text, image: by what the model was given.
    """

    model: str
    target: Target | None
    attribution: Attribution | None
    text: TextPart | None
    image: ImagePart | None

    @property
    def title(self) -> str:
        """What is explained, in a line."""
        if self.target is None:
            return f"{self.model}: attention"
        sure = "" if self.target.probability is None else f" (probability {self.target.probability:.3f})"
        return f"{self.model}: {self.target.what}{sure}"

    def to_record(self) -> dict[str, Any]:
        """The numbers, as JSON takes them. Pixels are added up over patches."""
        record: dict[str, Any] = {"model": self.model}
        if self.target is not None:
            record |= {"target": self.target.what, "probability": self.target.probability}
        if self.attribution is not None:
            names = ("output", "baseline_output", "difference", "total", "gap", "complete", "evaluations")
            record |= {name: getattr(self.attribution, name) for name in names}
        if self.text is not None:
            record["tokens"] = self.text.tokens
            if self.text.attributions is not None:
                record["token_attributions"] = self.text.attributions.tolist()
        if self.image is not None:
            record["patch_rollout"] = self.image.rollout.tolist()
            if self.image.attributions is not None:
                (rows, columns), side = self.image.rollout.shape, self.image.patch_size
                seen = self.image.attributions[: rows * side, : columns * side]
                record["patch_attributions"] = seen.reshape(rows, side, columns, side).sum(axis=(1, 3)).tolist()
        return record


def explain(model: Any, question: Question) -> Explanation:
    """Explain one output of a model.

    Args:
        model: a `ZooModel` with what it needs to read or see.
        question: what it is given, and what of its output is meant.

    Raises:
        UserError: the model takes other things than those given, or what is meant is not there.
    """
    require_options(model.family, model.task, question)
    kind = find_kind(model.family, model.task)
    text = question.other if kind == "contrast" else question.text
    inputs = model_inputs(
        model,
        None if text is None else [text],
        None if question.context is None else [question.context],
        None if question.image is None else [question.image],
        offsets=True,
    )
    if text is not None:
        _require_length(model, inputs, text, question.context)
    inputs = {spec.name: inputs[spec.name] for spec in model.input_specs if spec.name in inputs}

    reference = None
    if kind == "embed" and question.other is not None:
        reference = embed(model, [question.other], are_images=False)[0]
        reference = reference / max(float(np.linalg.norm(reference)), 1e-12)
    target = find_target(model, inputs, question, reference)
    attribution = None if target is None else _attribute(model, inputs, target)
    outputs = model({**inputs}, return_weights=True, training=False)
    shared = outputs.get("attention")
    texts = (
        None
        if text is None
        else _explain_text(model, inputs, outputs.get("text_attention", shared), target, attribution)
    )
    images = (
        None
        if question.image is None
        else _explain_image(model, inputs, outputs.get("image_attention", shared), attribution)
    )
    return Explanation(f"{model.family} {model.task}", target, attribution, texts, images)


def _require_length(model: Any, inputs: dict[str, np.ndarray], text: str, context: str | None) -> None:
    tokens = inputs["token_ids"].shape[1]
    if tokens > LONGEST_TEXT:
        raise UserError(f"the text has {tokens} tokens, and {LONGEST_TEXT} can be shown: give a part of it")
    whole = sum(map(len, model.tokenizer.encode_batch([text] if context is None else [text, context])))
    kept = int((inputs["sequence_ids"] >= 0).sum())
    if whole > kept:
        logger.warning("the text has %d tokens, and the model reads %d of them: the rest is cut off", whole, kept)


def _attribute(model: Any, inputs: dict[str, np.ndarray], target: Target) -> Attribution:
    if "token_ids" in inputs:
        inputs = embed_tokens(model, inputs)
    baselines = neutral_baselines(model, inputs)
    if all(np.array_equal(inputs[name], baseline) for name, baseline in baselines.items()):
        raise UserError("the text has no words, so that nothing could be what the output rests on")
    return integrated_gradients(
        target.score, inputs, baselines, batch_size=BATCH if model.count_params() > LARGE else POINTS
    )


def _explain_text(
    model: Any, inputs: dict[str, np.ndarray], weights: Any, target: Target | None, attribution: Attribution | None
) -> TextPart:
    return TextPart(
        tokens=[name_token(model.tokenizer, int(number)) for number in inputs["token_ids"][0]],
        attention=[np.asarray(block)[0] for block in weights],
        rollout=attention_rollout(weights, inputs.get("padding_mask"))[0],
        attributions=None if attribution is None else attribution.attributions["token_vectors"][0].sum(axis=-1),
        places=() if target is None else target.places,
    )


def _explain_image(
    model: Any, inputs: dict[str, np.ndarray], weights: Any, attribution: Attribution | None
) -> ImagePart:
    images = inputs["images"]
    size = getattr(model.config, "vision", model.config).patch_size
    rows, columns = images.shape[1] // size, images.shape[2] // size
    rollout = attention_rollout(weights)[0]
    averaged = model.task == "embed" and model.config.pooling == "mean"
    read = rollout[1:].mean(axis=0) if averaged else rollout[0]  # the first token is the class token
    how = model.preprocessing
    pixels = (images[0] * np.array(how.std) + np.array(how.mean)) / how.rescale_factor
    return ImagePart(
        pixels=np.clip(np.rint(pixels), 0, 255).astype(np.uint8),
        rollout=read[1:].reshape(rows, columns),
        patch_size=size,
        attributions=None if attribution is None else attribution.attributions["images"][0].sum(axis=-1),
    )
