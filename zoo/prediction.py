"""What a model says of texts and images, in words: from strings and pictures to its inputs, from its outputs back."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import UserError
from zoo.huggingface import reading_length
from zoo.image import preprocess, read_image
from zoo.text import END_OF_TEXT
from zoo.text.entities import find_words, join_labels
from zoo.text.windows import best_spans

logger = logging.getLogger("zoo")

Record = dict[str, Any]

TEMPLATE = "a photo of a {}."  # OpenAI's first (Radford et al. 2021, section 3.1.4)
CANDIDATES = 5  # classes or tokens that are named
LONGEST_TEXT = 1_000_000  # tokens, of a text that is measured
WINDOWS = 16  # of long contexts, that are run at a time where there are fewer questions


def model_inputs(
    model: Any,
    texts: Sequence[str] | None = None,
    pairs: Sequence[str] | None = None,
    images: Sequence[str | Path | bytes | np.ndarray] | None = None,
    offsets: bool = False,
) -> dict[str, np.ndarray]:
    """What a model takes, from what people have.

    Args:
        model: a `ZooModel`.
        texts: one string a row, for a model that reads.
        pairs: for each text a second one, read together with it.
        images: files, their bytes, or uint8 arrays (height, width, 3), for a model that sees.
        offsets: add `offsets` and `sequence_ids`, as `Tokenizer.prepare` makes them.

    Returns:
        The inputs by name, with a batch axis. Texts too long are cut at the end, the longer of a pair first.

    Raises:
        UserError: the model takes other things than those given, or has no tokenizer, or a file is no image.
    """
    inputs: dict[str, np.ndarray] = {}
    names = {spec.name for spec in model.input_specs}
    for given, name, what in ((texts, "token_ids", "texts"), (images, "images", "images")):
        if given is not None and name not in names:
            raise UserError(f"a {model.family} model for {model.task!r} takes no {what}")
    if texts is not None:
        tokenizer = _tokenizer(model)
        if tokenizer.kind in ("bpe", "char"):  # without special tokens an empty text would be no token at all
            texts = [text or END_OF_TEXT for text in texts]
        length = reading_length(tokenizer, model.config)
        inputs = tokenizer.prepare(texts, pairs, max_length=length, offsets=offsets)
        full = np.flatnonzero(inputs["padding_mask"].sum(axis=1) == length).tolist()
        whole = tokenizer.prepare(
            [texts[row] for row in full], pairs and [pairs[row] for row in full], max_length=LONGEST_TEXT
        )
        if cut := int((whole["padding_mask"].sum(axis=1) > length).sum()):
            logger.warning("%d of %d texts are longer than %d tokens: their ends are not read", cut, len(texts), length)
    if images is not None:
        if model.preprocessing is None:
            raise UserError(f"the {model.family} model has no preprocessing for images of colour")
        pictures = [image if isinstance(image, np.ndarray) else read_image(image) for image in images]
        inputs["images"] = preprocess(pictures, model.preprocessing)
    return {name: value for name, value in inputs.items() if name in names or name in ("offsets", "sequence_ids")}


class Predictor:
    """Answers in the terms of the model's task. One record a text, pair or image:

    - "classify": `label`, `probability`, and the best five of `probabilities`.
    - "tag": `entities`, each with `label`, `text`, `start`, `end` (characters), and `probability`, that of the word
      that is least certain; labels that begin with B-, I- and the like are joined as they mean, and "O" is left out.
      Words are what the tokenizer splits at white space and punctuation.
    - "answer" (a question, and a context of any length): `answer`, `start`, `end` (characters of the context), `score`.
      The answer is "" where a question may have none, and the model says so.
    - "masked_lm": for each mask in the text `start` (character) and the best five of `tokens`.
    - "generate": the best five of `tokens` to come next.
    - "contrast" (images, and labels to choose from): as "classify".

    Args:
        model: a `ZooModel` with what it needs to read or see.
        labels: for "contrast", what an image may show; a text each.
        template: what is said of a label to the text tower, with {} for it.
        unanswerable: for "answer", whether a question may have no answer: for models that were trained on some of them.

    Raises:
        UserError: the task answers nothing, or labels are missing or not wanted.
    """

    def __init__(
        self,
        model: Any,
        labels: Sequence[str] = (),
        template: str = TEMPLATE,
        unanswerable: bool = False,
    ) -> None:
        answers: dict[str, Callable[..., list[Record]]] = {
            "classify": self._classify,
            "tag": self._tag,
            "answer": self._answer,
            "masked_lm": self._fill,
            "generate": self._continue,
            "contrast": self._choose,
        }
        if model.task not in answers:
            raise UserError(
                f"a {model.family} model for {model.task!r} gives no answer in words: zoo embed gives vectors"
            )
        if (model.task == "contrast") != bool(labels):
            raise UserError("only CLIP takes labels to choose from" if labels else "CLIP needs labels to choose from")
        if labels and len(set(labels)) < max(2, len(labels)):
            raise UserError(f"CLIP chooses from different labels, two at least, and not from {', '.join(labels):.80}")
        if unanswerable and model.task != "answer":
            raise UserError(f"a {model.family} model for {model.task!r} answers no questions, unanswerable or not")
        self.model, self.labels, self.template, self.unanswerable = model, list(labels), template, unanswerable
        names = Counter(self.labels or model.labels or ())
        self._ambiguous = {i for i, name in enumerate(self.labels or model.labels or ()) if names[name] > 1}
        self._answers = answers[model.task]
        self._classifier: Any = None

    def predict(self, items: Sequence[Any], pairs: Sequence[str] | None = None) -> list[Record]:
        """A record for each text, pair of texts, or image.

        Raises:
            UserError: an item is not what the model takes; a question comes without its context; a text has no mask.
        """
        if not items:
            return []
        if pairs is not None and not (self.model.family == "bert" and self.model.task in ("classify", "answer")):
            raise UserError(f"a {self.model.family} model for {self.model.task!r} reads no pairs of texts")
        if self.model.task == "answer" and pairs is None:
            raise UserError("a question needs the text that holds its answer: give it as its pair")
        return self._answers(items, pairs)

    def _run(self, inputs: dict[str, np.ndarray], **more: np.ndarray) -> dict[str, np.ndarray]:
        from keras import ops

        names = {spec.name for spec in self.model.input_specs}
        outputs = self.model({name: value for name, value in inputs.items() if name in names} | more, training=False)
        return {name: ops.convert_to_numpy(outputs[name]) for name in self.model.output_names}

    def _read(self, items: Sequence[Any], pairs: Sequence[str] | None, offsets: bool = False) -> dict[str, np.ndarray]:
        sees = any(spec.name == "images" for spec in self.model.input_specs)
        return model_inputs(self.model, None if sees else items, pairs, items if sees else None, offsets)

    def _classify(self, items: Sequence[Any], pairs: Sequence[str] | None) -> list[Record]:
        return [name_best(row, self._label) for row in softmax(self._run(self._read(items, pairs))["logits"])]

    def _label(self, number: int) -> str:
        names = self.labels or self.model.labels
        if not names:
            return f"LABEL_{number}"
        # Two classes of ImageNet are both called crane.
        return names[number] if number not in self._ambiguous else f"{names[number]} ({number})"

    def _tag(self, items: Sequence[str], pairs: Sequence[str] | None) -> list[Record]:
        inputs = self._read(items, None, offsets=True)
        probabilities = softmax(self._run(inputs)["logits"])
        records: list[Record] = []
        for row, text in enumerate(items):
            pieces = np.flatnonzero(inputs["sequence_ids"][row] == 0)
            continues = self.model.tokenizer.continues_word[inputs["token_ids"][row, pieces]]
            firsts, spans = find_words(inputs["offsets"][row, pieces], continues)
            words = probabilities[row, pieces[firsts]]  # (words, classes): a word is what its first piece is
            labels = [self._label(int(number)) for number in words.argmax(axis=1)]
            found: list[Record] = []
            for entity in join_labels(labels, spans):
                start, end = entity.start, entity.end
                inside = (spans[:, 0] >= start) & (spans[:, 1] <= end)
                part = {"label": entity.label, "text": text[start:end], "start": start, "end": end}
                found.append({**part, "probability": float(words[inside].max(axis=1).min())})
            records.append({"entities": found})
        return records

    def _answer(self, items: Sequence[str], pairs: Sequence[str] | None) -> list[Record]:
        contexts, tokenizer = pairs or [], _tokenizer(self.model)
        length = reading_length(tokenizer, self.model.config)
        inputs = tokenizer.prepare_windows(items, contexts, max_length=length)
        # One context may be thousands of windows.
        count = max(len(items), WINDOWS)
        outputs = [
            self._run({name: value[start : start + count] for name, value in inputs.items()})
            for start in range(0, len(inputs["pair"]), count)
        ]
        starts, ends = (np.concatenate([each[name] for each in outputs]) for name in ("start_logits", "end_logits"))
        found = best_spans(inputs, starts, ends, null=self.unanswerable)
        return [
            {"answer": context[span.start : span.end], **dataclasses.asdict(span)}
            for context, span in zip(contexts, found, strict=True)
        ]

    def _fill(self, items: Sequence[str], pairs: Sequence[str] | None) -> list[Record]:
        inputs = self._read(items, pairs, offsets=True)
        mask = self.model.tokenizer.special_ids.get("mask")
        places = [np.flatnonzero(row == (-1 if mask is None else mask)) for row in inputs["token_ids"]]
        for text, found in zip(items, places, strict=True):
            if not len(found):
                name = self.model.tokenizer.decode([mask]) if mask is not None else "a mask token"
                raise UserError(f"{text!r:.60} holds nothing to predict: write {name} where a token is missing")
        # The logits of all other tokens, each as long as the vocabulary, are never made.
        most = max(map(len, places))
        positions = np.stack([np.resize(found, most) for found in places]).astype("int32")
        logits = self._run(inputs, masked_positions=positions)["logits"]
        records = []
        for row, found in enumerate(places):
            starts = inputs["offsets"][row, found, 0]
            tokens = [self._best_tokens(softmax(logits[row, i])) for i in range(len(found))]
            records.append(
                {"masks": [{"start": int(s), "tokens": each} for s, each in zip(starts, tokens, strict=True)]}
            )
        return records

    def _continue(self, items: Sequence[str], pairs: Sequence[str] | None) -> list[Record]:
        from keras import ops

        inputs = self._read(items, None)
        last = inputs["padding_mask"].sum(axis=1, keepdims=True) - 1
        sequence = self.model.backbone(inputs, training=False)["sequence"]
        # Of the last tokens alone: all logits of a full context would be gigabytes.
        vectors = ops.take_along_axis(sequence, last[:, :, None].astype("int32"), axis=1)[:, 0]
        logits = ops.convert_to_numpy(self.model.project(vectors))
        return [{"tokens": self._best_tokens(softmax(row))} for row in logits]

    def _best_tokens(self, probabilities: np.ndarray) -> list[Record]:
        known = probabilities[: self.model.tokenizer.vocabulary_size]
        order = np.argsort(-known, kind="stable")[:CANDIDATES]
        # A list: several tokens can be written alike, such as halves of characters.
        return [
            {"token": self.model.tokenizer.decode([int(number)]), "probability": float(known[number])}
            for number in order
        ]

    def _choose(self, items: Sequence[Any], pairs: Sequence[str] | None) -> list[Record]:
        from zoo.zero_shot import ZeroShotClassifier

        if self._classifier is None:
            self._classifier = ZeroShotClassifier(self.model, self.labels, [self.template])
        return self._classifier.predict(items)


def embed(model: Any, items: Sequence[Any], are_images: bool) -> np.ndarray:
    """One vector for each text or image: float32 (items, width).

    Args:
        model: for the task "embed", or a CLIP.
        items: texts or images, as `model_inputs` takes them.
        are_images: which.

    Raises:
        UserError: the model embeds no such thing.
    """
    from keras import ops

    inputs = model_inputs(model, images=items) if are_images else model_inputs(model, texts=items)
    return ops.convert_to_numpy(encode(model, inputs))


def encode(model: Any, inputs: dict[str, Any]) -> Any:
    """One vector for each row of what `model_inputs` gives for texts or for images, (rows, width) float32, also inside
    a TensorFlow function.

    Raises:
        UserError: the model is neither for the task "embed" nor a CLIP.
    """
    if hasattr(model, "encode_text"):
        return model.encode_image(inputs["images"]) if "images" in inputs else model.encode_text(**inputs)
    if model.task == "embed":
        return model(inputs, training=False)["embedding"]
    raise UserError(f"a {model.family} model for {model.task!r} gives no single vector: load it for the task 'embed'")


def _tokenizer(model: Any) -> Any:
    if model.tokenizer is None:
        raise UserError(f"the {model.family} model has no tokenizer: its directory holds none, so it reads no text")
    return model.tokenizer


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (..., classes) to probabilities of the same shape."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def probabilities_of_pairs(model: Any, logits: np.ndarray) -> np.ndarray:
    """What a CLIP's logits (images, texts) say of the texts, float of the same shape: each image has one of them; or,
    if the model was trained with the sigmoid loss, each text by itself fits or not."""
    return 1.0 / (1.0 + np.exp(-logits)) if model.config.loss == "sigmoid" else softmax(logits)


def name_best(probabilities: np.ndarray, name: Callable[[int], str]) -> Record:
    """`label`, `probability`, and the best five of `probabilities`, (classes,), whose names `name` gives."""
    order = np.argsort(-probabilities, kind="stable")[:CANDIDATES].tolist()
    named = {name(number): float(probabilities[number]) for number in order}
    return {"label": next(iter(named)), "probability": next(iter(named.values())), "probabilities": named}
