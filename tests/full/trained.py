"""Small models of every family and task, each trained within seconds on data that it can learn, with examples of them
that it has not seen: what quantised files are judged by."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

import zoo
from export.real import UNKNOWN, Examples
from zoo.model import ZooModel
from zoo.optimizers import Muon
from zoo.text import train_bpe, train_clip, train_wordpiece

WIDTH = {"width": 128, "depth": 2, "num_heads": 4, "max_length": 64, "dropout": 0.0, "attention_dropout": 0.0}
NOUNS = ("river", "mountain", "harbour", "garden", "castle", "bridge", "forest", "island", "market", "desert")
VERBS = ("sees", "paints", "leaves", "crosses", "visits", "remembers", "describes", "finds", "guards", "maps")
NAMES = ("Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Niklaus", "Tony", "Frances", "John")
ROWS, HELD_OUT, BATCH = 2000, 512, 16
LABELS = tuple(f"class {number}" for number in range(10))
Inputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model, its task as it is exported, and what it is judged by.

    Attributes:
        model: with tokenizer, preprocessing and labels.
        examples: inputs that it has not seen, with what is right.
        texts: real text of its kind.
        images: real images of its kind, uint8.
    """

    model: ZooModel
    examples: Examples
    texts: tuple[str, ...] = ()
    images: tuple[np.ndarray, ...] = ()


def sentences(rows: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Sentences of someone who does something at a place, and which place, (rows,)."""
    draw = np.random.default_rng(seed)
    names, verbs, nouns = (draw.integers(10, size=rows) for _ in range(3))
    written = [f"{NAMES[n]} {VERBS[v]} the {NOUNS[p]}." for n, v, p in zip(names, verbs, nouns, strict=True)]
    return written, nouns.astype("int32")


def make(family: str, task: str, **changes: Any) -> Trained:
    """A trained model: its own objective where there is one, else that of a task whose backbone it takes over. What
    several tasks take over is trained once.

    Args:
        family, task: of the model.
        **changes: fields of a GPT's configuration.
    """
    return {"bert": _bert, "gpt": _gpt, "vit": _vit, "clip": _clip}[family](task, **changes)


def _fit(
    model: ZooModel,
    inputs: Any,
    labels: dict[str, np.ndarray],
    epochs: int,
    optimizer: Any = None,
    batch_size: int = 32,
) -> None:
    """Train on labels, of which -1 do not count."""
    losses = {
        name: keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
        for name in labels
    }
    weights = {name: (label != UNKNOWN).astype("float32") for name, label in labels.items()}
    targets = {name: np.maximum(label, 0) for name, label in labels.items()}
    model.compile(optimizer or keras.optimizers.Adam(1e-3), loss=losses)
    model.fit(inputs, targets, sample_weight=weights, batch_size=batch_size, epochs=epochs, verbose=0)


def _split(inputs: dict[str, np.ndarray], count: int) -> list[dict[str, np.ndarray]]:
    """The first rows, and the others."""
    return [{name: value[part] for name, value in inputs.items()} for part in (slice(count), slice(count, None))]


def _examples(inputs: dict[str, np.ndarray], labels: dict[str, np.ndarray], metric: str) -> Examples:
    batches = []
    for start in range(0, len(inputs[next(iter(inputs))]), BATCH):
        place = slice(start, start + BATCH)
        batches.append(tuple({name: value[place] for name, value in each.items()} for each in (inputs, labels)))
    return Examples(batches, metric)  # type: ignore[arg-type]


def _bert(task: str) -> Trained:
    trained_for = task if task in ("classify", "tag", "answer", "masked_lm") else "classify"
    model, held_out, right, texts = _train_bert(trained_for)
    metric = {"masked_lm": "perplexity", **dict.fromkeys(("classify", "tag", "answer"), "accuracy")}.get(task, "")
    examples = _examples(held_out, right if metric else {}, metric)
    return Trained(model if task == trained_for else _take_over(model, task), examples, texts)


@functools.cache
def _train_bert(task: str) -> tuple[ZooModel, Inputs, Inputs, tuple[str, ...]]:
    """A model, and what it has not seen: inputs, what is right, and texts."""
    keras.utils.set_random_seed(0)
    written, places = sentences(ROWS + HELD_OUT, 0)
    tokenizer = train_wordpiece(written, 400)
    classes = {"num_classes": len(LABELS)} if task in ("classify", "tag") else {}
    model = zoo.create("bert-nano", task=task, **{**WIDTH, "vocabulary_size": tokenizer.vocabulary_size, **classes})
    model.tokenizer = tokenizer
    if classes:
        model.labels = LABELS
    pairs = ["Where?"] * len(written) if task == "answer" else None
    firsts, seconds = (pairs, written) if pairs else (written, None)
    inputs = tokenizer.prepare(firsts, seconds, max_length=24, padding="max_length")
    inputs = {name: value for name, value in inputs.items() if name in {spec.name for spec in model.input_specs}}
    labels = _bert_labels(task, inputs, places, tokenizer)
    if task == "masked_lm":
        inputs["token_ids"] = np.where(labels["logits"] != UNKNOWN, tokenizer.special_ids["mask"], inputs["token_ids"])
    train, held_out = _split(inputs, ROWS)
    right = {name: value[ROWS:] for name, value in labels.items()}
    _fit(model, train, {name: value[:ROWS] for name, value in labels.items()}, epochs=6)
    return model, held_out, right, tuple(written[ROWS:])


def _bert_labels(task: str, inputs: dict[str, np.ndarray], places: np.ndarray, tokenizer: Any) -> dict[str, np.ndarray]:
    ids = inputs["token_ids"]
    if task == "classify":
        return {"logits": places}
    nouns = np.array([tokenizer.encode(noun)[0] for noun in NOUNS])
    is_noun = ids[:, :, None] == nouns  # (rows, tokens, nouns)
    if task == "tag":  # a class of its own for each noun but the first, which stands with whatever is none
        found = np.where(is_noun.any(-1), is_noun.argmax(-1), 0)
        return {"logits": np.where(inputs["padding_mask"] == 1, found, UNKNOWN).astype("int32")}
    if task == "answer":
        start = is_noun.any(-1).argmax(-1).astype("int32")
        return {"start_logits": start, "end_logits": start}
    draw = np.random.default_rng(1).random(ids.shape)
    masked = (draw < 0.15) & ~np.isin(ids, list(tokenizer.special_ids.values()))
    return {"logits": np.where(masked, ids, UNKNOWN).astype("int32")}


def _gpt(task: str, **changes: Any) -> Trained:
    if task == "generate":
        return _language_model(**changes)
    model, held_out, right, texts = _train_gpt_classifier()
    if task == "classify":
        return Trained(model, _examples(held_out, right, "accuracy"), texts)
    return Trained(_take_over(model, task), _examples(held_out, {}, ""), texts)


def _language_model(**changes: Any) -> Trained:
    keras.utils.set_random_seed(0)
    written, _ = sentences(ROWS + HELD_OUT, 0)
    tokenizer = train_bpe(written, 400)
    ids = np.array([id for text in written for id in tokenizer.encode(text + " ")], "int32")
    rows = ids[: len(ids) // 32 * 32].reshape(-1, 32)
    sizes = {**WIDTH, "vocabulary_size": tokenizer.vocabulary_size, **changes}
    model = zoo.create("gpt-nano", task="generate", **sizes)
    model.tokenizer = tokenizer
    inputs = {"token_ids": rows[:, :-1], "padding_mask": np.ones_like(rows[:, :-1])}
    count = len(rows) - HELD_OUT // 4
    train, held_out = _split(inputs, count)
    _fit(model, train, {"logits": rows[:count, 1:]}, epochs=6)
    examples = _examples(held_out, {"logits": rows[count:, 1:]}, "perplexity")
    return Trained(model, examples, (" ".join(written[ROWS:]),))


@functools.cache
def _train_gpt_classifier() -> tuple[ZooModel, Inputs, Inputs, tuple[str, ...]]:
    keras.utils.set_random_seed(0)
    written, places = sentences(ROWS + HELD_OUT, 0)
    tokenizer = train_bpe(written, 400)
    sizes = {**WIDTH, "vocabulary_size": tokenizer.vocabulary_size}
    model = zoo.create("gpt-nano", task="classify", num_classes=len(LABELS), **sizes)
    model.tokenizer, model.labels = tokenizer, LABELS
    inputs = tokenizer.prepare(written, max_length=24, padding="max_length")
    train, held_out = _split({name: inputs[name] for name in ("token_ids", "padding_mask")}, ROWS)
    _fit(model, train, {"logits": places[:ROWS]}, epochs=6)
    return model, held_out, {"logits": places[ROWS:]}, tuple(written[ROWS:])


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's handwritten digits, uint8 (1797, 32, 32, 3), in an order that is not that of their writers."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pictures = np.repeat(np.repeat(digits.images[order] * 15.9, 4, 1), 4, 2).astype("uint8")
    return np.repeat(pictures[..., None], 3, -1), digits.target[order].astype("int32")


def _vit(task: str) -> Trained:
    model, held_out, right, pictures = _train_vit()
    if task == "classify":
        return Trained(model, _examples(held_out, right, "accuracy"), images=pictures)
    return Trained(_take_over(model, task), _examples(held_out, {}, ""), images=pictures)


@functools.cache
def _train_vit() -> tuple[ZooModel, Inputs, Inputs, tuple[np.ndarray, ...]]:
    from zoo.image import preprocess

    keras.utils.set_random_seed(0)
    pictures, digits = _digits()
    sizes = {"width": 128, "depth": 2, "num_heads": 4, "patch_size": 8, "dropout": 0.0, "attention_dropout": 0.0}
    model = zoo.create("vit-nano", task="classify", num_classes=10, image_size=(32, 32), **sizes)
    model.labels = LABELS
    images = preprocess(list(pictures), model.preprocessing)
    count = len(images) - HELD_OUT
    # Each also a little moved, three times: else so few are learnt by heart.
    moved = [np.roll(images[:count], shift, (1, 2)) for shift in ((0, 0), (2, -3), (-3, 1), (1, 3))]
    labels = {"logits": np.tile(digits[:count], len(moved))}
    _fit(model, {"images": np.concatenate(moved)}, labels, epochs=10, optimizer=Muon(5e-3), batch_size=128)
    return model, {"images": images[count:]}, {"logits": digits[count:]}, tuple(pictures[count:])


def _clip(task: str) -> Trained:
    from zoo.image import preprocess

    keras.utils.set_random_seed(0)
    pictures, digits = _digits()
    captions = [f"a handwritten {NOUNS[digit]}" for digit in digits]
    tokenizer = train_clip(captions, 600)
    towers: dict[str, Any] = {"width": 64, "depth": 2, "num_heads": 4, "dropout": 0.0, "attention_dropout": 0.0}
    model = zoo.create(
        "clip-nano",
        task=task,
        vision={**towers, "image_size": (32, 32), "patch_size": 8},
        text={**towers, "vocabulary_size": tokenizer.vocabulary_size, "max_length": 16},
        end_token=tokenizer.special_ids["end"],
    )
    model.tokenizer = tokenizer
    inputs = {
        "images": preprocess(list(pictures), model.preprocessing),
        **{n: v for n, v in tokenizer.prepare(captions, max_length=16).items() if n in ("token_ids", "padding_mask")},
    }
    count = len(pictures) - HELD_OUT
    train, held_out = _split(inputs, count)
    model.compile(keras.optimizers.Adam(1e-3))
    pairs = np.stack([np.arange(count), digits[:count]], axis=1).astype("int32")
    model.fit(train, {"pairs": pairs}, batch_size=64, epochs=12, verbose=0)
    return Trained(model, _examples(held_out, {}, ""), tuple(captions[count:]), tuple(pictures[count:]))


def _take_over(model: ZooModel, task: str) -> ZooModel:
    """The same backbone for another task, whose outputs are its vectors."""
    other = zoo.create(f"{model.family}-nano", task=task, **model.config.to_dict())
    weights = model.named_weights()
    for name, weight in other.named_weights().items():
        if name in weights:
            weight.assign(weights[name])
    other.tokenizer, other.preprocessing = model.tokenizer, model.preprocessing
    return other
