"""The recipe clip-pretrain, from a table of pictures with captions to its report, with tiny settings."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share

import zoo
from recipes.command import run as zoo_command
from recipes.engine.clip_origin import CLIPOrigin, look_up_clip
from tests.recipes.captioned import COLOURS, write_folder, write_pairs
from tests.recipes.fine_tuned import STEPS, best_of, facts_of, figures, refuse, rows_of, stop_and_go_on
from tests.recipes.mirroring import assert_two_replicas_equal_one
from tests.recipes.resuming import outcome
from zoo.image import Preprocessing, read_image
from zoo.prediction import Predictor, embed
from zoo.text import train_bpe, train_clip, train_wordpiece
from zoo.zero_shot import class_embeddings

TEXTS = [f"a {colour} patch" for colour in COLOURS]
OPTIONS = (
    "--caption-column caption words --preset clip-nano --vocabulary-size 600 --batch-size 16 --optimizer muon "
    "--learning-rate 5e-3 --warmup-steps 5 --dropout 0.02 --crop-area 0.9 --no-xla "
    f"--steps {STEPS} --evaluate-every 30"
)


def command(data: Path, out: Path | None, *options: object) -> list[str]:
    where = [] if out is None else ["--out", str(out)]
    return ["train", "clip-pretrain", "--data", str(data), *where, *OPTIONS.split(), *map(str, options)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, valid.jsonl, and classes/."""
    folder = tmp_path_factory.mktemp("captioned")
    write_pairs(folder / "train.jsonl", 12, 0)
    write_pairs(folder / "valid.jsonl", 2, 1)
    write_folder(folder / "classes", 1, 2)
    return folder


def whole_command(tables: Path, out: Path) -> list[str]:
    """With everything on that is random, and all that is measured."""
    measured = ("--zero-shot-data", tables / "classes", "--template", "a {} patch", "--template", "patch of {}")
    return command(tables / "train.jsonl", out, "--validation-data", tables / "valid.jsonl", *measured)


@pytest.fixture(scope="module")
def trained(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("clip") / "run"
    assert zoo_command(whole_command(tables, out)) == 0
    return out


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory, enliven: Any) -> Path:
    """A ViT, a GPT and a BERT, each with what it goes with."""
    folder = tmp_path_factory.mktemp("towers")
    vit = enliven(zoo.create("vit-nano", task="classify", num_classes=3, dropout=0.1, stochastic_depth=0.2))
    vit.preprocessing = Preprocessing(height=32, width=32, mean=(0.4, 0.5, 0.6))
    gpt = enliven(zoo.create("gpt-nano", task="generate", vocabulary_size=300))
    gpt.tokenizer = train_bpe(TEXTS * 3, 300)
    bert = zoo.create("bert-nano")
    bert.tokenizer = train_wordpiece(TEXTS * 3, 200)
    for name, model in (("vit", vit), ("gpt", gpt), ("bert", bert)):
        zoo.save(model, folder / name)
    return folder


# --- the run


def test_a_run_learns_which_captions_belong_to_which_images(trained: Path) -> None:
    found = rows_of(trained)
    assert [row["step"] for row in found] == [30, 60, 90]
    # Each pair of a batch has about 14 negatives: as many are of its colour. Vectors that are all alike lose log 15.
    assert max(found[-1]["loss"], found[-1]["validation_loss"]) < 0.5 * math.log(15)
    assert found[-1]["loss"] < found[1]["loss"] < found[0]["loss"] < 1.1 * math.log(15)
    best = best_of(trained, "validation_text_to_image_mean_reciprocal_rank")
    # At random the first of the two right ones among 16 images is at the place 5.7 on the average.
    assert best["validation_text_to_image_mean_reciprocal_rank"] > 0.8
    assert best["validation_text_to_image_median_rank"] < 2
    assert best["validation_image_to_text_recall_at_1"] > 0.6
    assert best["validation_zero_shot_accuracy"] > 0.6
    summary = (trained / "summary.md").read_text()
    assert f"| best step | {best['step']} of {STEPS} |" in summary
    assert "Of 16 held-out captions" in summary and "(retrieved.png)" in summary and "(similarity.png)" in summary
    for name in ("retrieved.png", "similarity.png"):
        assert read_image(trained / name).std() > 10
    assert (facts_of(trained)["train_pairs"], facts_of(trained)["validation_pairs"]) == (96, 16)


def test_the_model_that_is_left_embeds_what_it_was_measured_by(trained: Path, tables: Path) -> None:
    """All figures again, from vectors of single images and texts."""
    model = zoo.load(trained)
    assert (model.family, model.task, model.tokenizer.kind) == ("clip", "contrast", "clip")
    assert model.config.end_token == model.tokenizer.special_ids["end"]
    lines = [json.loads(line) for line in (tables / "valid.jsonl").read_text().splitlines()]
    captions = [line["caption"][0] for line in lines]
    images = embed(model, [tables / line["image"] for line in lines], are_images=True)
    texts = np.concatenate([embed(model, [caption], are_images=False) for caption in captions])
    cosines = texts @ images.T
    ranks = []
    for row, caption in enumerate(captions):
        right = max(cosines[row, place] for place, other in enumerate(captions) if other == caption)
        wrong = [cosines[row, place] for place, other in enumerate(captions) if other != caption]
        ranks.append(1 + sum(each >= right for each in wrong))
    best = best_of(trained, "validation_text_to_image_mean_reciprocal_rank")
    assert best["validation_text_to_image_mean_reciprocal_rank"] == pytest.approx(np.mean([1 / r for r in ranks]))
    assert best["validation_text_to_image_recall_at_1"] == pytest.approx(np.mean([r == 1 for r in ranks]))
    assert best["validation_text_to_image_median_rank"] == np.median(ranks)

    files = sorted((tables / "classes").glob("*/*.png"))
    names = sorted(COLOURS)
    classes = class_embeddings(model, names, ["a {} patch", "patch of {}"])
    said = (embed(model, files, are_images=True) @ classes.T).argmax(axis=1)
    right = [names[place] == file.parent.name for place, file in zip(said, files, strict=True)]
    assert best["validation_zero_shot_accuracy"] == pytest.approx(np.mean(right))
    assert [answer["label"] for answer in Predictor(model, names, "a {} patch").predict(files[:2])] == ["black", "blue"]


def test_zoo_eval_gives_the_figures_of_the_run(trained: Path, tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = best_of(trained, "validation_text_to_image_mean_reciprocal_rank")
    measured = figures(capsys, trained, "--data", tables / "valid.jsonl", "--batch-size", 7)
    assert measured.pop("pairs") == 16
    assert len(measured) == 8
    for name, value in measured.items():
        assert value == pytest.approx(best[f"validation_{name}"]), name
    refuse(capsys, ["eval", str(trained), "--data", str(tables / "valid.jsonl"), "--stride", "3"], "--stride says")
    (tables / "one.jsonl").write_text((tables / "valid.jsonl").read_text().splitlines()[0] + "\n")
    refuse(capsys, ["eval", str(trained), "--data", str(tables / "one.jsonl")], "has 1 row: there is no other image")


@pytest.mark.full  # its kin in test_classify_text and test_image_recipes are in the quick tier
def test_stopped_and_started_again_it_ends_as_one_that_never_was(
    trained: Path, tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    stop_and_go_on(whole_command(tables, out), out, monkeypatch)
    assert outcome(out, STEPS) == outcome(trained, STEPS)


@pytest.mark.full  # the loss of the global batch is held to this in tests/zoo/training
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_two_replicas_end_where_one_device_does(tables: Path, tmp_path: Path, loss: str) -> None:
    """Each batch has captions that stand there twice, on either replica."""
    options = ("--dropout", 0, "--clip-norm", 0.1, "--steps", 6, "--evaluate-every", 3, "--learning-rate", 1e-3)
    arguments = command(tables / "train.jsonl", None, "--validation-data", tables / "valid.jsonl", *options)
    assert_two_replicas_equal_one(
        [*arguments, "--loss", loss], tmp_path, "validation_text_to_image_mean_reciprocal_rank"
    )


# --- where it begins


def test_towers_begin_as_they_were_trained(towers: Path) -> None:
    origin = CLIPOrigin(
        preset="clip-nano",
        image_from=str(towers / "vit"),
        text_from=str(towers / "gpt"),
        lock=("image",),
        loss="sigmoid",
    )
    beginning = look_up_clip(origin)
    vit, gpt = zoo.load(towers / "vit", "backbone"), zoo.load(towers / "gpt", "backbone")
    assert isinstance(beginning.tokenizer, type(gpt.tokenizer)) and beginning.tokenizer.same_as(gpt.tokenizer)
    model = beginning.make("float32", beginning.tokenizer)
    config = model.config
    assert (config.loss, config.text_pooling, config.end_token) == ("sigmoid", "last", None)
    assert (config.vision.patch_bias, config.vision.embedding_norm, config.vision.num_classes) == (True, False, 1000)
    assert (config.vision.dropout, config.vision.stochastic_depth, config.text.dropout) == (0.0, 0.0, 0.1)
    assert model.preprocessing == vit.preprocessing
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(model.vision({"images": images})["sequence"], vit({"images": images})["sequence"])
    token_ids = np.array([[5, 30, 1]], "int32")
    np.testing.assert_allclose(
        model.text({"token_ids": token_ids})["sequence"], gpt({"token_ids": token_ids})["sequence"]
    )
    trained = {name for name, weight in model.named_weights().items() if weight.trainable}
    assert trained == {name for name in model.named_weights() if not name.startswith("vision.")}


def test_a_bert_may_read_the_texts(towers: Path) -> None:
    beginning = look_up_clip(CLIPOrigin(preset="clip-nano", text_from=str(towers / "bert"), lock=("text",)))
    bert = zoo.load(towers / "bert", "backbone")
    model = beginning.make("float32", beginning.tokenizer)
    assert model.tokenizer.same_as(bert.tokenizer)
    assert (model.config.text_pooling, model.config.text.dropout, model.config.text.pooler) == ("first", 0.0, False)
    inputs = {"token_ids": np.array([[5, 30, 1]], "int32")}
    np.testing.assert_allclose(model.text(inputs)["sequence"], bert(inputs)["sequence"])
    assert not any(weight.trainable for name, weight in model.named_weights().items() if name.startswith("text."))


@pytest.mark.full  # that they begin so is in the quick tier
@pytest.mark.parametrize("reader", ["gpt", "bert"])
def test_a_locked_tower_stays_as_it_was(
    tables: Path, towers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reader: str
) -> None:
    arguments = command(tables / "train.jsonl", tmp_path / "run", "--validation-data", tables / "valid.jsonl")
    for name in ("--vocabulary-size", "--steps", "--evaluate-every"):
        place = arguments.index(name)
        del arguments[place : place + 2]
    arguments += ["--steps", "12", "--evaluate-every", "6"]
    arguments += ["--image-from", str(towers / "vit"), "--text-from", str(towers / reader), "--lock", "image"]
    assert zoo_command(arguments) == 0
    model, vit, text = zoo.load(tmp_path / "run"), zoo.load(towers / "vit"), zoo.load(towers / reader, "backbone")
    for name, weight in model.named_weights().items():
        tower, _, rest = name.partition(".")
        if tower == "vision":
            np.testing.assert_array_equal(weight, vit.named_weights()[f"backbone.{rest}"])
        elif tower == "text" and rest != "token_embedding.table":
            assert not np.array_equal(weight, text.named_weights()[f"backbone.{rest}"]), name
    again = tmp_path / "again"
    fixed = f"--caption-column caption --batch-size 16 --steps 2 --no-xla --out {again} --max-length 9"
    more = ["--data", str(tables / "train.jsonl"), *fixed.split(), "--from", str(tmp_path / "run"), "--lock", "text"]
    assert zoo_command(["train", "clip-pretrain", *more, "--validation-data", str(tables / "valid.jsonl")]) == 0
    for name, weight in zoo.load(again).named_weights().items():
        if name.startswith("text."):
            np.testing.assert_array_equal(weight, model.named_weights()[name])
    # It is as good to search with, and to be explained, as any other.
    assert zoo_command(["retrieve", str(again), "--index", str(tables / "classes"), "a red patch"]) == 0
    picture = next((tables / "classes").glob("*/*.png"))
    assert (
        zoo_command(["explain", str(again), str(picture), "--text", "a red patch", "--out", f"{tmp_path}/why.png"]) == 0
    )
    assert (tmp_path / "why.png").is_file()
    capsys.readouterr()


def test_a_fresh_model_follows_its_settings() -> None:
    changes = {"image_size": 16, "max_length": 9, "projection_width": 8, "temperature": 0.5, "dropout": 0.3}
    beginning = look_up_clip(CLIPOrigin(preset="clip-nano", **changes))
    model = beginning.make("float32", train_clip(TEXTS * 3, 530))
    config = model.config
    assert (config.image_size, config.max_length, config.projection_width) == ((16, 16), 9, 8)
    assert (config.temperature, config.text.dropout, config.vision.attention_dropout) == (0.5, 0.3, 0.3)
    assert (config.vocabulary_size, config.end_token, beginning.length) == (530, 529, 9)
    assert model.preprocessing.output_size == (16, 16)


# --- mistakes


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--batch-size", "1"], "--batch-size is 1, and a pair is told from the others of its batch"),
        (["--crop-area", "0"], "--crop-area is 0.0, and must be above 0"),
        (["--mixup", "0.2"], "--mixup"),
        (["--caption-column", "capt"], "--caption-column is 'capt', and"),
        (["--caption-column", "caption", "labels"], "--caption-column is 'labels', and"),
        (["--image-column", "file"], "--image-column is 'file', and"),
        (["--template", "a photo"], "the template 'a photo' has to have one {} in it"),
        (["--zero-shot-data", "{tables}/valid"], "lies in no folder"),
        (["--preset", "vit-nano"], "clip-pretrain trains CLIP, and vit-nano is a vit model"),
        (["--tokenizer", "bpe"], "--tokenizer is 'bpe', and must be clip, wordpiece, or the directory"),
        (["--vocabulary-size", "300"], "a CLIP vocabulary of 300 is too small"),
        (["--lock", "image"], "--lock image leaves fresh weights as they are: give a trained tower with --image-from"),
        (["--adapt", "lora"], "--adapt lora is for a model with a head: of CLIP, --lock a tower"),
        (["--from", "{towers}/vit"], "--from brings its own model and tokenizer: leave out --preset, or --from"),
        (["--text-from", "{towers}/gpt"], "--text-from brings its own tokenizer: leave out --vocabulary-size"),
        (["--image-from", "{towers}/bert"], "bert model, and the image tower of CLIP is a vit"),
        (["--text-from", "{towers}/vit", "--vocabulary-size", "4096"], "the text tower of CLIP is a gpt or a bert"),
        (["--image-from", "{towers}/none"], "there is no such directory"),
        (["--validation-fraction", "1"], "--validation-fraction is 1.0, and must be between 0 and 1"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    tables: Path, towers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    given = [each.replace("{tables}", str(tables)).replace("{towers}", str(towers)) for each in options]
    refuse(capsys, command(tables / "train.jsonl", tmp_path / "run", *given), told)
    assert not (tmp_path / "run").exists()


def test_data_that_cannot_be_used_gets_one_line(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*rows: dict) -> Path:
        data = tmp_path / "pairs.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return data

    lines = [json.loads(line) for line in (tables / "train.jsonl").read_text().splitlines()[:12]]
    good = [{**line, "image": str(tables / line["image"])} for line in lines]
    broken = tmp_path / "broken.png"
    broken.write_bytes((tables / lines[0]["image"]).read_bytes()[:-40])
    (tmp_path / "empty.png").touch()
    for row, told in (
        ({"image": str(broken), "caption": "a"}, "broken.png"),
        ({"image": str(tmp_path / "empty.png"), "caption": "a"}, "empty.png"),
        ({"image": str(tables / "train.jsonl"), "caption": "a"}, "train.jsonl"),
        ({"image": "none.png", "caption": "a"}, "there is no such file"),
        ({**good[0], "caption": " "}, "no caption"),
        ({**good[0], "caption": [""]}, "no caption"),
        ({"image": good[0]["image"]}, "no caption"),
    ):
        refuse(capsys, command(write(*good, row), tmp_path / "run"), "1 of 13 rows", told)
    alike = [{**row, "caption": "the same"} for row in good]
    refuse(capsys, command(write(*alike), tmp_path / "run"), "all 12 rows belong together", "give --validation-data")
    held_out = write(good[0]).rename(tmp_path / "one.jsonl")
    options = ("--validation-data", held_out)
    refuse(capsys, command(write(*good), tmp_path / "run", *options), "1 held-out row leaves nothing")
    assert not (tmp_path / "run").exists()
