"""Images with captions: their columns, what is read of them, how they are shared out, and that they stay together."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recipes.data.augmentation import Augmentation
from recipes.data.captions import CaptionedImages, CaptionSource, each_text, read_captions, split
from recipes.data.grouping import GroupedBatches
from recipes.data.image_columns import CaptionColumns, find_caption_columns
from recipes.data.problems import Problems
from recipes.data.tables import open_table
from tests.recipes.captioned import COLOURS, make_picture
from tests.recipes.refusing import assert_refused
from zoo.image import Preprocessing
from zoo.text import Tokenizer, train_clip

SEEN = Preprocessing.for_clip(16)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_clip([f"a {colour} patch, flat; big" for colour in COLOURS] * 3, 600)


def write(folder: Path, *rows: dict[str, Any]) -> Path:
    """A table; an `image` that is a number becomes a picture of its own, the same for the same number."""
    folder.mkdir(exist_ok=True)
    for row in rows:
        if isinstance(number := row.get("image"), int):
            row["image"] = f"{number}.png"
            colour = list(COLOURS)[number % len(COLOURS)]
            Image.fromarray(make_picture(colour, np.random.default_rng(number))).save(folder / row["image"])
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, *columns: str) -> CaptionedImages:
    table = open_table(path)
    return read_captions(table, find_caption_columns(table, CaptionColumns(None, columns)))


def texts_of(tokenizer: Tokenizer, token_ids: np.ndarray) -> list[str]:
    end = tokenizer.special_ids["end"]
    return [tokenizer.decode(row[1 : int(np.argmax(row == end))]) for row in token_ids]


# --- columns


@pytest.mark.parametrize(
    ("header", "wanted", "found"),
    [
        ("image,caption", CaptionColumns(), ("image", ("caption",))),
        ("id,Text,img", CaptionColumns(), ("img", ("Text",))),
        ("file_name,title,description", CaptionColumns(), ("file_name", ("title",))),
        ("image,alt,source", CaptionColumns(), ("image", ("alt",))),
        ("image,whatever", CaptionColumns(), ("image", ("whatever",))),
        ("a,caption", CaptionColumns("a"), ("a", ("caption",))),
        ("image,caption,keywords", CaptionColumns(None, ("caption", "keywords")), ("image", ("caption", "keywords"))),
        ("image,caption,keywords", CaptionColumns(None, ("keywords",)), ("image", ("keywords",))),
        ("image,text,name", CaptionColumns("text", ("image",)), ("text", ("image",))),
    ],
)
def test_columns_are_found(tmp_path: Path, header: str, wanted: CaptionColumns, found: tuple) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n{','.join('x' * (header.count(',') + 1))}\n")
    assert find_caption_columns(open_table(path), wanted) == found


def test_columns_that_cannot_be_told_are_asked_for(tmp_path: Path) -> None:
    def find(header: str, wanted: CaptionColumns) -> Any:
        (tmp_path / "a.csv").write_text(f"{header}\n{','.join('x' * (header.count(',') + 1))}\n")
        return lambda: find_caption_columns(open_table(tmp_path / "a.csv"), wanted)

    assert_refused(find("image,a,b", CaptionColumns()), "does not show which column is the caption", "one of 'a', 'b'")
    assert_refused(find("image,a,b", CaptionColumns(None, ("a", "c"))), "--caption-column is 'c'")
    assert_refused(find("a,b", CaptionColumns()), "give --image-column")
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "1.png").touch()
    (tmp_path / "a.csv").unlink()
    table = open_table(tmp_path)
    assert_refused(lambda: find_caption_columns(table, CaptionColumns()), "holds images, and no caption")
    assert find_caption_columns(table, CaptionColumns(None, ("label",))) == ("image", ("label",))


# --- reading


def test_captions_and_words_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"image": 0, "caption": " a red patch ", "words": ["flat", "", 3, "big"]},
        {"image": 1, "caption": ["green", "green", " ", "a patch"], "words": "small"},
        {"image": 2, "caption": "blue"},
    )
    data = read(path, "caption", "words")
    assert [data.captions(place) for place in range(3)] == [["a red patch"], ["green", "a patch"], ["blue"]]
    assert [data.words(place) for place in range(3)] == [["flat", "big"], ["small"], []]
    assert [read(path).words(place) for place in range(3)] == [[], [], []]
    assert sorted(each_text(open_table(path), Problems(), ("caption", "words"))) == sorted(
        ["a red patch", "flat", "big", "green", "green", "a patch", "small", "blue"]
    )
    assert data.select(np.array([2])).captions(0) == ["blue"]
    assert data.fingerprint == read(path, "caption", "words").fingerprint != read(path).fingerprint


def test_every_format_gives_the_same(tmp_path: Path) -> None:
    path = write(tmp_path, {"image": 0, "caption": ["a red patch", "red"]}, {"image": 1, "caption": ["green", "a"]})
    records = tmp_path / "records" / "pairs.tfrecord"
    records.parent.mkdir()
    with tf.io.TFRecordWriter(str(records)) as writer:
        for line in path.read_text().splitlines():
            row = json.loads(line)
            values = {
                "image": [(tmp_path / row["image"]).read_bytes()],
                "caption": [c.encode() for c in row["caption"]],
            }
            feature = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for name, value in values.items()
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    assert read(records).fingerprint == read(path).fingerprint
    from pyarrow import Table, parquet

    parquet.write_table(
        Table.from_pylist([json.loads(each) for each in path.read_text().splitlines()]), tmp_path / "a.parquet"
    )
    assert read(tmp_path / "a.parquet").fingerprint == read(path).fingerprint
    (tmp_path / "a.csv").write_text("image,caption\n0.png,a red patch\n1.png,green\n")
    assert [read(tmp_path / "a.csv").captions(place) for place in (0, 1)] == [["a red patch"], ["green"]]


def test_rows_without_a_caption_or_a_whole_image_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = [{"image": number, "caption": f"number {number}"} for number in range(60)]
    path = write(tmp_path, *good, {"image": 1, "caption": ""}, {"image": "none.png", "caption": "a"})
    assert len(read(path)) == 60
    assert "2 of 62 rows (3.2%) cannot be used" in caplog.text
    assert "no caption (1)" in caplog.text and "there is no such file (1)" in caplog.text
    path = write(tmp_path, *good[:3], {"image": 1, "caption": []})
    assert_refused(lambda: read(path), "1 of 4 rows", "no caption")


# --- sharing out


def test_what_is_alike_is_in_one_share(tmp_path: Path) -> None:
    rows = [{"image": number, "caption": [f"number {number}"]} for number in range(40)]
    rows += [{"image": 0, "caption": ["again"]}, {"image": 40, "caption": ["Again", "more"]}]
    rows += [{"image": 41, "caption": ["less", "more"]}, {"image": 42, "caption": ["less"]}]
    data = read(write(tmp_path, *rows))
    bound, held_out_at_all = (0, 40, 41, 42, 43), set()
    for seed in range(12):
        train_data, held_out = split(data, 0.25, seed)
        assert sorted([*train_data.rows, *held_out.rows]) == list(range(44))
        assert len({row in set(held_out.rows) for row in bound}) == 1
        assert 6 <= len(held_out) <= 11
        held_out_at_all |= {0 in held_out.rows}
        assert np.array_equal(split(data, 0.25, seed)[1].rows, held_out.rows)
    assert held_out_at_all == {True, False}
    alike = read(write(tmp_path / "alike", *({"image": number, "caption": "the same"} for number in range(4))))
    assert_refused(lambda: split(alike, 0.5, 0), "all 4 rows belong together", "give --validation-data")


# --- batches


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> CaptionedImages:
    """23 pictures, of which the last has the pixels of the first; a colour is named in each caption."""
    rows = []
    for number in (*range(22), 0):
        colour = list(COLOURS)[number % len(COLOURS)]
        rows.append({"image": number, "caption": [f"a {colour} patch", f"{colour} patch"], "words": ["flat", "big"]})
    return read(write(tmp_path_factory.mktemp("captioned"), *rows), "caption", "words")


@settings(deadline=None, max_examples=15)
@given(
    batch_size=st.integers(2, 30), seed=st.integers(0, 99), varied=st.booleans(), crop_area=st.sampled_from([1, 0.6])
)
def test_captions_stay_with_their_images(
    captioned: CaptionedImages, tokenizer: Tokenizer, batch_size: int, seed: int, varied: bool, crop_area: float
) -> None:
    """In whatever batch of whatever epoch: each caption names the colour of its picture, and labels are of both."""
    augmentation = Augmentation(crop_area=crop_area, flip=varied)
    source = CaptionSource(captioned, SEEN, tokenizer, 16, varied, augmentation)
    batches = GroupedBatches(source, batch_size, seed)
    palette = np.array(list(COLOURS.values()))
    counts: Counter[int] = Counter()
    numbers: dict[int, set[str]] = {}
    for step in range(batches.batches_per_epoch):
        inputs, labels = batches.batch(step)
        assert inputs["images"].shape == (batch_size, 16, 16, 3)
        assert inputs["token_ids"].shape == inputs["padding_mask"].shape == (batch_size, source.length)
        texts = texts_of(tokenizer, inputs["token_ids"])
        for place, (text, row) in enumerate(zip(texts, batches.rows(step).tolist(), strict=True)):
            # Back to bytes; the patch is what is nearest to one of the colours.
            picture = (inputs["images"][place] * SEEN.std + SEEN.mean) * 255
            off = np.abs(picture[:, :, None] - palette).sum(axis=-1)
            colour = list(COLOURS)[int(off.min(axis=(0, 1)).argmin())]
            assert colour == list(COLOURS)[row % 22 % len(COLOURS)] and colour in text.split(), text
            image, caption = labels["pairs"][place].tolist()
            assert image == source.images[row] == (0 if row == 22 else row)
            numbers.setdefault(caption, set()).add(
                text.replace(" , ", " ").replace("flat", "").replace("big", "").strip()
            )
            counts[row] += 1
    assert set(counts) == set(range(23)) and counts.total() == batch_size * batches.batches_per_epoch
    found = [text for texts in numbers.values() for text in {" ".join(each.split()) for each in texts}]
    assert len(found) == len(set(found)) == len(numbers)  # a number for each caption, whatever was said besides


def test_a_training_draws_captions_and_an_evaluation_reads_the_first(
    captioned: CaptionedImages, tokenizer: Tokenizer
) -> None:
    varied = CaptionSource(captioned, SEEN, tokenizer, 16, varied=True)
    rows = np.zeros(400, np.int64)
    drawn = Counter(texts_of(tokenizer, varied.collate(0, rows, 16, np.random.default_rng(0))[0]["token_ids"]))
    alone = {"a red patch", "red patch"}
    assert alone < drawn.keys()
    sizes = Counter(text.count(",") for text in drawn.elements())
    assert all(90 < sizes[size] < 180 for size in range(3))  # with as many words as there are, each as likely
    assert {"flat , a red patch", "a red patch , big", "big , red patch , flat"} < drawn.keys()
    assert len(drawn) == 2 * (1 + 2 * 2 + 6)
    fixed = CaptionSource(captioned, SEEN, tokenizer, 16)
    inputs, labels = fixed.collate(0, np.array([3, 22, 0]), 16, np.random.default_rng(0))
    assert texts_of(tokenizer, inputs["token_ids"]) == ["a yellow patch", "a red patch", "a red patch"]
    np.testing.assert_array_equal(labels["pairs"], fixed.pairs[[3, 22, 0]])
    np.testing.assert_array_equal(labels["pairs"][1], labels["pairs"][2])
    assert fixed.length == 5 and fixed.tokens.tolist() == [5] * 23
    assert varied.length == 9 and varied.tokens.tolist() == [9] * 23


def test_a_batch_hangs_on_its_step_alone(captioned: CaptionedImages, tokenizer: Tokenizer) -> None:
    one, other = (
        GroupedBatches(CaptionSource(captioned, SEEN, tokenizer, 16, True, Augmentation(crop_area=0.5)), 8, 7)
        for _ in range(2)
    )
    for step in (5, 2, 5):
        for a, b in zip(tf.nest.flatten(one.batch(step)), tf.nest.flatten(other.batch(step)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_long_captions_are_cut_before_their_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path, {"image": 0, "caption": "a red patch and a red one"}, {"image": 1, "caption": "a Red patch"})
    source = CaptionSource(read(path), SEEN, tokenizer, 5)
    inputs, _ = source.collate(0, np.arange(2), 5, np.random.default_rng(0))
    assert inputs["token_ids"][:, -1].tolist() == [tokenizer.special_ids["end"]] * 2
    np.testing.assert_array_equal(inputs["token_ids"][0], inputs["token_ids"][1])
    assert source.pairs[0, 1] == source.pairs[1, 1]  # to the model they are the same
    assert source.tokens[0] > 5


def test_an_image_that_changed_is_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = write(tmp_path, {"image": 0, "caption": "red"}, {"image": 1, "caption": "green"})
    source = CaptionSource(read(path), SEEN, tokenizer, 5)
    os.truncate(tmp_path / "1.png", 50)
    assert_refused(lambda: source.collate(0, np.arange(2), 5, np.random.default_rng(0)), "1.png")
