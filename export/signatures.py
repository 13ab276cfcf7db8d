"""What can be asked of a model: functions of tensors, the same in every format, each with named inputs and outputs."""

import dataclasses
from collections.abc import Callable
from typing import Any

from keras import ops

from zoo.model import Axis, TensorSpec, ZooModel

SERVING = "serving_default"  # what a server calls where no other function is named
LONGEST_ANSWER = 30  # tokens
PAST, ALL = "past", "past + tokens"  # axes of a cache that grows, and of the mask over it and what is appended
OUTSIDE = -1e9  # added to the score of what cannot be part of an answer

Tensors = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Signature:
    """One function of a model.

    Attributes:
        name: what it is called by.
        inputs: what it takes.
        outputs: the names of what it gives.
        compute: from the inputs to the outputs, by name; dropout is off.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    compute: Callable[[Tensors], Tensors]


def signatures(model: ZooModel) -> list[Signature]:
    """The functions that every format has: the model itself, `serving_default`, which gives what the model gives and
    what is to be concluded from it; and of two towers each one by itself, `encode_image` and `encode_text`.

    Beside the outputs of the model, `serving_default` gives

    - where the logits are of classes: `probabilities`, of the same shape, float32;
    - where they are of an answer's ends: `start` and `end`, int32 (batch,), the first and the last token of the
      likeliest answer of at most 30 tokens in the second segment, and `score`, float32 (batch,), the sum of their
      two logits.
    """
    conclude, concluded = _conclusion(model)

    def serve(inputs: Tensors) -> Tensors:
        outputs = model(inputs, training=False)
        outputs = {name: outputs[name] for name in model.output_names}
        return {**outputs, **conclude(inputs, outputs)}

    found = [Signature(SERVING, model.input_specs, (*model.output_names, *concluded), serve)]
    if hasattr(model, "encode_text"):
        images = tuple(spec for spec in model.input_specs if spec.name == "images")
        texts = tuple(spec for spec in model.input_specs if spec.name != "images")
        found += [
            Signature(
                "encode_image", images, ("image_embedding",), lambda x: {"image_embedding": model.encode_image(**x)}
            ),
            Signature("encode_text", texts, ("text_embedding",), lambda x: {"text_embedding": model.encode_text(**x)}),
        ]
    return found


def portable_signatures(model: ZooModel) -> list[Signature]:
    """Those that a file for a device or a browser is made of: of two towers each one by itself, else the model."""
    found = signatures(model)
    return found[1:] or found


def gives_classes(model: ZooModel) -> bool:
    """Whether the model's logits are of classes, which may have names."""
    return model.task in ("classify", "tag") or (model.family == "vit" and model.task == "pretrain")


def _conclusion(model: ZooModel) -> tuple[Callable[[Tensors, Tensors], Tensors], tuple[str, ...]]:
    if gives_classes(model):
        return lambda inputs, outputs: {"probabilities": ops.softmax(outputs["logits"])}, ("probabilities",)
    if model.task == "answer":
        return _find_answer, ("start", "end", "score")
    return lambda inputs, outputs: {}, ()


def _find_answer(inputs: Tensors, outputs: Tensors) -> Tensors:
    """The highest sum of two logits (Devlin et al. 2019, section 4.2), in the second segment but its final mark."""
    inside = ops.cast(inputs["segment_ids"] * inputs["padding_mask"], "float32")  # (batch, tokens)
    inside = inside * ops.concatenate([inside[:, 1:], ops.zeros_like(inside[:, :1])], axis=1)
    starts = ops.expand_dims(outputs["start_logits"] + (1.0 - inside) * OUTSIDE, 2)
    ends = ops.expand_dims(outputs["end_logits"] + (1.0 - inside) * OUTSIDE, 1)
    tokens = ops.shape(inside)[1]
    places = ops.arange(tokens, dtype="int32")
    length = ops.expand_dims(places, 0) - ops.expand_dims(places, 1)  # of the answer, less one: (start, end)
    fits = ops.cast(ops.logical_and(length >= 0, length < LONGEST_ANSWER), "float32")
    sums = ops.reshape(starts + ends + (1.0 - fits) * OUTSIDE, (-1, tokens * tokens))
    # Not `argmax`: Keras's tells 0.0 from -0.0, bit by bit, which TFLite cannot.
    score, best = ops.top_k(sums, 1)
    best = ops.cast(best[:, 0], "int32")
    start = best // tokens
    return {"start": start, "end": best - start * tokens, "score": score[:, 0]}


def cache_specs(model: ZooModel, batch: Axis | int, slots: Axis | int, prefix: str = "") -> tuple[TensorSpec, ...]:
    """The keys and values of a language model's blocks, as inputs: `key_0`, `value_0`, `key_1`, ... with `prefix` in
    front, each float32 (batch, heads, slots, head_dim)."""
    c = model.config
    shape = (batch, c.num_heads, slots, c.width // c.num_heads)
    return tuple(
        TensorSpec(f"{prefix}{part}_{block}", "float32", shape) for block in range(c.depth) for part in ("key", "value")
    )


def cache_from(tensors: Tensors, depth: int, prefix: str = "") -> tuple[dict[str, Any], ...]:
    """The cache that a backbone takes, from tensors named as `cache_specs` has them."""
    return tuple({part: tensors[f"{prefix}{part}_{block}"] for part in ("key", "value")} for block in range(depth))


def cache_tensors(cache: tuple[dict[str, Any], ...], prefix: str = "") -> Tensors:
    """The tensors of a cache, named as `cache_specs` has them."""
    return {f"{prefix}{part}_{block}": each[part] for block, each in enumerate(cache) for part in ("key", "value")}


def generates(model: ZooModel) -> bool:
    """Whether the model writes text token by token, from a cache."""
    return model.task in ("generate", "pretrain") and hasattr(model, "project")


def serving_cache_signatures(model: ZooModel) -> list[Signature]:
    """`prefill` and `decode`, by which a server's client generates, for any batch, by operators of core TensorFlow.

    Both take `token_ids` and `positions` (batch, tokens), and `padding_mask` (batch, past + tokens), 1 for real tokens:
    prompts of several lengths end in the same place, and begin with padding. `decode` takes the cache too, which is as
    long as what was read. Both give `logits` (batch, vocabulary_size), those of the last token, and the cache with
    these tokens in it.
    """
    c = model.config
    batch, tokens, past = Axis("batch"), Axis("tokens", c.max_length), Axis(PAST, c.max_length - 1)
    cache = cache_specs(model, batch, past)
    common = (
        TensorSpec("token_ids", "int32", (batch, tokens), highest=c.vocabulary_size - 1),
        TensorSpec("positions", "int32", (batch, tokens), highest=c.max_length - 1),
        TensorSpec("padding_mask", "int32", (batch, Axis(ALL, c.max_length)), highest=1),
    )

    def step(inputs: Tensors, before: Any) -> Tensors:
        read = {name: inputs[name] for name in ("token_ids", "positions", "padding_mask")}
        outputs = model.backbone(read, cache=before, training=False)
        return {"logits": model.project(outputs["sequence"][:, -1]), **cache_tensors(outputs["cache"])}

    def prefill(inputs: Tensors) -> Tensors:
        return step(inputs, model.backbone.empty_cache(ops.shape(inputs["token_ids"])[0], 0))

    def decode(inputs: Tensors) -> Tensors:
        return step(inputs, cache_from(inputs, c.depth))

    outputs = ("logits", *(spec.name for spec in cache))
    return [
        Signature("prefill", common, outputs, prefill),
        Signature("decode", (*common, *cache), outputs, decode),
    ]


def device_cache_signatures(model: ZooModel, slots: int, prefills: tuple[int, ...]) -> list[Signature]:
    """`prefill_N`, for each N of `prefills`, and `decode`, for one sequence on a device, every shape fixed.

    They take `token_ids` (1, N), or (1, 1) to decode, `position` int32 (1,), the slot of the first of these tokens,
    and a cache of `slots`, zeros at first. All give the cache with the tokens in it; `decode` also `logits` (1,
    vocabulary_size), of the token after. A slot is written before it is looked at: what a prefill has read beyond the
    end of a prompt does no harm, if all its slots are there.
    """
    c = model.config

    def read(inputs: Tensors) -> Tensors:
        token_ids, first = inputs["token_ids"], inputs["position"][0]
        positions = ops.arange(token_ids.shape[1], dtype="int32") + first
        positions = ops.minimum(positions, c.max_length - 1)
        return model.backbone(
            {"token_ids": token_ids, "positions": positions},
            cache=cache_from(inputs, c.depth),
            cache_index=first,
            training=False,
        )

    def prefill(inputs: Tensors) -> Tensors:
        return cache_tensors(read(inputs)["cache"])

    def decode(inputs: Tensors) -> Tensors:
        outputs = read(inputs)
        return {"logits": model.project(outputs["sequence"][:, -1]), **cache_tensors(outputs["cache"])}

    cache = cache_specs(model, 1, slots)
    names = tuple(spec.name for spec in cache)
    position = TensorSpec("position", "int32", (1,), highest=slots - 1)

    def make(name: str, tokens: int, outputs: tuple[str, ...], compute: Callable[[Tensors], Tensors]) -> Signature:
        token_ids = TensorSpec("token_ids", "int32", (1, tokens), highest=c.vocabulary_size - 1)
        return Signature(name, (token_ids, position, *cache), outputs, compute)

    return [
        *(make(f"prefill_{tokens}", tokens, names, prefill) for tokens in prefills),
        make("decode", 1, ("logits", *names), decode),
    ]


def growing_cache_signature(model: ZooModel) -> Signature:
    """`decode_with_past`: tokens appended to a cache that is as long as what was read, empty at first, and grows.

    It takes `token_ids` and `positions` (batch, tokens), `padding_mask` (batch, past + tokens), and the cache as
    `past_key_0`, `past_value_0`, ... It gives `logits` (batch, tokens, vocabulary_size), and the longer cache as
    `present_key_0`, `present_value_0`, ...
    """
    c = model.config
    batch, tokens, past = Axis("batch"), Axis("tokens", c.max_length), Axis(PAST, c.max_length - 1)
    inputs = (
        TensorSpec("token_ids", "int32", (batch, tokens), highest=c.vocabulary_size - 1),
        TensorSpec("positions", "int32", (batch, tokens), highest=c.max_length - 1),
        TensorSpec("padding_mask", "int32", (batch, Axis(ALL, c.max_length)), highest=1),
        *cache_specs(model, batch, past, "past_"),
    )

    def compute(tensors: Tensors) -> Tensors:
        outputs = model(
            {name: tensors[name] for name in ("token_ids", "positions", "padding_mask")},
            cache=cache_from(tensors, c.depth, "past_"),
            training=False,
        )
        return {"logits": outputs["logits"], **cache_tensors(outputs["cache"], "present_")}

    outputs = ("logits", *(spec.name for spec in cache_specs(model, batch, past, "present_")))
    return Signature("decode_with_past", inputs, outputs, compute)
