"""`zoo predict`, `zoo embed` and `zoo convert`, as they are called."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from recipes.command import run
from zoo.prediction import model_inputs
from zoo.text import train_wordpiece

TEXTS = ["the model reads", "a layer writes text slowly"]


@pytest.fixture(scope="module")
def models(tmp_path_factory, enliven) -> Path:
    """A folder of nano models that were saved, and two images."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_wordpiece(TEXTS * 20, 128)
    for task in ("classify", "pretrain", "answer"):
        model = enliven(zoo.create("bert-nano", task=task, vocabulary_size=tokenizer.vocabulary_size))
        model.tokenizer = tokenizer
        model.labels = ("good", "bad") if task == "classify" else None
        zoo.save(model, folder / task)
    zoo.save(enliven(zoo.create("vit-nano")), folder / "vit")
    clip = enliven(zoo.create("clip-nano", text={"vocabulary_size": 300}, end_token=tokenizer.special_ids["sep"]))
    clip.tokenizer = tokenizer
    zoo.save(clip, folder / "clip")
    (folder / "images" / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("one.png", "below/two.jpg"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype("uint8")).save(folder / "images" / name)
    (folder / "images" / "notes.txt").write_text("no image")
    return folder


def call(capsys, *arguments: Any) -> list[str]:
    """The lines that a command answers with."""
    assert run([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out.splitlines()


def refuse(capsys, *arguments: Any) -> str:
    assert run([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("zoo: ")]
    assert captured.out == "" and len(lines) == 1 and "Traceback" not in captured.err
    return lines[0]


def test_predict_answers_for_words_files_and_standard_input(models, capsys, tmp_path, monkeypatch):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    by_word = call(capsys, "predict", models / "classify", *TEXTS, "--json", "--batch-size", 1)
    by_file = call(capsys, "predict", models / "classify", "--file", file, "--json")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    by_pipe = call(capsys, "predict", models / "classify", "-", "--json")
    model = zoo.load(models / "classify")
    for text, *lines in zip(TEXTS, by_word, by_file, by_pipe, strict=True):
        logits = np.asarray(model(model_inputs(model, texts=[text]))["logits"])[0]
        good = 1.0 / (1.0 + np.exp(logits[1] - logits[0]))
        for line in lines:
            record = json.loads(line)
            assert record["input"] == text
            assert record["probabilities"] == pytest.approx({"good": good, "bad": 1 - good}, abs=1e-5)
    assert call(capsys, "predict", models / "classify", TEXTS[0])[0].endswith(f"\t{TEXTS[0]}")


def test_predict_finds_images_in_folders(models, capsys):
    lines = call(capsys, "predict", models / "vit", models / "images", "--json")
    assert [Path(json.loads(line)["input"]).name for line in lines] == ["two.jpg", "one.png"]
    (line,) = call(capsys, "predict", models / "clip", models / "images/one.png", "--labels", "model, layer", "--json")
    assert set(json.loads(line)["probabilities"]) == {"model", "layer"}


def test_a_pretrained_model_predicts_what_it_was_trained_to(models, capsys):
    (line,) = call(capsys, "predict", models / "pretrain", "the [MASK] reads", "--json")
    assert len(json.loads(line)["masks"]) == 1


def test_predict_takes_pairs(models, capsys):
    (with_context,) = call(capsys, "predict", models / "answer", "reads", "--context", TEXTS[1], "--json")
    (in_one,) = call(capsys, "predict", models / "answer", f"reads\t{TEXTS[1]}", "--pairs", "--json")
    assert json.loads(with_context)["answer"] == json.loads(in_one)["answer"] != ""


def test_embed_writes_lines_or_an_array(models, capsys, tmp_path):
    lines = call(capsys, "embed", models / "classify", *TEXTS, "--pooling", "first")
    model = zoo.load(models / "classify", task="embed", pooling="first")
    expected = np.asarray(model(model_inputs(model, texts=TEXTS))["embedding"])
    np.testing.assert_allclose([json.loads(line)["embedding"] for line in lines], expected, atol=1e-5)
    out = tmp_path / "vectors.npy"
    assert call(capsys, "embed", models / "classify", *TEXTS, "--normalize", "--out", out) == [str(out)]
    np.testing.assert_allclose(np.linalg.norm(np.load(out), axis=1), 1.0, rtol=1e-5)
    assert "exists" in refuse(capsys, "embed", models / "classify", "a", "--out", out)


def test_embed_knows_images_from_texts(models, capsys):
    of_images = call(capsys, "embed", models / "clip", models / "images")
    (of_text,) = call(capsys, "embed", models / "clip", "a model")
    clip = zoo.load(models / "clip")
    expected = np.asarray(clip.encode_image(model_inputs(clip, images=[models / "images/one.png"])["images"]))
    np.testing.assert_allclose(json.loads(of_images[1])["embedding"], expected[0], atol=1e-5)
    assert len(json.loads(of_text)["embedding"]) == clip.config.projection_width
    assert len(call(capsys, "embed", models / "vit", models / "images")) == 2


def test_convert_goes_to_and_fro(models, capsys, tmp_path):
    (line,) = call(capsys, "convert", models / "classify", tmp_path / "theirs", "--layout", "hf", "--json")
    assert json.loads(line)["task"] == "classify"
    theirs = json.loads((tmp_path / "theirs/config.json").read_text())
    assert theirs["architectures"] == ["BertForSequenceClassification"] and theirs["id2label"] == {
        "0": "good",
        "1": "bad",
    }
    call(capsys, "convert", tmp_path / "theirs", tmp_path / "ours", "--layout", "zoo")
    for name in ("model.safetensors", "labels.txt", "vocab.txt"):
        assert (tmp_path / "ours" / name).read_bytes() == (models / "classify" / name).read_bytes(), name
    before = sorted((tmp_path / "ours").iterdir())
    assert "not empty" in refuse(capsys, "convert", models / "vit", tmp_path / "ours", "--layout", "hf")
    assert "lies in" in refuse(capsys, "convert", tmp_path / "ours", tmp_path / "ours", "--layout", "hf", "--force")
    assert sorted((tmp_path / "ours").iterdir()) == before


def test_mistakes_get_one_line(models, capsys, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes((models / "images/one.png").read_bytes()[:200])
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = {
        ("predict", models / "vit", tmp_path / "none.png"): "no such file",
        ("predict", models / "vit", broken): "broken.png",
        ("predict", models / "vit", empty): "holds no images",
        ("predict", models / "classify"): "nothing to read",
        ("predict", models / "classify", "a", "--pairs"): "with a tab between",
        ("predict", models / "answer", "a"): "needs the text",
        ("predict", models / "clip", models / "images"): "CLIP needs labels",
        ("predict", models / "classify", "a", "--task", "tagging"): "no task",
        ("predict", models / "classify", "a", "--batch-size", 0): "--batch-size",
        ("predict", tmp_path / "nowhere", "a"): "no such directory",
        ("predict", "hf:a/b/c", "a"): "not the name of a checkpoint",
        ("embed", models / "classify", "a", "--pooling", "last"): "pooling",
        ("embed", models / "classify", "--file", tmp_path / "none.txt"): "cannot be read",
        ("convert", models / "classify", tmp_path / "x", "--layout", "onnx"): "layout",
    }
    for arguments, message in cases.items():
        assert message in refuse(capsys, *arguments), arguments
    assert not (tmp_path / "x").exists()
