"""Zero-shot classification, in Python and as `zoo zero-shot`."""

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from recipes.command import run
from tests.recipes.refusing import assert_refused
from zoo.errors import UserError
from zoo.prediction import Predictor, embed
from zoo.text import train_wordpiece
from zoo.zero_shot import TEMPLATE, ZeroShotClassifier, class_embeddings

LABELS = ["red", "green", "blue", "a small cat", "a dog", "nothing at all"]
TEMPLATES = ["a photo of a {}.", "{} again", "the {} here"]


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype("uint8")
    Image.fromarray(pixels).resize((50, 40)).save(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory, enliven) -> Path:
    """A CLIP, one that was trained with the sigmoid loss, and a ViT."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_wordpiece([f"{template} {label}" for template in TEMPLATES for label in LABELS] * 5, 160)
    for name, loss in (("clip", "softmax"), ("sigmoid", "sigmoid")):
        sizes = {"text": {"vocabulary_size": 300}, "end_token": tokenizer.special_ids["sep"], "loss": loss}
        model = enliven(zoo.create("clip-nano", **sizes))
        model.tokenizer = tokenizer
        zoo.save(model, folder / name)
    zoo.save(zoo.create("vit-nano"), folder / "vit")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Six images of two classes."""
    folder = tmp_path_factory.mktemp("images")
    for seed in range(6):
        write_image(folder / ("red" if seed < 4 else "green") / f"{seed}.png", seed)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _each_model_is_loaded_once():
    """Most of the time of a command on a tiny model goes to loading it."""
    patch = pytest.MonkeyPatch()
    patch.setattr(zoo, "load", functools.cache(zoo.load))
    yield
    patch.undo()


def call(capsys, *arguments: Any) -> list[str]:
    assert run(["zero-shot", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def refuse(capsys, *arguments: Any) -> str:
    assert run(["zero-shot", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("zoo: "), captured
    return lines[0]


def of_length_one(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_an_ensemble_is_the_mean_of_the_embeddings_of_its_prompts(models):
    model = zoo.load(models / "clip")
    classes = class_embeddings(model, LABELS, TEMPLATES)
    assert classes.shape == (len(LABELS), model.config.projection_width) and classes.dtype == np.float32
    for label, found in zip(LABELS, classes, strict=True):
        prompts = [embed(model, [template.replace("{}", label)], are_images=False)[0] for template in TEMPLATES]
        mean = of_length_one(np.stack(prompts)).mean(axis=0)
        np.testing.assert_allclose(found, of_length_one(mean), atol=1e-6)
    one = class_embeddings(model, LABELS)
    np.testing.assert_allclose(one, embed(model, [f"a photo of a {label}." for label in LABELS], False), atol=1e-6)


def test_many_prompts_are_embedded_in_parts(models, monkeypatch):
    model = zoo.load(models / "clip")
    whole = class_embeddings(model, LABELS, TEMPLATES)
    monkeypatch.setattr("zoo.zero_shot.PROMPTS_AT_ONCE", 4)
    np.testing.assert_allclose(class_embeddings(model, LABELS, TEMPLATES), whole, atol=1e-6)


@pytest.mark.parametrize("name", ["clip", "sigmoid"])
def test_probabilities_are_those_of_the_scaled_cosines(models, images, name):
    model = zoo.load(models / name)
    paths = sorted(images.rglob("*.png"))
    records = ZeroShotClassifier(model, LABELS, TEMPLATES).predict(paths)
    logits = embed(model, paths, are_images=True) @ class_embeddings(model, LABELS, TEMPLATES).T
    logits *= np.exp(np.asarray(model.similarity.log_scale))
    if name == "sigmoid":
        expected = 1 / (1 + np.exp(-logits - np.asarray(model.similarity.bias)))
    else:
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for row, record in zip(expected, records, strict=True):
        best = np.argsort(-row)[:5]
        assert list(record["probabilities"]) == [LABELS[place] for place in best]
        assert list(record["probabilities"].values()) == pytest.approx(row[best].tolist(), abs=1e-5)
        assert record["label"] == LABELS[best[0]] and record["probability"] == pytest.approx(row[best[0]], abs=1e-5)


def test_predict_asks_with_its_template(models, images):
    model, paths = zoo.load(models / "clip"), sorted(images.rglob("*.png"))
    for template in (TEMPLATE, TEMPLATES[1]):
        prompts = embed(model, [template.replace("{}", label) for label in LABELS], are_images=False)
        logits = embed(model, paths, are_images=True) @ prompts.T * np.exp(np.asarray(model.similarity.log_scale))
        for row, record in zip(logits, Predictor(model, LABELS, template).predict(paths), strict=True):
            shares = np.exp(row) / np.exp(row).sum()
            assert record["probabilities"] == pytest.approx(
                {LABELS[i]: shares[i] for i in np.argsort(-row)[:5]}, abs=1e-5
            )
    for labels in (["cat"], ["cat", "dog", "cat"]):
        with pytest.raises(UserError, match="different labels, two at least, and not from cat"):
            Predictor(model, labels)
    with pytest.raises(UserError, match=r"has to have one \{\} in it"):
        Predictor(model, LABELS, template="a photo").predict(paths)


def test_many_labels_are_no_name_of_a_file(models, images, capsys):
    labels = [f"class number {number}" for number in range(40)]
    lines = call(capsys, models / "clip", images, "--labels", ",".join(labels))
    assert len(lines) == len(list(images.rglob("*.png")))


def test_the_command_answers_for_files_folders_and_standard_input(models, images, capsys, tmp_path, monkeypatch):
    labels, templates = tmp_path / "labels.txt", tmp_path / "templates.txt"
    labels.write_text("\ufeff" + "\r\n".join(LABELS) + "\r\n\n", encoding="utf-8")
    templates.write_text("\n".join(TEMPLATES[1:]))
    paths = sorted(images.rglob("*.png"))
    given = ("--labels", labels, "--template", TEMPLATES[0], "--templates", templates)
    by_folder = call(capsys, models / "clip", images, *given, "--json", "--batch-size", 4)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(map(str, paths)).encode())))
    several = [word for template in TEMPLATES for word in ("--template", template)]
    by_pipe = call(capsys, models / "clip", "-", "--labels", ",".join(LABELS), *several, "--json")
    expected = ZeroShotClassifier(zoo.load(models / "clip"), LABELS, TEMPLATES).predict(paths)
    for path, record, *lines in zip(paths, expected, by_folder, by_pipe, strict=True):
        for line in map(json.loads, lines):
            assert (line["input"], line["label"]) == (str(path), record["label"])
            assert line["probabilities"] == pytest.approx(record["probabilities"], abs=1e-5)
    (line,) = call(capsys, models / "clip", paths[0], "--labels", labels)
    record = ZeroShotClassifier(zoo.load(models / "clip"), LABELS).predict(paths[:1])[0]
    assert line == f"{record['label']} {record['probability']:.3f}\t{paths[0]}"


def test_it_is_measured_on_a_folder_or_a_table(models, images, capsys, tmp_path):
    classifier = ZeroShotClassifier(zoo.load(models / "clip"), ["green", "red"], TEMPLATES)
    paths = sorted(images.rglob("*.png"))
    right = [record["label"] == path.parent.name for record, path in zip(classifier.predict(paths), paths, strict=True)]
    several = [word for template in TEMPLATES for word in ("--template", template)]
    figures = json.loads(call(capsys, models / "clip", "--data", images, *several, "--batch-size", 4)[-1])
    assert set(figures) == {"accuracy", "macro_f1", "images"}
    assert figures["accuracy"] == pytest.approx(np.mean(right)) and figures["images"] == 6

    table = tmp_path / "table.csv"
    table.write_text("\n".join(["file,what", *(f"{path},{path.parent.name}" for path in paths)]))
    columns = ("--image-column", "file", "--label-column", "what")
    labels = ("--labels", "red,green", *columns)
    assert json.loads(call(capsys, models / "clip", "--data", table, *labels, *several)[-1]) == figures


def test_mistakes_get_one_line(models, images, capsys, tmp_path):
    def write(name: str, content: str | bytes) -> Path:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    clip, vit, image = models / "clip", models / "vit", images / "red/0.png"
    broken = write("broken.png", image.read_bytes()[:100])
    (tmp_path / "empty").mkdir()
    (tmp_path / "one/class").mkdir(parents=True)
    write_image(tmp_path / "one/class/x.png", 0)
    two = ("--labels", "cat,dog")
    cases = {
        (clip, image): "Give --labels",
        (clip, *two): "nothing to read",
        (clip, tmp_path / "none.png", *two): "no such file",
        (clip, tmp_path / "empty", *two): "holds no images",
        (clip, broken, *two): "broken.png: the image is broken",
        (clip, image, "--labels", "cat,dog,cat"): "'cat' twice",
        (clip, image, "--labels", "cat,,dog"): "nothing between",
        (clip, image, "--labels", tmp_path / "none.txt"): "none.txt cannot be read",
        (clip, image, "--labels", write("twice.txt", "cat\ndog\ncat \n")): "twice.txt:3 is 'cat' once more, as line 1",
        (clip, image, "--labels", write("gap.txt", "cat\n\ndog\n")): "gap.txt:2 is empty",
        (clip, image, "--labels", write("void.txt", "")): "is empty",
        (clip, image, "--labels", write("single.txt", "cat\n")): "two classes at least",
        (clip, image, "--labels", broken): "binary",
        (clip, image, *two, "--template", "a photo"): "one {} in it",
        (clip, image, *two, "--template", "{} and {}"): "one {} in it",
        (clip, image, *two, "--templates", write("bad.txt", "a {}\nno place\n")): "one {} in it",
        (clip, image, *two, "--templates", tmp_path / "none.txt"): "cannot be read",
        (clip, image, *two, "--batch-size", 0): "--batch-size",
        (clip, image, *two, "--data", images): "give one of them",
        (clip, "--data", images, *two): "has 2 of its 2 classes that --labels does not name, such as 'green'",
        (clip, "--data", tmp_path / "one"): "has one class",
        (clip, "--data", tmp_path / "nowhere"): "does not exist",
        (vit, image, *two): "needs a CLIP",
        (tmp_path, image, *two): "no model directory",
    }
    for arguments, message in cases.items():
        assert message in refuse(capsys, *arguments), arguments


def test_mistakes_in_python(models):
    clip = zoo.load(models / "clip")
    assert_refused(lambda: class_embeddings(clip, []), "no label")
    assert_refused(lambda: class_embeddings(clip, LABELS, []), "no template")
    assert_refused(lambda: class_embeddings(clip, LABELS, ["a photo"]), "'a photo'", "{}")
    assert_refused(lambda: ZeroShotClassifier(zoo.load(models / "vit"), LABELS), "only CLIP")
