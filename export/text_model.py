"""A model that takes strings and answers in strings: a SavedModel with tokenizer and generation in its graph."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from export.generation import generate_in_graph
from export.guards import guarded
from export.saved_model import IMAGE_BYTES, read_files, trace
from export.signatures import OUTSIDE, SERVING, Signature, Tensors, generates, signatures
from zoo.errors import UserError
from zoo.huggingface import reading_length
from zoo.model import Axis, TensorSpec, ZooModel
from zoo.prediction import CANDIDATES
from zoo.text.graph import GraphTokenizer

MOST_NEW_TOKENS = 65536  # of one request

BATCH = (Axis("batch"),)
TEXT = TensorSpec("text", "string", BATCH)


def write_text_model(model: ZooModel, directory: Path) -> None:
    """Write the functions of `text_signatures` to `directory`, which for TensorFlow Serving is NAME/VERSION.

    Who loads it needs TensorFlow with the operators of TensorFlow Text, and no Python of ours.

    Raises:
        UserError: the model reads no text, or has no tokenizer that works in a graph, or answers nothing in words.
        OSError, tf.errors.OpError: it cannot be written.
    """
    module = tf.Module()
    module.weights = {name: weight.value for name, weight in model.named_weights().items()}
    module.tokenizer = make_tokenizer(model)
    traced = {function.name: trace(function) for function in text_signatures(model, module.tokenizer)}
    tf.saved_model.save(module, str(directory), signatures=traced)


def reads_text(model: ZooModel) -> bool:
    """Whether text is among what the model takes."""
    return any(spec.name == "token_ids" for spec in model.input_specs)


def make_tokenizer(model: ZooModel) -> GraphTokenizer:
    """The model's tokenizer as part of a graph, which cuts texts at the end to what the model can read.

    Raises:
        UserError: it has none, or one that cannot be part of a graph.
    """
    if not reads_text(model):
        raise UserError(f"a {model.family} model for {model.task!r} reads no text")
    if model.tokenizer is None:
        raise UserError(f"the {model.family} model has no tokenizer, so that it reads no strings")
    return GraphTokenizer(model.tokenizer, max_length=reading_length(model.tokenizer, model.config))


def text_signatures(model: ZooModel, tokenizer: GraphTokenizer) -> list[Signature]:
    """The functions of strings, by the model's task. All texts are UTF-8, what is not becomes U+FFFD, and those too
    long for the model are cut at the end, or where it continues them at the beginning. `serving_default` takes `text`,
    string (batch,), where nothing else is said.

    - "classify": `label`, string, the likeliest class by name or else by number, its `probability`, and `probabilities`
      and `logits` (batch, classes). BERT also has `pairs`, of `text` and `pair`.
    - "tag": for each token, (batch, tokens): the `token` itself, its `label`, `probability`, and `start` and `end`, the
      first character of the text that it stands for and one past the last; "" and 0 at padding and at the tokens that
      are put around a text.
    - "answer": takes `question` and `context`; gives `answer`, a part of the context, which is `start` to `end` in
      characters of it, and `score`, the sum of two logits. An answer has at most 30 tokens. A context with nothing in
      it has the answer "", and the score -1e9.
    - "masked_lm": the likeliest `token`s, (batch, masks, 5), best first, of each mask in the text, such as `[MASK]`,
      and the `probability` of each; "" and 0 in a row of fewer masks than the most of a row.
    - "embed": `embedding`. "backbone": `sequence`, `pooled` where there is a pooler, and `padding_mask`.
    - "generate": takes `max_new_tokens`, `temperature`, `top_k`, `top_p` and `seed` too, scalars, as
      `zoo.generation.Sampling` has them; gives the continuation as `text`, without the end-of-text token, and
      `token_ids` (batch, longest), and `lengths` (batch,), how many of these count.
    - "contrast": takes `image_bytes` (images,), files of images, and `text` (texts,), one or more; gives
      `image_embedding`, `text_embedding`, `logits_per_image` and `probabilities` (images, texts), and the `label` of
      each image, which is the likeliest of the texts. `encode_text` gives `text_embedding` alone.

    What is asked wrongly is refused, as `export.guards.guarded` says.

    Raises:
        UserError: the model answers nothing in words, or its tokenizer cannot write what it generates.
    """
    functions = _Functions(model, tokenizer)
    answers: dict[str, Any] = {
        "classify": functions.classify,
        "tag": functions.tag,
        "answer": functions.answer,
        "masked_lm": functions.fill,
        "embed": functions.encode,
        "backbone": functions.encode,
    }
    if hasattr(model, "encode_text"):
        answer = functions.contrast
    elif generates(model):
        answer = functions.generate
    elif model.task in answers:
        answer = answers[model.task]
    else:
        raise UserError(f"a {model.family} model for {model.task!r} gives no answer in words")
    return [guarded(function) for function in answer()]


class _Functions:
    """What `text_signatures` lists, a method a task."""

    def __init__(self, model: ZooModel, tokenizer: GraphTokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.serve = signatures(model)[0].compute
        self.specification = model.tokenizer.specification
        self.names = {spec.name for spec in model.input_specs}

    def read(self, texts: Any, pairs: Any = None, offsets: bool = False) -> tuple[Tensors, Any]:
        """The model's inputs, and where asked for the offsets."""
        inputs = self.tokenizer(texts, pairs, offsets)
        # A batch of no rows has no width, and the models need one.
        missing = [[0, 0], [0, tf.maximum(1 - tf.shape(inputs["token_ids"])[1], 0)], [0, 0]]
        inputs = {name: tf.pad(value, missing[: value.shape.rank]) for name, value in inputs.items()}
        spans = inputs.pop("offsets", None)
        if self.specification.kind == "bpe":  # without special tokens an empty text would be no token at all
            ids, mask = inputs["token_ids"], inputs["padding_mask"]
            instead = tf.reduce_sum(mask, axis=1, keepdims=True) + tf.range(tf.shape(ids)[1]) == 0
            inputs["token_ids"] = tf.where(instead, self.model.tokenizer.end_of_text, ids)
            inputs["padding_mask"] = tf.where(instead, 1, mask)
        return {name: value for name, value in inputs.items() if name in self.names}, spans

    def label(self, numbers: Any) -> Any:
        """The names of classes, or their numbers where they have none."""
        labels = self.model.labels
        return tf.gather(tf.constant([*labels]), numbers) if labels else tf.strings.as_string(numbers)

    def token_table(self) -> Any:
        """Tokens by their ids, string (vocabulary_size,)."""
        table = [""] * self.specification.size
        for token, number in self.specification.vocabulary.items():
            table[number] = token
        return tf.constant(table)

    def classify(self) -> list[Signature]:
        def conclude(inputs: Tensors) -> Tensors:
            outputs = self.serve(inputs)
            best = tf.argmax(outputs["logits"], axis=-1)
            return {
                "label": self.label(best),
                "probability": tf.reduce_max(outputs["probabilities"], axis=-1),
                "probabilities": outputs["probabilities"],
                "logits": outputs["logits"],
            }

        outputs = ("label", "probability", "probabilities", "logits")
        found = [Signature(SERVING, (TEXT,), outputs, lambda x: conclude(self.read(x["text"])[0]))]
        if self.model.family == "bert":
            both = (TEXT, TensorSpec("pair", "string", BATCH))
            found.append(Signature("pairs", both, outputs, lambda x: conclude(self.read(x["text"], x["pair"])[0])))
        return found

    def tag(self) -> list[Signature]:
        def compute(given: Tensors) -> Tensors:
            inputs, spans = self.read(given["text"], offsets=True)
            outputs = self.serve(inputs)
            inside = spans[:, :, 1] > 0  # of the text, and not put around it
            best = tf.argmax(outputs["logits"], axis=-1)
            return {
                "token": tf.where(inside, tf.gather(self.token_table(), inputs["token_ids"]), ""),
                "label": tf.where(inside, self.label(best), ""),
                "probability": tf.where(inside, tf.reduce_max(outputs["probabilities"], axis=-1), 0.0),
                "start": spans[:, :, 0],
                "end": spans[:, :, 1],
            }

        return [Signature(SERVING, (TEXT,), ("token", "label", "probability", "start", "end"), compute)]

    def answer(self) -> list[Signature]:
        def compute(given: Tensors) -> Tensors:
            context = given["context"]
            inputs, spans = self.read(given["question"], context, offsets=True)
            outputs = self.serve(inputs)
            found = outputs["score"] > OUTSIDE / 2  # a context may hold no token
            start = tf.gather(spans[:, :, 0], outputs["start"], batch_dims=1)
            end = tf.gather(spans[:, :, 1], outputs["end"], batch_dims=1)
            start, end = tf.where(found, start, 0), tf.where(found, end, 0)
            context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8")
            return {
                "answer": tf.strings.substr(context, start, end - start, unit="UTF8_CHAR"),
                "start": start,
                "end": end,
                "score": tf.where(found, outputs["score"], OUTSIDE),
            }

        both = (TensorSpec("question", "string", BATCH), TensorSpec("context", "string", BATCH))
        return [Signature(SERVING, both, ("answer", "start", "end", "score"), compute)]

    def fill(self) -> list[Signature]:
        mask = self.model.tokenizer.special_ids.get("mask")
        if mask is None:
            raise UserError("the tokenizer has no mask token, for which the model would find another")

        def compute(given: Tensors) -> Tensors:
            inputs, _ = self.read(given["text"])
            places = tf.where(inputs["token_ids"] == mask)
            rows = tf.shape(inputs["token_ids"], tf.int64)[0]
            columns = tf.RaggedTensor.from_value_rowids(places[:, 1], places[:, 0], rows)
            # The logits of all other tokens, each as long as the vocabulary, are never made.
            positions = tf.cast(columns.to_tensor(), tf.int32)
            sequence = self.model.backbone(inputs, training=False)["sequence"]
            logits = self.model.predict_tokens(tf.gather(sequence, positions, batch_dims=1), None)
            known = tf.nn.softmax(logits)[:, :, : self.specification.size]
            best, ids = tf.math.top_k(known, min(CANDIDATES, self.specification.size))
            is_mask = tf.sequence_mask(columns.row_lengths(), tf.shape(positions)[1])[:, :, None]
            return {
                "token": tf.where(is_mask, tf.gather(self.token_table(), ids), ""),
                "probability": tf.where(is_mask, best, 0.0),
            }

        return [Signature(SERVING, (TEXT,), ("token", "probability"), compute)]

    def encode(self) -> list[Signature]:
        outputs = self.model.output_names + (("padding_mask",) if self.model.task == "backbone" else ())

        def compute(given: Tensors) -> Tensors:
            inputs, _ = self.read(given["text"])
            return {**self.serve(inputs), "padding_mask": inputs["padding_mask"]}

        return [Signature(SERVING, (TEXT,), outputs, compute)]

    def generate(self) -> list[Signature]:
        if self.specification.kind != "bpe":
            raise UserError(
                f"in a graph, what a {self.specification.kind} tokenizer generates cannot be written as text"
            )
        end = self.model.tokenizer.end_of_text
        table = tf.constant(self.specification.token_bytes)

        def compute(given: Tensors) -> Tensors:
            ids = self.tokenizer.encode(given["text"])
            is_empty = ids.row_lengths() == 0
            instead = tf.fill([tf.reduce_sum(tf.cast(is_empty, tf.int32))], end)
            ids = tf.concat([tf.RaggedTensor.from_row_lengths(instead, tf.cast(is_empty, tf.int64)), ids], axis=1)
            settings = {name: given[name] for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed")}
            with tf.control_dependencies(_check_sampling(settings)):
                ids = tf.identity(ids)
            token_ids, lengths = generate_in_graph(self.model, ids, **settings, stop_token=end)
            counts = tf.sequence_mask(lengths, tf.shape(token_ids)[1])
            written = tf.strings.reduce_join(tf.where(counts, tf.gather(table, token_ids), ""), axis=1)
            text = tf.strings.unicode_transcode(written, "UTF-8", "UTF-8")  # it may end inside a character
            return {"text": text, "token_ids": token_ids, "lengths": lengths}

        inputs = (
            TEXT,
            TensorSpec("max_new_tokens", "int32", (), highest=MOST_NEW_TOKENS),
            TensorSpec("temperature", "float32", ()),
            TensorSpec("top_k", "int32", ()),
            TensorSpec("top_p", "float32", ()),
            TensorSpec("seed", "int64", ()),
        )
        return [Signature(SERVING, inputs, ("text", "token_ids", "lengths"), compute)]

    def contrast(self) -> list[Signature]:
        model = self.model
        if model.preprocessing is None:
            raise UserError(f"the {model.family} model has no preprocessing for images of colour")

        def compute(given: Tensors) -> Tensors:
            texts = given["text"]
            with tf.control_dependencies(
                [tf.debugging.Assert(tf.size(texts) > 0, ["text has to have 1 text or more"])]
            ):
                inputs, _ = self.read(tf.identity(texts))
            outputs = self.serve({"images": read_files(given[IMAGE_BYTES], model), **inputs})
            logits = outputs["logits_per_image"]
            # As `zoo.prediction.probabilities_of_pairs` has them.
            probabilities = tf.sigmoid(logits) if model.config.loss == "sigmoid" else tf.nn.softmax(logits)
            return {
                **{name: outputs[name] for name in ("image_embedding", "text_embedding", "logits_per_image")},
                "probabilities": probabilities,
                "label": tf.gather(texts, tf.argmax(logits, axis=1)),
            }

        both = (TensorSpec(IMAGE_BYTES, "string", (Axis("images"),)), TensorSpec("text", "string", (Axis("texts"),)))
        outputs = ("image_embedding", "text_embedding", "logits_per_image", "probabilities", "label")
        return [
            Signature(SERVING, both, outputs, compute),
            Signature(
                "encode_text",
                (TEXT,),
                ("text_embedding",),
                lambda x: {"text_embedding": model.encode_text(**self.read(x["text"])[0])},
            ),
        ]


def _check_sampling(settings: Tensors) -> list[Any]:
    """What `zoo.generation.Sampling` refuses. Numbers below 0 are refused where the inputs are looked at."""
    temperature, top_p = settings["temperature"], settings["top_p"]
    return [
        tf.debugging.Assert(temperature >= 0.0, ["temperature must be 0 or more, and is", temperature]),
        tf.debugging.Assert((top_p > 0.0) & (top_p <= 1.0), ["top_p must be above 0 and at most 1, and is", top_p]),
    ]
