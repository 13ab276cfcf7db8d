"""The recipes vit-pretrain, classify-image and mae-pretrain, from folders of pictures to their pages, with tiny
settings."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share
from PIL import Image

import zoo
from recipes.command import run as zoo_command
from recipes.data import classes
from recipes.data.augmentation import Augmentation
from recipes.data.dataset import make_dataset
from recipes.data.grouping import GroupedBatches
from recipes.data.image_columns import ImageColumns, find_columns
from recipes.data.labelled_images import ImageSource, read_labelled
from recipes.data.masked_images import draw_masks
from recipes.data.tables import open_table
from recipes.neighbours import embed_images, neighbour_figures
from recipes.reports.reconstruction import hide, to_bytes
from tests.recipes.fine_tuned import STEPS, best_of, facts_of, figures, predict, refuse, rows_of, stop_and_go_on
from tests.recipes.mirroring import assert_two_replicas_equal_one
from tests.recipes.resuming import outcome
from tests.recipes.shapes import COLOURS, write_folder
from zoo.image import Preprocessing, preprocess

OPTIONS = (
    "--preset vit-nano --batch-size 16 --optimizer adamw --learning-rate 5e-3 --warmup-steps 5 --dropout 0.02 "
    f"--steps {STEPS} --evaluate-every 30 --no-xla --crop-area 0.8"
)


def command(recipe: str, data: Path, out: Path | None, *options: object) -> list[str]:
    where = [] if out is None else ["--out", str(out)]
    return ["train", recipe, "--data", str(data), *where, *OPTIONS.split(), *map(str, options)]


def going_on(data: Path, out: Path, source: Path, *options: object) -> list[str]:
    arguments = command("classify-image", data, out, "--from", source, *options)
    place = arguments.index("--preset")
    del arguments[place : place + 2]
    arguments.remove("--no-xla")  # which is the default here
    return arguments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With train/ and test/."""
    folder = tmp_path_factory.mktemp("shapes")
    write_folder(folder / "train", 40, 0)
    write_folder(folder / "test", 10, 1)
    return folder


@pytest.fixture(scope="module")
def supervised(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of vit-pretrain, with everything on that is random."""
    out = tmp_path_factory.mktemp("vit") / "run"
    assert zoo_command(pretraining(folder, out)) == 0
    return out


def pretraining(folder: Path, out: Path | None, *options: object) -> list[str]:
    changes = "--rand-augment 1 --magnitude 0.2 --mixup 0.2 --cutmix 1 --label-smoothing 0.05 --stochastic-depth 0.05"
    held_out = ("--validation-data", folder / "test")
    return command("vit-pretrain", folder / "train", out, *held_out, *changes.split(), *options)


@pytest.fixture(scope="module")
def completing(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of mae-pretrain."""
    out = tmp_path_factory.mktemp("mae") / "run"
    assert zoo_command(masking(folder, out)) == 0
    return out


def masking(folder: Path, out: Path | None, *options: object) -> list[str]:
    held_out = ("--validation-data", folder / "test", "--decoder-width", 32, "--decoder-depth", 1)
    learning = ["--mask-ratio", "0.5", "--batch-size", "64", "--optimizer", "muon", "--learning-rate", "1e-2"]
    return command("mae-pretrain", folder / "train", out, *held_out, *learning, *options)


def test_a_classifier_learns_and_leaves_what_it_promises(supervised: Path) -> None:
    best = best_of(supervised, "validation_accuracy")
    assert best["validation_accuracy"] > 0.9
    assert min(row["validation_loss"] for row in rows_of(supervised)) < 0.5 * math.log(3)  # of fresh weights: log(3)
    facts = facts_of(supervised)
    assert (facts["train_images"], facts["validation_images"], facts["classes"]) == (120, 30, 3)
    model = zoo.load(supervised)
    assert model.labels == tuple(sorted(COLOURS)) and model.preprocessing == Preprocessing.for_vit(32, 32)
    summary = (supervised / "summary.md").read_text()
    for name in ("confusion.png", "predictions.png", "loss.png"):
        with Image.open(supervised / name) as picture:
            assert picture.format == "PNG"
        assert f"({name})" in summary
    assert "| it said | it is |" in (supervised / "mistakes.md").read_text()


def test_what_was_measured_is_what_is_predicted(
    supervised: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `zoo eval`, at any size of batches, and by `zoo predict`."""
    measured = figures(capsys, supervised, "--data", folder / "test", "--batch-size", 7)
    best = best_of(supervised, "validation_accuracy")
    names = ("accuracy", "macro_f1")
    assert measured == pytest.approx({name: best[f"validation_{name}"] for name in names} | {"images": 30})
    records = predict(capsys, supervised, folder / "test")
    right = sum(Path(record["input"]).parent.name == record["label"] for record in records)
    assert len(records) == 30 and right / 30 == pytest.approx(measured["accuracy"])


@pytest.mark.full  # runs that go on are in the quick tier in test_classify_text; the draws in test_data_augmentation
@pytest.mark.parametrize("recipe", [pretraining, masking])
def test_stopped_and_started_again_it_ends_as_one_that_never_was(
    recipe: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never, stopped = tmp_path / "never", tmp_path / "stopped"
    assert zoo_command(recipe(folder, never)) == 0
    stop_and_go_on(recipe(folder, stopped), stopped, monkeypatch)
    assert outcome(stopped, STEPS) == outcome(never, STEPS)


@pytest.mark.full  # its kin in test_gpt_pretrain is in the quick tier
@pytest.mark.parametrize("recipe", [pretraining, masking])
def test_two_replicas_end_where_one_device_does(recipe: Any, folder: Path, tmp_path: Path) -> None:
    options = "--dropout 0 --clip-norm 0.1 --steps 6 --evaluate-every 3 --learning-rate 1e-3"
    arguments = recipe(folder, None, *options.split())
    if recipe is pretraining:
        place = arguments.index("--stochastic-depth")  # which each replica draws by itself
        arguments[place + 1] = "0"
    assert_two_replicas_equal_one(arguments, tmp_path)


def test_images_are_completed(completing: Path) -> None:
    """Fresh, the loss is 1, the variance of normalised pixels. It comes down to 0.6 in these few steps, and to a half
    in twice as many."""
    assert rows_of(completing)[-1]["validation_loss"] < 0.7
    model = zoo.load(completing)
    assert model.task == "backbone" and model.config.pooler is False
    with Image.open(completing / "reconstructions.png") as picture:
        assert picture.format == "PNG"
    assert "(reconstructions.png)" in (completing / "summary.md").read_text()


@pytest.mark.full  # two trainings; that heads are fresh and the rest stays is in the quick tier by itself
def test_a_model_goes_on(completing: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From images without labels to few with: all of it, and the head alone, which leaves the rest as it was."""
    few = ("--examples-per-class", 10, "--validation-data", folder / "test")
    assert zoo_command(going_on(folder / "train", tmp_path / "full", completing, *few)) == 0
    assert facts_of(tmp_path / "full")["train_images"] == 30
    assert best_of(tmp_path / "full", "validation_accuracy")["validation_accuracy"] > 0.6
    probe = going_on(folder / "train", tmp_path / "probe", completing, *few, "--adapt", "frozen", "--steps", 30)
    assert zoo_command(probe) == 0
    before, after = (zoo.load(each).named_weights() for each in (completing, tmp_path / "probe"))
    for name, weight in before.items():
        assert np.array_equal(weight.numpy(), after[name].numpy()), name
    state = json.loads((tmp_path / "probe" / "recipe.json").read_text())
    assert state["settings"]["training"]["optimization"]["adapt"] == "frozen"
    assert "| trained parameters | 99 |" in (tmp_path / "probe" / "summary.md").read_text()  # 3 of 32, and biases

    # Low-rank adapters, merged in the model that is left: its matrices have changed, by rank 2, and nothing else has.
    adapted = going_on(folder / "train", tmp_path / "adapted", completing, *few, "--adapt", "lora", "--lora-rank", 2)
    assert zoo_command([*adapted, "--learning-rate", "1e-2"]) == 0
    assert best_of(tmp_path / "adapted", "validation_accuracy")["validation_accuracy"] > 0.5
    after = zoo.load(tmp_path / "adapted").named_weights()
    assert after.keys() == zoo.load(tmp_path / "full").named_weights().keys()
    for name, weight in before.items():
        changed = weight.numpy() - after[name].numpy()
        if name.endswith("kernel") and (".attention." in name or ".feed_forward." in name):
            assert np.linalg.matrix_rank(changed, tol=1e-5) == 2, name
        else:
            assert not changed.any(), name

    # Another size of image: positions are interpolated, and the preprocessing follows.
    larger = going_on(folder / "train", tmp_path / "larger", completing, *few, "--image-size", 48, "--steps", 2)
    assert zoo_command(larger) == 0
    model = zoo.load(tmp_path / "larger")
    assert model.config.image_size == (48, 48) and model.preprocessing.output_size == (48, 48)
    capsys.readouterr()


def test_neighbours_tell_classes(completing: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured = figures(capsys, completing, "--data", folder / "test", "--neighbours", folder / "train")
    model = zoo.load(completing, task="embed")
    known, asked = (read(folder / name) for name in ("train", "test"))
    vectors = [embed_images(model, each, model.preprocessing, 16) for each in (known, asked)]
    pictures = [asked.read(place) for place in range(len(asked))]
    outputs = model({"images": preprocess(pictures, model.preprocessing)})["embedding"].numpy()
    assert np.allclose(vectors[1], outputs / np.linalg.norm(outputs, axis=1, keepdims=True), atol=1e-5)
    right = 0
    for vector, target in zip(vectors[1], asked.targets, strict=True):  # by hand
        cosines = vectors[0] @ vector
        nearest = np.argsort(-cosines)[:20]
        votes = np.bincount(known.targets[nearest], np.exp(cosines[nearest] / 0.07), minlength=3)
        right += votes.argmax() == target
    assert measured == {"neighbour_accuracy": pytest.approx(right / 30), "images": 30}
    assert neighbour_figures(vectors[0], known.targets, vectors[0], known.targets)["neighbour_accuracy"] > 0.5


@pytest.mark.full  # a student of texts learns in the quick tier
def test_a_student_learns_from_a_teacher_of_images(supervised: Path, folder: Path, tmp_path: Path) -> None:
    """Half of its blocks, begun as every other one of them."""
    out = tmp_path / "student"
    options = f"--steps 30 --evaluate-every 15 --learning-rate 2e-3 --warmup-steps 5 --teacher {supervised} --out {out}"
    data = ["--data", str(folder / "train"), "--validation-data", str(folder / "test")]
    assert zoo_command(["train", "distill", *data, *options.split()]) == 0
    row = rows_of(out)[-1]
    assert row["validation_accuracy"] > 0.9 and row["validation_agreement"] > 0.9
    teacher = best_of(supervised, "validation_accuracy")
    assert row["validation_teacher_accuracy"] == pytest.approx(teacher["validation_accuracy"])
    model = zoo.load(out)
    assert model.task == "classify" and model.config.depth == 1 and model.labels == tuple(sorted(COLOURS))
    assert "ms for one image" in (out / "summary.md").read_text()


def read(path: Path) -> Any:
    table = open_table(path)
    return read_labelled(table, find_columns(table, ImageColumns()))


def test_a_quarter_of_the_patches_is_kept_each_as_often() -> None:
    kept, masked = draw_masks(np.random.default_rng(0), 4000, 64, 16)
    assert kept.shape == (4000, 16) and masked.shape == (4000, 48)
    together = np.sort(np.concatenate([kept, masked], axis=1), axis=1)
    assert np.array_equal(together, np.broadcast_to(np.arange(64), (4000, 64)))
    assert np.abs(np.bincount(kept.ravel(), minlength=64) / 4000 - 0.25).max() < 0.035  # five standard deviations
    assert len(np.unique(kept, axis=0)) == 4000
    both = [np.mean((kept == 7).any(axis=1) & (kept == other).any(axis=1)) for other in (8, 15, 40)]
    assert np.abs(np.array(both) - 16 * 15 / (64 * 63)).max() < 0.02  # near ones as often together as others


def test_pictures_of_what_was_hidden() -> None:
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, (2, 8, 12, 3)).astype(np.uint8)
    hidden = hide(pictures, np.array([[0, 5], [3, 4]]), (2, 3), 4)
    same = (hidden == pictures).all(axis=-1)
    for image, patches in enumerate(((0, 5), (3, 4))):
        for patch in range(6):
            top, left = patch // 3 * 4, patch % 3 * 4
            part = hidden[image, top : top + 4, left : left + 4]
            assert (part == 128).all() if patch in patches else same[image, top : top + 4, left : left + 4].all()
    for preprocessing in (Preprocessing.for_vit(8, 12), Preprocessing.for_clip(8)):
        normal = preprocess(list(pictures), preprocessing)
        assert np.array_equal(to_bytes(normal, preprocessing), preprocessing_bytes(pictures, preprocessing))


def preprocessing_bytes(pictures: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    from zoo.image.pixels import fit_image

    return np.stack([fit_image(picture, preprocessing) for picture in pictures])


@pytest.mark.parametrize("changes", [{}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}, {"label_smoothing": 0.2}])
def test_classes_weigh_alike_however_images_are_mixed(folder: Path, tmp_path: Path, changes: dict[str, float]) -> None:
    """Of red there are ten times as many: without --balance it would have ten times the weight."""
    shutil.copytree(folder / "train" / "red", tmp_path / "red")
    for path in sorted((folder / "train" / "blue").iterdir())[:4]:
        (tmp_path / "blue").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "blue")
    data = read(tmp_path)
    chosen = Augmentation(crop_area=1.0, flip=False, **changes)  # type: ignore[arg-type]
    source = ImageSource(data, Preprocessing.for_vit(32, 32), chosen, classes.balance(data))
    batches = GroupedBatches(source, 44, 0)  # all of them
    totals, smoothing = np.zeros(2), chosen.label_smoothing
    for _, labels, weights in source.augment(make_dataset(batches)).take(40):
        shares = (labels["logits"].numpy() - smoothing / 2) / (1 - smoothing)
        assert np.allclose(shares.sum(axis=1), 1, atol=1e-5)
        totals += (weights["logits"].numpy()[:, None] * shares).sum(axis=0)
    assert totals[0] == pytest.approx(totals[1], rel=0.05 if "cutmix" in changes else 1e-5)


def test_an_image_that_vanishes_while_it_is_trained_on_ends_the_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "train", tmp_path / "data")
    fetch = GroupedBatches.batch

    def lose_and_fetch(self: GroupedBatches, step: int) -> Any:
        if self.num_batches is None and step == 8:
            shutil.rmtree(tmp_path / "data" / "red")
        return fetch(self, step)

    monkeypatch.setattr(GroupedBatches, "batch", lose_and_fetch)
    assert zoo_command(command("vit-pretrain", tmp_path / "data", tmp_path / "run", "--evaluate-every", 1)) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("zoo: ") and str(tmp_path / "data" / "red") in last and "not any more" in last


def test_rand_augment_without_its_package(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    arguments = command("vit-pretrain", folder / "train", tmp_path / "run", "--rand-augment", 1)
    refuse(capsys, arguments, "keras-cv, which is not installed", "tf-model-zoo[image]")
    assert not (tmp_path / "run").exists()


def test_bad_data_gets_one_line_and_leaves_nothing(
    folder: Path, supervised: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"

    def train(data: Path, *options: object, recipe: str = "vit-pretrain") -> list[str]:
        return command(recipe, data, out, *options)

    refuse(capsys, train(tmp_path / "missing"), "missing does not exist")
    one = tmp_path / "one"
    shutil.copytree(folder / "train" / "red", one / "red")
    refuse(capsys, train(one), "one class only, 'red'")
    single = tmp_path / "single"
    shutil.copytree(folder / "test", single)
    for path in sorted((single / "blue").iterdir())[1:]:
        path.unlink()
    assert zoo_command(command("vit-pretrain", single, tmp_path / "single-run", "--steps", 1)) == 0
    assert facts_of(tmp_path / "single-run")["validation_images"] == 2  # a class of one image stays in the training
    capsys.readouterr()
    unseen = tmp_path / "unseen"
    shutil.copytree(folder / "test", unseen)
    (unseen / "red").rename(unseen / "mauve")
    refuse(capsys, train(folder / "train", "--validation-data", unseen), "unseen in training, such as 'mauve'")
    broken = tmp_path / "broken"
    shutil.copytree(folder / "test", broken)
    for number, path in enumerate(sorted((broken / "green").iterdir())):
        path.write_bytes((b"", b"no image", path.read_bytes()[:60])[number % 3])
    refuse(capsys, train(broken), "10 of 30 rows", "cannot be used", str(broken / "green" / "000.png"))
    text = tmp_path / "text.csv"
    text.write_text("words,more,label\na cat,b,x\na dog,c,y\n")
    refuse(capsys, train(text), "does not show which column is the image", "--image-column")
    refuse(capsys, train(folder / "train", "--preset", "gpt-nano"), "gpt-nano is a gpt model")
    refuse(capsys, train(folder / "train", "--mask-ratio", 0.99, recipe="mae-pretrain"), "--mask-ratio is 0.99")
    without = ["train", "classify-image", "--data", str(folder / "train"), "--out", str(out)]
    refuse(capsys, without, "give one with --from")
    refuse(capsys, train(folder / "train", "--from", supervised), "--preset")
    # Held-out images may come another way than those to train on, with columns of other names: they are found.
    table, file = tmp_path / "held_out.csv", next((folder / "test").glob("*/*.png"))
    table.write_text(f"file_name,class\n{file},mauve\n")
    refuse(capsys, train(folder / "train", "--validation-data", table), "unseen in training, such as 'mauve'")
    for recipe in ("vit-pretrain", "mae-pretrain"):
        refuse(capsys, train(folder / "train", "--adapt", "lora", recipe=recipe), "--adapt lora")
    lesson = ["train", "distill", "--teacher", str(supervised), "--data", str(folder / "train"), "--out", str(out)]
    refuse(capsys, [*lesson, "--max-length", "8"], "--max-length is for models of text")
    refuse(capsys, [*lesson, "--text-column", "words"], "--text-column is for texts")
    refuse(capsys, ["eval", str(supervised), "--data", str(unseen)], "unseen in training, such as 'mauve'")
    refuse(capsys, ["eval", str(supervised), "--data", str(folder / "test"), "--stride", "3"], "--stride")
    assert not out.exists()
