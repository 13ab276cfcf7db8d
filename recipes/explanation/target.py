"""Which number of a model's output is to be explained, by task. TensorFlow is not imported until one is computed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from zoo.config import nearest
from zoo.errors import UserError
from zoo.text.specification import BYTE_OF

# What the family's own objective comes to.
PRETRAINING = {"bert": "masked_lm", "gpt": "generate", "vit": "classify", "clip": "contrast"}
CHOICES = {  # options by what they are good for
    "target": ("classify", "tag", "masked_lm", "generate"),
    "token": ("tag", "masked_lm"),
    "text": ("contrast", "embed"),
    "context": ("answer", "classify", "tag", "masked_lm", "embed", "backbone"),
}
LONGEST_ANSWER = 30  # tokens


@dataclasses.dataclass(frozen=True)
class Question:
    """What a user asks to be explained.

    Attributes:
        text, image: what the model is given, as it needs: `image` is a file.
        context: a second text, read together with `text` (BERT).
        other: a text whose embedding the model's is compared with.
        target: a class or a token instead of the likeliest.
        token: the number of a token instead of the one that tells most.
    """

    text: str | None = None
    image: str | None = None
    context: str | None = None
    other: str | None = None
    target: str | None = None
    token: int | None = None


@dataclasses.dataclass(frozen=True)
class Target:
    """One number of an output.

    Attributes:
        what: in words.
        score: from a model's inputs to it, (batch,).
        probability: of what it stands for, where it is the logit of something.
        places: the tokens that it is read at; none where it is read at all of them.
    """

    what: str
    score: Callable[[dict[str, Any]], Any]
    probability: float | None = None
    places: tuple[int, ...] = ()


def find_kind(family: str, task: str) -> str:
    """The task that says what is explained."""
    return PRETRAINING[family] if task == "pretrain" else task


def require_options(family: str, task: str, question: Question) -> None:
    """Raise UserError where an option is given that the model has no use for, or one is missing."""
    kind = find_kind(family, task)
    given = {"target": question.target, "token": question.token, "text": question.other, "context": question.context}
    for name, value in given.items():
        serves = kind in CHOICES[name] and not (name == "context" and family != "bert")
        if value is not None and not (serves and not (name == "text" and family == "vit")):
            raise UserError(f"--{name} says nothing to a {family} model for {task!r}: leave it out")
    if kind == "answer" and question.context is None:
        raise UserError("a question is answered from a text: give it as --context")
    if kind == "contrast" and question.other is None:
        raise UserError("CLIP compares an image with a text: give that as --text")


def find_target(model: Any, inputs: dict[str, np.ndarray], question: Question, reference: Any = None) -> Target | None:
    """What is explained of a model's output, None for a backbone, which decides nothing.

    Args:
        model: a `ZooModel`.
        inputs: a batch of one.
        question: `target` and `token` are read here.
        reference: what an embedding is compared with, (width,) of length 1; itself where None.

    Raises:
        UserError: the target is none of the model's classes or no token, or there is no such place.
    """
    kind = find_kind(model.family, model.task)
    if kind == "backbone":
        return None
    finders = {
        "classify": _class,
        "tag": _tag,
        "masked_lm": _masked_token,
        "generate": _next_token,
        "answer": _answer,
    }
    if kind in finders:
        return finders[kind](model, inputs, question)
    return _similarity(model, inputs) if kind == "contrast" else _direction(model, inputs, reference)


def _class(model: Any, inputs: dict[str, np.ndarray], question: Question) -> Target:
    logits = np.asarray(model(inputs, training=False)["logits"])[0]
    number = _find_class(model, question.target, len(logits)) if question.target else int(np.argmax(logits))

    def score(values: dict[str, Any]) -> Any:
        return model(values, training=False)["logits"][:, number]

    return Target(f"class {_label(model, number)!r}", score, _probability(logits, number), _ends(model, inputs))


def _tag(model: Any, inputs: dict[str, np.ndarray], question: Question) -> Target:
    logits = np.asarray(model(inputs, training=False)["logits"])[0]  # (tokens, classes)
    place = question.token
    if place is None:
        place = _most_telling(model, inputs, logits)
    _require_place(place, len(logits))
    number = _find_class(model, question.target, logits.shape[1]) if question.target else int(np.argmax(logits[place]))

    def score(values: dict[str, Any]) -> Any:
        return model(values, training=False)["logits"][:, place, number]

    token = name_token(model.tokenizer, inputs["token_ids"][0, place])
    what = f"class {_label(model, number)!r} of token {place}, {token!r}"
    return Target(what, score, _probability(logits[place], number), (place,))


def _most_telling(model: Any, inputs: dict[str, np.ndarray], logits: np.ndarray) -> int:
    """The word of whose class the model is surest, leaving out the words that it takes for nothing ("O")."""
    best = logits.argmax(axis=1)
    words = ~np.isin(inputs["token_ids"][0], special_tokens(model.tokenizer))
    if not words.any():
        raise UserError("the text has no words to tag")
    named = words & np.array([_label(model, number) != "O" for number in best])
    sure = np.array([_probability(row, number) for row, number in zip(logits, best, strict=True)])
    return int(np.argmax(np.where(named if named.any() else words, sure, -1)))


def _masked_token(model: Any, inputs: dict[str, np.ndarray], question: Question) -> Target:
    ids, place = inputs["token_ids"][0], question.token
    if place is None:
        mask = model.tokenizer.special_ids.get("mask", -1)
        if mask not in ids:
            written = model.tokenizer.decode([mask]) if mask >= 0 else "a mask token"
            raise UserError(f"nothing is masked: write {written} where a token is missing, or name one with --token")
        place = int(np.argmax(ids == mask))
    _require_place(place, len(ids))
    positions = np.array([[place]], np.int32)
    logits = np.asarray(model({**inputs, "masked_positions": positions}, training=False)["logits"])[0, 0]
    number = _find_token(model, question.target, logits)

    def score(values: dict[str, Any]) -> Any:
        repeated = np.repeat(positions, len(values["token_ids"]), axis=0)
        return model({**values, "masked_positions": repeated}, training=False)["logits"][:, 0, number]

    what = f"{name_token(model.tokenizer, number)!r} at token {place}"
    return Target(what, score, _probability(logits, number), (place,))


def _next_token(model: Any, inputs: dict[str, np.ndarray], question: Question) -> Target:
    def project_last(values: dict[str, Any]) -> Any:
        # The logits of the last token alone: those of all would be the largest tensors by far.
        return model.project(model.backbone(values, training=False)["sequence"][:, -1])

    logits = np.asarray(project_last(inputs))[0]
    number = _find_token(model, question.target, logits)
    what = f"{name_token(model.tokenizer, number)!r} as the next token"
    place = len(inputs["token_ids"][0]) - 1
    return Target(what, lambda values: project_last(values)[:, number], _probability(logits, number), (place,))


def _answer(model: Any, inputs: dict[str, np.ndarray], question: Question) -> Target:
    outputs = model(inputs, training=False)
    starts, ends = (np.asarray(outputs[name])[0] for name in ("start_logits", "end_logits"))
    ids = inputs["token_ids"][0]
    places = (inputs["segment_ids"][0] == 1) & ~np.isin(ids, special_tokens(model.tokenizer))
    if not places.any():
        raise UserError("no word of --context is left to answer from: shorten the question, or give a longer context")
    pairs = np.triu(np.ones((len(ids), len(ids)), bool)) & places[:, None] & places
    pairs &= ~np.triu(pairs, LONGEST_ANSWER)
    first, last = np.unravel_index(np.argmax(np.where(pairs, starts[:, None] + ends, -np.inf)), pairs.shape)

    def score(values: dict[str, Any]) -> Any:
        outputs = model(values, training=False)
        return outputs["start_logits"][:, first] + outputs["end_logits"][:, last]

    text = model.tokenizer.decode(ids[first : last + 1])
    probability = _probability(starts, int(first)) * _probability(ends, int(last))
    return Target(f"the answer {text!r}, tokens {first} to {last}", score, probability, (int(first), int(last)))


def _similarity(model: Any, inputs: dict[str, np.ndarray]) -> Target:
    import tensorflow as tf

    def score(values: dict[str, Any]) -> Any:
        outputs = model(values, training=False)
        return tf.reduce_sum(outputs["image_embedding"] * outputs["text_embedding"], axis=-1)

    ids, end = inputs["token_ids"][0], model.config.end_token
    places = {
        "end": (int(np.argmax(ids if end is None else ids == end)),),
        "last": (len(ids) - 1,),
        "first": (0,),
        "mean": (),
    }[model.config.text_pooling]
    return Target("the cosine similarity of image and text", score, places=places)


def _direction(model: Any, inputs: dict[str, np.ndarray], reference: Any) -> Target:
    """An embedding is no number; how far it points to where the reference points is one."""
    import tensorflow as tf

    what = "the cosine similarity to the embedding of the other text"
    if reference is None:
        reference = tf.nn.l2_normalize(model(inputs, training=False)["embedding"][0])
        what = "the cosine similarity to the input's own embedding (1 for the input)"
    direction = tf.constant(reference)

    def score(values: dict[str, Any]) -> Any:
        embedding = tf.nn.l2_normalize(model(values, training=False)["embedding"], axis=-1)
        return tf.linalg.matvec(embedding, direction)

    return Target(what, score, places=() if model.config.pooling == "mean" else _ends(model, inputs))


def _ends(model: Any, inputs: dict[str, np.ndarray]) -> tuple[int, ...]:
    """The token that stands for a whole text: the first for BERT, the last for GPT."""
    if model.family == "vit":
        return ()
    return (0 if model.family == "bert" else len(inputs["token_ids"][0]) - 1,)


def special_tokens(tokenizer: Any) -> list[int]:
    """The ids of the tokens that are no words."""
    return [number for role, number in tokenizer.special_ids.items() if role != "unk"]


def name_token(tokenizer: Any, number: int) -> str:
    """A token as it is written; the bytes of a part of a character as \\xe3."""
    text = tokenizer.decode([number])
    if "\N{REPLACEMENT CHARACTER}" not in text:
        return text
    known = tokenizer.specification
    if tokenizer.kind in ("bpe", "char"):
        return known.token_bytes[number].decode(errors="backslashreplace")
    token = next(token for token, each in known.vocabulary.items() if each == number).removesuffix("</w>")
    spelled = tokenizer.kind == "clip" and BYTE_OF.keys() >= set(token)
    return bytes(BYTE_OF[character] for character in token).decode(errors="backslashreplace") if spelled else text


def _label(model: Any, number: int) -> str:
    return model.labels[number] if model.labels else f"LABEL_{number}"


def _find_class(model: Any, wanted: str, count: int) -> int:
    names = [_label(model, number) for number in range(count)]
    if names.count(wanted) > 1:
        places = ", ".join(str(number) for number, name in enumerate(names) if name == wanted)
        raise UserError(f"--target {wanted!r:.80} is the name of several classes: choose a number of {places}")
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < count:
        return int(wanted)
    raise UserError(f"--target {wanted!r:.80} is no class, nor a number below {count}{nearest(wanted, names[:20])}")


def _find_token(model: Any, wanted: str | None, logits: np.ndarray) -> int:
    if wanted is None:
        return int(np.argmax(logits[: model.tokenizer.vocabulary_size]))  # a table may have more rows than tokens
    ids = model.tokenizer.encode(wanted)
    if len(ids) != 1:
        parts = " ".join(repr(name_token(model.tokenizer, each)) for each in ids[:8])
        raise UserError(f"--target {wanted!r:.80} is {len(ids)} tokens, and must be one: {parts}")
    return ids[0]


def _require_place(place: int, count: int) -> None:
    if not 0 <= place < count:
        raise UserError(f"--token is {place}, and the input has tokens 0 to {count - 1}")


def _probability(logits: np.ndarray, number: int) -> float:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return float(powers[number] / powers.sum())
