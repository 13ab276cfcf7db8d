"""`zoo retrieve`: the ranking, what is kept of a folder, the sheet, and what is refused."""

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from recipes import image_index
from recipes.command import run
from zoo.image import read_image
from zoo.prediction import embed
from zoo.text import train_wordpiece

TEXTS = ["the model reads", "a layer writes text slowly"]
NAMES = ["a.png", "b.jpg", "below/c.png", "below/deep/d.png", "e [red].png", "日本.png"]  # in the order of a walk


def write_image(path: Path, seed: int, size: tuple[int, int] = (50, 40)) -> None:
    """Blobs of colour, which even fresh weights tell apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype("uint8")
    Image.fromarray(pixels).resize(size).save(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory, enliven) -> Path:
    """A CLIP and a ViT."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_wordpiece(TEXTS * 20, 128)
    clip = enliven(zoo.create("clip-nano", text={"vocabulary_size": 300}, end_token=tokenizer.special_ids["sep"]))
    clip.tokenizer = tokenizer
    zoo.save(clip, folder / "clip")
    zoo.save(enliven(zoo.create("vit-nano")), folder / "vit")
    bert = zoo.create("bert-nano", vocabulary_size=tokenizer.vocabulary_size)
    bert.tokenizer = tokenizer
    zoo.save(bert, folder / "bert")
    return folder


@pytest.fixture(scope="module", autouse=True)
def _each_model_is_loaded_once():
    """Most of the time of a command on a tiny model goes to loading it."""
    patch = pytest.MonkeyPatch()
    patch.setattr(zoo, "load", functools.cache(zoo.load))
    yield
    patch.undo()


@pytest.fixture
def images(tmp_path) -> Path:
    for seed, name in enumerate(NAMES):
        write_image(tmp_path / "images" / name, seed)
    (tmp_path / "images/notes.txt").write_text("no image")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the images that an index was made of, since the list was emptied."""
    names: list[str] = []

    def read(path: Path) -> np.ndarray:
        names.append(path.name)
        return read_image(path)

    monkeypatch.setattr(image_index, "read_image", read)
    return names


def retrieve(capsys, *arguments: Any) -> list[dict[str, Any]]:
    """What a command finds, query by query."""
    assert run(["retrieve", *map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refuse(capsys, *arguments: Any) -> str:
    assert run(["retrieve", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("zoo: "), captured
    return lines[0]


def test_the_ranking_is_that_of_all_cosines(models, images, capsys):
    model = zoo.load(models / "clip")
    paths = [images / name for name in NAMES]
    cosines = embed(model, TEXTS, are_images=False) @ embed(model, paths, are_images=True).T
    found = retrieve(capsys, models / "clip", "--index", images, *TEXTS, "--top", 4, "--batch-size", 2)
    assert [(each["query"], each["kind"]) for each in found] == [(text, "text") for text in TEXTS]
    for each, row in zip(found, cosines, strict=True):
        best = np.argsort(-row)[:4]
        assert [hit["path"] for hit in each["results"]] == [str(paths[place]) for place in best]
        assert [hit["rank"] for hit in each["results"]] == [1, 2, 3, 4]
        np.testing.assert_allclose([hit["cosine"] for hit in each["results"]], row[best], atol=1e-6)


@pytest.mark.parametrize("name", ["clip", "vit"])
def test_an_image_finds_itself_first(models, images, capsys, name):
    paths = [images / each for each in NAMES]
    found = retrieve(capsys, models / name, "--index", images, *paths, "--batch-size", 4)
    assert [each["kind"] for each in found] == ["image"] * len(paths)
    assert [each["results"][0]["path"] for each in found] == [str(path) for path in paths]
    for each in found:
        assert each["results"][0]["cosine"] == pytest.approx(1.0, abs=1e-5)
        assert len(each["results"]) == len(NAMES)


def test_texts_and_images_may_be_asked_together(models, images, capsys):
    one, other = retrieve(capsys, models / "clip", "--index", images, TEXTS[0], images / "a.png")
    assert (one["kind"], other["kind"]) == ("text", "image")
    (alone,) = retrieve(capsys, models / "clip", "--index", images, TEXTS[0])
    assert [hit["path"] for hit in one["results"]] == [hit["path"] for hit in alone["results"]]
    (text,) = retrieve(capsys, models / "clip", "--index", images, images / "a.png", "--kind", "text")
    assert text["kind"] == "text"


def test_what_was_made_is_kept_and_only_what_changed_is_made_anew(models, images, capsys, decoded):
    def again() -> dict[str, Any]:
        decoded.clear()
        return retrieve(capsys, models / "clip", "--index", images, images / "a.png")[0]

    first = again()
    assert sorted(decoded) == sorted(Path(name).name for name in NAMES)
    assert again() == first and decoded == []

    write_image(images / "b.jpg", 100)  # of the same size in bytes or not, its time is another
    os.utime(images / "b.jpg", ns=(1, 1))
    write_image(images / "new.png", 101)
    (images / "below/c.png").unlink()
    changed = again()
    assert sorted(decoded) == ["b.jpg", "new.png"]
    model = zoo.load(models / "clip")
    paths = [images / name for name in (*NAMES[:2], *NAMES[3:], "new.png")]
    vectors = embed(model, paths, are_images=True)
    expected = dict(zip(map(str, paths), (vectors @ vectors[0]).tolist(), strict=True))
    assert {hit["path"]: hit["cosine"] for hit in changed["results"]} == pytest.approx(expected, abs=1e-6)
    assert again() == changed and decoded == []

    write_image(images / "a.png", 102)
    retrieve(capsys, models / "vit", "--index", images, images / "b.jpg")  # another model has an index of its own
    assert len(decoded) == len(paths)


def test_a_long_work_is_kept_in_pieces(models, images, capsys, decoded, monkeypatch):
    monkeypatch.setattr(image_index, "SECONDS_AT_ONCE", 0.0)
    monkeypatch.setattr(image_index, "BATCHES_AHEAD", 0)
    embedded = image_index._Embedder.embed

    def stop(self, names):
        if len(names) < len(NAMES):
            raise KeyboardInterrupt
        return embedded(self, names)

    arguments = [str(models / "clip"), "--index", str(images), TEXTS[0], "--batch-size", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(image_index._Embedder, "embed", stop)
        assert run(["retrieve", *arguments]) == 130
    capsys.readouterr()
    assert sorted(decoded) == ["a.png", "b.jpg"]
    (found,) = retrieve(capsys, *arguments)
    assert sorted(decoded) == sorted(Path(name).name for name in NAMES)  # those two not once more
    model = zoo.load(models / "clip")
    cosines = embed(model, [images / name for name in NAMES], True) @ embed(model, TEXTS[:1], False)[0]
    assert [hit["path"] for hit in found["results"]] == [str(images / NAMES[place]) for place in np.argsort(-cosines)]


def test_broken_images_are_told_and_passed_over(models, images, capsys, decoded):
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:100])
    (images / "empty.jpg").write_bytes(b"")
    (images / "nowhere.png").symlink_to(images / "gone.png")
    for times in range(2):
        assert run(["retrieve", str(models / "clip"), "--index", str(images), "a text"]) == 0
        captured = capsys.readouterr()
        (line,) = [line for line in captured.err.splitlines() if line.startswith("WARNING:")]
        assert "3 of 9 images" in line and "cut.png: the image is broken" in line and "empty.jpg: the file is" in line
        assert len(decoded) == 9, times
    (images / "cut.png").write_bytes((images / "a.png").read_bytes())  # it is whole now
    write_image(images / "gone.png", 100)
    paths = [
        hit["path"] for hit in retrieve(capsys, models / "clip", "--index", images, images / "b.jpg")[0]["results"]
    ]
    assert {str(images / name) for name in ("cut.png", "nowhere.png", "gone.png")} < set(paths)


def test_a_table_for_people(models, images, capsys):
    assert run(["retrieve", str(models / "clip"), "--index", str(images), "a [bold]text[/bold]", "--top", "6"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[0].strip() == "a [bold]text[/bold]"
    assert lines[2].split() == ["rank", "cosine", "path"]
    assert all(str(images / name) in out for name in NAMES)
    assert [line.split()[0] for line in lines[4:10]] == list("123456")


def test_a_sheet_shows_the_best(models, images, capsys, tmp_path):
    out = tmp_path / "sheets/best.png"
    write_image(images / "large.png", 7, (900, 1500))
    (found,) = retrieve(capsys, models / "clip", "--index", images, "日本 text", "--top", 5, "--out", out)
    assert len(found["results"]) == count_pictures(out) == 5
    before = out.read_bytes()
    assert "exists" in refuse(capsys, models / "clip", "--index", images, "a", "--out", out)
    assert out.read_bytes() == before
    retrieve(capsys, models / "clip", "--index", images, images / "a.png", "--top", 9, "--out", out, "--force")
    assert count_pictures(out) == 7  # all there are
    retrieve(capsys, models / "clip", "--index", images, *TEXTS, "--top", 1, "--out", out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["best-1.png", "best-2.png", "best.png"]


def count_pictures(sheet: Path) -> int:
    """How many stretches of columns of a PNG hold colours; what is written is black on white."""
    with Image.open(sheet, formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    coloured = ((pixels.max(axis=2) - pixels.min(axis=2)) > 8).any(axis=0)
    return int((np.diff(coloured.astype(int)) == 1).sum())


def test_mistakes_get_one_line(models, images, capsys, tmp_path):
    clip, vit, bert = (models / name for name in ("clip", "vit", "bert"))
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    (tmp_path / "all broken").mkdir()
    (tmp_path / "all broken/x.png").write_bytes(b"no image")
    cases = {
        (clip, "--index", images): "nothing to read",
        (clip, "--index", images, " "): "a query is empty",
        (clip, "--index", tmp_path / "nowhere", "a"): "cannot be read",
        (clip, "--index", broken, "a"): "cannot be read",
        (clip, "--index", tmp_path / "empty", "a"): "holds no images",
        (clip, "--index", tmp_path / "all broken", "a"): "no image that can be read",
        (clip, "--index", images, tmp_path / "none.png"): "no such file; if it is a text",
        (clip, "--index", images, f"{'x' * 500}.png"): "no such file",
        (clip, "--index", images, "a", "--kind", "image"): "no such file",
        (clip, "--index", images, broken): "broken.png: not an image",
        (clip, "--index", images, "a", "--top", 0): "--top",
        (clip, "--index", images, "a", "--batch-size", 0): "--batch-size",
        (clip, "--index", images, "a", "--out", tmp_path / "sheet.jpg"): "end in .png",
        (clip, "--index", images, "a", "--out", tmp_path / "broken.png/sheet.png"): "no folder",
        (clip, "--index", images, "a", "--file", tmp_path / "none.txt"): "cannot be read",
        (vit, "--index", images, "a text"): "a vit model reads none",
        (bert, "--index", images, "a text"): "sees no images",
        (tmp_path, "--index", images, "a text"): "no model directory",
        (clip, "a text"): "--index",
    }
    for arguments, message in cases.items():
        assert message in refuse(capsys, *arguments), arguments
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all broken", "broken.png", "empty", "images"]


def test_a_cache_that_cannot_be_written(models, images, capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "file"))
    assert "cannot be written" in refuse(capsys, models / "clip", "--index", images, "a")
