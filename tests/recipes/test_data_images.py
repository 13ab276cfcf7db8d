"""Needs TensorFlow: tables of images, by folder, TFRecord, Parquet and path; each image is decoded once, broken ones
are named, and what was found holds until a file changes."""

import io
import json
import os
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from recipes.data import pictures
from recipes.data.folders import find_images
from recipes.data.held_out import require_apart, tell_copies
from recipes.data.lines import Row
from recipes.data.pictures import Pictures, build_pictures, locate
from recipes.data.problems import INVALID_UTF8, Problems
from recipes.data.tables import choose_column, open_table
from tests.recipes.refusing import assert_refused
from zoo.errors import UserError
from zoo.image import decode, read_image

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes files below `tmp_path`; the last."""

    def write(*names: str, content: bytes | str = b"") -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def encode(seed: int = 0, kind: str = "PNG", size: tuple[int, int] = (5, 4)) -> bytes:
    """An image of noise, `size` its width and height."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()


def read(path: Path) -> list[Row]:
    """All rows of a table that has no problems."""
    problems = Problems()
    rows = list(open_table(path).rows(problems))
    assert (problems.seen, problems.unusable) == (len(rows), 0), problems
    return rows


def build(path: Path, cache: Path, column: str = "image", **options: Any) -> Pictures:
    return build_pictures(open_table(path), column, {}, cache_root=cache, **options)


# --- folders


def test_a_folder_of_labels(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cat/10.jpg", "cat/2.JPEG", "cat/a.Png", "dog/1.webp", "dog/2.bmp", "dog/3.gif"]
    put(*reversed(names))
    put(".hidden/1.jpg", "cat/.2.jpg", "cat/.cache/1.jpg", "dog/1.json", "labels.md", "empty/notes.md")
    expected = [{"image": str(tmp_path / name), "label": name[:3]} for name in names]
    assert read(tmp_path) == expected  # and no file of them is an image
    table = open_table(tmp_path)
    assert table.columns == ("image", "label")
    assert [file.path for file in table.files] == [tmp_path / name for name in names]
    assert [choose_column(table, role, None, (role,)) for role in ("image", "label")] == ["image", "label"]
    assert_refused(
        lambda: choose_column(table, "text", None, (), ["label"]), str(tmp_path), "holds images, and no text"
    )
    monkeypatch.chdir(tmp_path.parent)
    assert read(Path(tmp_path.name)) == expected


def test_folders_that_are_no_table_are_refused(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_refused(lambda: open_table(tmp_path), str(tmp_path), "no table", "label/name.txt", "label/name.jpg")
    put("flat/1.jpg", "flat/2.jpg")
    assert_refused(lambda: open_table(tmp_path / "flat"), "flat/1.jpg lies in no folder", "label/name.jpg")
    put("beside/cat/1.jpg", "beside/2.jpg")
    assert_refused(lambda: open_table(tmp_path / "beside"), "beside/2.jpg lies in no folder", "label/name.jpg")
    put("deep/train/cat/1.jpg", "deep/valid/cat/1.jpg")
    assert_refused(lambda: open_table(tmp_path / "deep"), "deep/train/cat holds images too deep", "label/name.jpg")
    put("deeper/cat/a/b/1.jpg", "deeper/cat/1.jpg")
    assert_refused(lambda: open_table(tmp_path / "deeper"), "deeper/cat/a holds images too deep")
    put("mixed/cat/1.jpg", "mixed/dog/1.txt")
    assert_refused(lambda: open_table(tmp_path / "mixed"), "both texts and images", "dog/1.txt", "cat/1.jpg")
    os.mkfifo(put("pipe/cat/0.jpg").with_name("1.jpg"))
    assert_refused(lambda: open_table(tmp_path / "pipe"), "1.jpg is not a regular file")
    put("link/cat/0.jpg").with_name("1.jpg").symlink_to("nowhere")
    assert_refused(lambda: open_table(tmp_path / "link"), "1.jpg cannot be read: No such file")

    scandir = os.scandir

    def refuse(folder: Any) -> Any:  # permissions do not stop the root that tests may run as
        if str(folder).endswith("cat"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert_refused(lambda: open_table(tmp_path / "beside"), "beside/cat cannot be read: Permission denied")
    assert_refused(lambda: find_images(tmp_path / "beside"), "beside/cat cannot be read: Permission denied")


def test_a_label_that_is_no_text_costs_its_rows(put: Put, tmp_path: Path) -> None:
    put("cat/1.jpg", "caf\udce9/1.jpg")
    problems = Problems()
    assert [row["label"] for row in open_table(tmp_path).rows(problems)] == ["cat"]
    assert problems.reasons == {INVALID_UTF8: 1}


def test_splits_in_one_folder_are_refused(put: Put, tmp_path: Path) -> None:
    put("a/train-00000-of-00001", "a/test-00000-of-00001")
    assert_refused(lambda: open_table(tmp_path / "a"), "shards of 'test' and of 'train'", "folder of its own")
    put("b/train-00000-of-00002.csv", "b/train-00001-of-00002.csv", content="a,b\n1,2\n")
    assert len(read(tmp_path / "b")) == 2
    put("b/test-00000-of-00001.csv", content="a,b\n1,2\n")
    assert_refused(lambda: open_table(tmp_path / "b"), "shards of 'test' and of 'train'")


def test_images_at_any_depth_are_found(put: Put, tmp_path: Path) -> None:
    names = ["a-b.png", "a/b/c/2.JPG", "a/b/1.gif", "a.png"]
    put(*names, ".a.png", ".cache/1.png", "a/.b.jpg", "a/notes.txt", "a/b.jpg.txt")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    (tmp_path / "folder.jpg").mkdir()
    assert find_images(tmp_path) == [tmp_path / each for each in ("a/b/1.gif", "a/b/c/2.JPG", "a-b.png", "a.png")]
    assert_refused(lambda: find_images(tmp_path / "folder.jpg"), "folder.jpg holds no images", ".jpg", ".webp")
    assert_refused(lambda: find_images(tmp_path / "missing"), "missing cannot be read: No such file")
    assert_refused(lambda: find_images(tmp_path / "a.png"), "a.png cannot be read: Not a directory")


def test_files_of_training_and_validation_are_told_apart_through_links(put: Put, tmp_path: Path) -> None:
    put("train/cat/1.jpg", "train/dog/1.jpg", "valid/cat/1.jpg")
    require_apart(open_table(tmp_path / "train"), open_table(tmp_path / "valid"))
    (tmp_path / "valid" / "dog").symlink_to(tmp_path / "train" / "dog")
    assert_refused(lambda: require_apart(open_table(tmp_path / "train"), open_table(tmp_path / "valid")), "dog/1.jpg")
    (tmp_path / "valid" / "dog").unlink()
    (tmp_path / "valid" / "cat" / "2.jpg").symlink_to(tmp_path / "train" / "cat" / "1.jpg")
    assert_refused(lambda: require_apart(open_table(tmp_path / "train"), open_table(tmp_path / "valid")), "cat/1.jpg")


# --- TFRecord


def make_record(**features: list[Any]) -> bytes:
    """A serialized `tf.train.Example`."""
    named = {}
    for name, values in features.items():
        if values and isinstance(values[0], bytes):
            named[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        elif values and isinstance(values[0], float):
            named[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
        else:
            named[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def write_records(path: Path, records: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


def test_records(tmp_path: Path) -> None:
    image = encode(kind="JPEG")
    features = {"image": [image], "label": [7], "score": [0.5], "empty": [], "boxes": [0.5, 1.0], "ids": [1, -(2**63)]}
    texts = {"name": [b"n\xc3\xa9"], "words": [b"a", b""], "mixed": [b"a", b"\xff"], "zeros": [b"a\0"]}
    path = write_records(tmp_path / "a.TFRecord", [make_record(**features, **texts), make_record(label=[8])])
    first, second = read(path)
    assert first == {
        "image": image,
        "label": 7,
        "score": 0.5,
        "boxes": [0.5, 1.0],
        "ids": [1, -(2**63)],
        "name": "né",
        "words": ["a", ""],
        "mixed": [b"a", b"\xff"],
        "zeros": b"a\0",
    }
    assert second == {"label": 8}
    assert open_table(path).columns == tuple(first)


VALUES = (
    st.lists(st.binary(max_size=6), min_size=1, max_size=3)
    | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3)
    | st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=3)
)


@settings(max_examples=60, deadline=None, database=None)
@given(rows=st.lists(st.dictionaries(st.text("abc", min_size=1, max_size=2), VALUES, min_size=1), min_size=1))
def test_any_values_survive_records(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, list[Any]]]) -> None:
    path = write_records(tmp_path_factory.mktemp("records") / "a.tfrecord", [make_record(**row) for row in rows])
    got = read(path)
    assert len(got) == len(rows)
    for row, expected in zip(got, rows, strict=True):
        values = {name: value if isinstance(value, list) else [value] for name, value in row.items()}
        for name, each in values.items():
            texts = all(isinstance(value, str) for value in each)
            assert not texts or not any("\0" in value for value in each)
            assert [value.encode() for value in each] == expected[name] if texts else each == expected[name]
        assert set(values) == set(expected)


def test_no_image_is_taken_for_text(tmp_path: Path) -> None:
    draw = random.Random(0)
    kinds = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
    images = [encode(seed, kind, (draw.randint(1, 300), draw.randint(1, 20))) for seed in range(10) for kind in kinds]
    path = write_records(tmp_path / "a.tfrecord", [make_record(image=[image]) for image in images])
    assert [row["image"] for row in read(path)] == images


def test_records_that_are_no_examples_are_counted(tmp_path: Path) -> None:
    good = make_record(a=[1])
    path = write_records(tmp_path / "a.tfrecord", [good, b"no example", b"", good, make_record()])
    problems = Problems()
    assert list(open_table(path).rows(problems)) == [{"a": 1}] * 2
    assert problems.examples == [
        f"{path}:2: not a tf.train.Example",
        f"{path}:3: without features",
        f"{path}:5: without features",
    ]
    assert problems.seen == 5
    path = write_records(tmp_path / "b.tfrecord", [b"no example"] * 3)
    assert_refused(lambda: open_table(path), "3 of 3 rows (100.0%)", "b.tfrecord:1: not a tf.train.Example")


def test_records_that_are_cut_off_anywhere_are_refused(tmp_path: Path) -> None:
    records = [make_record(a=[number], b=[b"x" * number]) for number in range(3)]
    path = write_records(tmp_path / "a.tfrecord", records)
    content, ends = path.read_bytes(), [0]
    for record in records:
        ends.append(ends[-1] + 16 + len(record))
    assert ends[-1] == len(content)
    rows = read(path)
    for size in range(1, len(content)):
        path.write_bytes(content[:size])
        if size in ends:
            assert read(path) == rows[: ends.index(size)]
            continue
        number = sum(end < size for end in ends)
        words = [str(path), "ends within it", f"record {number} is" if number > 1 else "its first record is"]
        assert_refused(lambda: read(path), *words)


def test_records_with_a_wrong_byte_are_refused(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.tfrecord", [make_record(a=[number]) for number in range(3)])
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        record = place // (len(content) // 3) + 1
        assert_refused(lambda: read(path), f"record {record} is" if record > 1 else "its first record is")


def mask_checksum(data: bytes) -> int:
    """CRC-32C as TFRecord has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.parametrize("size", [2**40, 2**64 - 1])
def test_a_length_beyond_the_file_is_refused(tmp_path: Path, size: int) -> None:
    path = write_records(tmp_path / "a.tfrecord", [make_record(a=[1])])
    length = struct.pack("<Q", path.stat().st_size - 16)
    assert path.read_bytes()[:12] == length + struct.pack("<I", mask_checksum(length))
    length = struct.pack("<Q", size)
    with path.open("ab") as file:
        file.write(length + struct.pack("<I", mask_checksum(length)) + bytes(100))
    assert_refused(lambda: read(path), str(path), "record 2 is cut off or corrupt", "ends within it")


def test_what_is_no_record_file_is_refused(put: Put, tmp_path: Path) -> None:
    import gzip

    assert_refused(lambda: open_table(put("a.tfrecord")), "a.tfrecord holds no rows")
    text = "some text that is longer than the frame of a record"
    assert_refused(lambda: open_table(put("a.tfrecord", content=text)), "a.tfrecord: not a TFRecord file")
    content = gzip.compress(write_records(tmp_path / "b.tfrecord", [make_record(a=[1])]).read_bytes())
    assert_refused(lambda: open_table(put("b.tfrecord.gz", content=content)), "compressed", "gunzip")


@pytest.mark.parametrize("name", ["a.tfrecords", "a.tfrecord-00001-of-00002", "a.tfrecord.7", "A.TFRECORDS_3"])
def test_names_of_record_files(tmp_path: Path, name: str) -> None:
    assert read(write_records(tmp_path / name, [make_record(a=[1])])) == [{"a": 1}]


def test_a_folder_of_shards(put: Put, tmp_path: Path) -> None:
    for number in (2, 0, 1):
        write_records(tmp_path / f"train-{number:05}-of-00003", [make_record(a=[number]), make_record(a=[number])])
    put("dataset_info.md", "a.tfrecord.index", ".train-00003-of-00003", content="not to be read")
    assert [row["a"] for row in read(tmp_path)] == [0, 0, 1, 1, 2, 2]
    assert_refused(lambda: open_table(tmp_path / "train-00000-of-00003"), "no table, by its suffix", ".tfrecord")
    put("a.csv", content="a,b\n1,2\n")
    assert_refused(lambda: open_table(tmp_path), "different formats")


def test_reading_records_does_not_start_the_runtime(tmp_path: Path) -> None:
    """Which would keep the process from joining other workers; nor does it warn."""
    path = write_records(tmp_path / "a.tfrecord", [make_record(image=[encode()], label=[1])] * 3)
    code = f"""
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
from recipes.data.tables import open_table
from recipes.data.pictures import build_pictures
assert "tensorflow" not in sys.modules
pictures = build_pictures(open_table(Path({str(path)!r})), "image", {{}}, cache_root=Path({str(tmp_path / "cache")!r}))
assert pictures.read(2).shape == (4, 5, 3)
from tensorflow.python.eager import context
assert context.context()._context_handle is None
import tensorflow as tf
tf.constant(1)
assert context.context()._context_handle is not None  # so that this is what tells
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# --- where images are


def test_images_in_parquet_stay_as_they_are(tmp_path: Path) -> None:
    """As `datasets` writes them."""
    images = [{"bytes": encode(), "path": "a.png"}, {"bytes": encode(1), "path": None}, {"bytes": None, "path": "b"}]
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    table = pyarrow.table({"image": [*images, None], "label": [0, 1, 1, 0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, tmp_path / "a.parquet")
    labels = ["cat", "dog", "dog"]
    expected = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    assert read(tmp_path / "a.parquet") == [*expected, {"label": "cat"}]


def test_locate(put: Put, tmp_path: Path) -> None:
    path = put("folder/a.png")
    os.mkfifo(tmp_path / "folder" / "pipe.png")
    for value in ("a.png", "../folder/a.png", str(path), {"path": "a.png"}, {"bytes": None, "path": str(path)}):
        found = locate(value, path.parent)
        assert isinstance(found, Path) and found.samefile(path)
    assert locate(b"\0", None) == locate({"bytes": b"\0", "path": "a.png"}, None) == b"\0"
    nothing = (None, "", " ", b"", 3, 0.5, [], ["a.png"], {}, {"bytes": b""}, {"path": 3}, "a\0.png", [b"x"])
    for value in nothing:
        assert locate(value, path.parent) == "no image"
    assert locate("a.png", None) == locate({"path": "a.png"}, None) == "no image"
    for value in ("b.png", "a.png/b.png"):
        assert locate(value, path.parent) == "there is no such file"
    for value in (".", "pipe.png", "/dev/zero"):
        assert locate(value, path.parent) == "not a regular file"
    assert locate("x" * 5000, path.parent) == "a file that cannot be read"
    assert locate("https://example.org/a.png", path.parent) == "an address, not a file"


# --- pictures


def make_header(width: int, height: int) -> bytes:
    """A PNG that says that it is so large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b"")]
    framed = [struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


BROKEN = {
    "cut.jpg": (encode(kind="JPEG", size=(90, 90))[:-400], "the image is broken or cut short"),
    "empty.png": (b"", "the file is empty"),
    "large.png": (make_header(10_000, 10_000), "more than 89,478,485 pixels"),
    "larger.png": (make_header(20_000, 20_000), "more than 89,478,485 pixels"),
    "text.png": (b"404 Not Found", "not an image, or broken from the start"),
}


def test_labels_without_a_file_that_can_be_read_are_told(put: Put, caplog: pytest.LogCaptureFixture) -> None:
    put("data/cat/a.png", "data/dog/b.jpg", content=encode())
    put("data/bird/c.heic", "data/.hidden/d.heic")
    (put("data/x").parent / "empty").mkdir()
    table = open_table(put("data/x").parent)
    assert [file.path.parent.name for file in table.files] == ["cat", "dog"]
    (record,) = caplog.records
    assert record.getMessage().startswith("1 labels have no file that can be read, such as ")
    assert record.getMessage().endswith("bird/c.heic: left out")


def test_copies_in_both_shares_are_told(caplog: pytest.LogCaptureFixture) -> None:
    class Rows(list[bytes]):
        def key(self, place: int) -> bytes:
            return self[place]

    tell_copies(Rows([b"a", b"b"]), Rows([b"c", b"d"]))
    assert not caplog.records
    tell_copies(Rows([b"a", b"b"]), Rows([b"b", b"c", b"b"]))
    (record,) = caplog.records
    assert record.getMessage() == "2 of 3 held-out rows are also in the training data"


def test_pictures_of_a_folder(put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        put(f"data/cat/{number:03}.png", content=encode(number, size=(3, number + 1)))
    for name, (content, _) in BROKEN.items():
        put(f"data/cat/{name}", content=content)
    rows: list[Row] = []

    def add(row: Row) -> dict[str, Any]:
        rows.append(row)
        return {"label": [len(rows)], "text": row["label"]}

    found = build(tmp_path / "data", tmp_path / "cache", encode=add, facts=lambda: {"rows": len(rows)})
    assert len(found) == len(rows) == found.facts["rows"] == 100
    assert found.flat("height").tolist() == found.flat("label").tolist() == list(range(1, 101))
    assert set(found.flat("width")) == {3}
    for place in (0, 57, 99):
        path = tmp_path / "data" / "cat" / f"{place:03}.png"
        assert found.name(place) == found.text("file", place) == str(path)
        assert (found.content("content", place), found.text("text", place)) == (b"", "cat")
        pixels = found.read(place)
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, read_image(path))
    (record,) = caplog.records
    told = record.getMessage()
    assert "left out: 5 of 105 rows (4.8%)" in told and f"{tmp_path}/data/cat/cut.jpg: the image is broken" in told
    assert "more than 89,478,485 pixels (2)" in told


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_placed(put: Put, tmp_path: Path, name: str) -> None:
    content, reason = BROKEN[name]
    put(*(f"{number}.png" for number in range(30)), content=encode())
    put(name, content=content)
    lines = [json.dumps({"image": f"{number}.png"}) for number in range(30)]
    table = put("a.jsonl", content="\n".join([*lines, json.dumps({"image": name})]))
    found = build(table, tmp_path / "cache")
    assert len(found) == 30
    assert f"for example {table}:31 ({tmp_path / name}): {reason}" in found.left_out
    # And where the table holds it.
    images = [encode(1), content, *[encode()] * 28]
    parquet.write_table(pyarrow.table({"image": images}), tmp_path / "a.parquet")
    write_records(tmp_path / "a.tfrecord", [make_record(image=[image]) for image in images])
    for table in (tmp_path / "a.parquet", tmp_path / "a.tfrecord"):
        found = build(table, tmp_path / "cache")
        assert len(found) == 29
        in_records = table.suffix == ".tfrecord" and name == "text.png"
        fault = "no image" if in_records or not content else reason
        assert f"for example {table}:2: {fault}" in found.left_out
        assert (found.name(0), found.name(1)) == (f"{table}:1", f"{table}:3")
        assert np.array_equal(found.read(0), read_image(encode(1)))
        assert (found.content("content", 0), found.content("file", 0)) == (encode(1), b"")


def test_rows_without_an_image_are_placed(put: Put, tmp_path: Path) -> None:
    put("images/a.png", content=encode())
    bad = ["", "images/b.png", "images", "http://x/y.png", "images/a\nb.png"]
    rows = "".join(f'"{value}",cat\n' for value in [*["images/a.png"] * 100, *bad])
    table = put("a.csv", content=f"file_name,label\n{rows}")
    found = build(table, tmp_path / "cache", "file_name")
    assert len(found) == 100 and "\n" not in found.left_out
    assert "there is no such file (2)" in found.left_out
    assert f"{table}:102: no image, {table}:103 ({tmp_path}/images/b.png): there is no such file" in found.left_out


def test_rows_that_the_caller_refuses_are_counted(put: Put, tmp_path: Path) -> None:
    put("a.png", content=encode())
    labels = ["cat"] * 40 + [""]
    table = put("a.jsonl", content="\n".join(json.dumps({"image": "a.png", "label": each}) for each in labels))
    found = build(table, tmp_path / "cache", encode=lambda row: {"label": [1]} if row["label"] else "no label")
    assert len(found) == 40
    assert f"{table}:41 ({tmp_path}/a.png): no label" in found.left_out


def test_too_many_broken_images_stop_the_run(put: Put, tmp_path: Path) -> None:
    put(*(f"data/cat/{number}.png" for number in range(30)), content=encode())
    put("data/cat/x.png", "data/cat/y.png", content="text")
    words = ["2 of 32 rows (6.2%)", f"{tmp_path}/data/cat/x.png: not an image", "5%"]
    assert_refused(lambda: build(tmp_path / "data", tmp_path / "cache"), *words)
    assert not list((tmp_path / "cache").glob("examples-*/"))
    table = put("a.csv", content="image,label\n" + "x.png,cat\n" * 3000)
    assert_refused(lambda: build(table, tmp_path / "cache"), "there is no such file", f"a.csv:2 ({tmp_path}/x.png)")


def test_a_mixed_table(put: Put, tmp_path: Path) -> None:
    """`datasets` keeps the paths of some and the content of others."""
    put("a.png", content=encode(1))
    images = [
        {"bytes": None, "path": "a.png"},
        {"bytes": encode(2), "path": "b.png"},
        {"bytes": encode(3), "path": None},
    ]
    parquet.write_table(pyarrow.table({"image": images}), tmp_path / "a.parquet")
    found = build(tmp_path / "a.parquet", tmp_path / "cache")
    for place in range(3):
        assert np.array_equal(found.read(place), read_image(encode(place + 1)))
    table = tmp_path / "a.parquet"
    assert [found.name(place) for place in range(3)] == [f"{tmp_path}/a.png", f"{table}:2 (b.png)", f"{table}:3"]


def test_names_that_are_no_text(put: Put, tmp_path: Path) -> None:
    put(*(f"data/cat/{number}.png" for number in range(30)), "data/cat/caf\udce9.png", content=encode())
    put("data/cat/\udcff.png", content="broken")
    found = build(tmp_path / "data", tmp_path / "cache")
    assert found.read(30).shape == (4, 5, 3)
    assert found.name(30) == ascii(f"{tmp_path}/data/cat/caf\udce9.png")
    assert ascii(f"{tmp_path}/data/cat/\udcff.png") in found.left_out


def test_images_that_look_alike_have_the_same_key(put: Put, tmp_path: Path) -> None:
    put("data/a/1.png", "data/b/1.png", content=encode(1))
    put("data/a/2.bmp", content=encode(1, "BMP"))
    put("data/a/3.png", content=encode(2))
    black = np.zeros((6, 6, 3), np.uint8)
    for number, shape in enumerate([(2, 18), (18, 2), (4, 9)], 4):
        Image.fromarray(black.reshape(*shape, 3)).save(tmp_path / "data" / "a" / f"{number}.png")
    found = build(tmp_path / "data", tmp_path / "cache")
    keys = [found.key(place) for place in range(7)]
    assert keys[0] == keys[1] == keys[6] and len(set(keys)) == 5


def test_images_are_looked_at_once(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("data/cat/1.png", "data/cat/2.png", content=encode())
    put("data/a.csv", content="image,label\ncat/1.png,x\n")
    csv, folder = tmp_path / "data" / "a.csv", tmp_path / "data"
    first = build(csv, tmp_path / "cache")
    decoded: list[Any] = []
    monkeypatch.setattr(decode, "read_image", lambda source: decoded.append(source) or read_image(source))
    assert build(csv, tmp_path / "cache").directory == first.directory and not decoded
    csv.unlink()
    build(folder, tmp_path / "cache")
    assert len(decoded) == 2
    build(folder, tmp_path / "cache")
    assert len(decoded) == 2
    put("data/cat/2.png", content=encode(1, size=(7, 7)))
    assert build(folder, tmp_path / "cache").flat("width").tolist() == [5, 7]


def test_what_was_found_holds_until_an_image_changes(put: Put, tmp_path: Path) -> None:
    put(*(f"{number}.png" for number in range(40)), content=encode())
    put("broken.png", content="broken")
    names = [*(f"{number}.png" for number in range(40)), "broken.png", "missing.png"]
    table = put("a.jsonl", content="\n".join(json.dumps({"image": name}) for name in names))
    first = build(table, tmp_path / "cache")
    assert len(first) == 40
    put("3.png", content=encode(size=(9, 9)))
    assert_refused(lambda: first.read(3), f"{tmp_path}/3.png was changed")
    second = build(table, tmp_path / "cache")
    assert second.flat("width")[3] == 9 and second.read(3).shape == (9, 9, 3)
    put("missing.png", content=encode())  # by somebody who read what was left out
    assert len(build(table, tmp_path / "cache")) == 41
    put("broken.png", content=encode())
    assert len(build(table, tmp_path / "cache")) == 42
    (tmp_path / "3.png").unlink()
    assert_refused(lambda: second.read(3), f"{tmp_path}/3.png was there and is not any more")
    assert len(build(table, tmp_path / "cache")) == 41
    (tmp_path / "4.png").unlink()
    os.mkfifo(tmp_path / "4.png")
    assert_refused(lambda: second.read(4), f"{tmp_path}/4.png was changed")


def test_an_image_that_changes_while_it_is_listed(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("1.png", "2.png", content=encode())
    table = put("a.csv", content="image,label\n1.png,x\n2.png,x\n")

    def read_and_change(source: Path) -> np.ndarray:
        pixels = read_image(source)
        put(source.name, content=encode(size=(9, 9)))
        return pixels

    with monkeypatch.context() as patch:
        patch.setattr(decode, "read_image", read_and_change)
        found = build(table, tmp_path / "cache")
    assert_refused(lambda: found.read(0), f"{tmp_path}/1.png was changed")
    assert build(table, tmp_path / "cache").read(0).shape == (9, 9, 3)


def test_few_rows_are_held_at_once(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    put("a.png", content=encode())
    read_so_far = 0

    def rows(value: Any) -> Iterator[Row]:
        nonlocal read_so_far
        for _ in range(2000):
            read_so_far += 1
            yield {"image": value}

    for value, most in (("a.png", 6 * 64), (bytes(600_000), 6 * 2)):
        read_so_far = 0
        examined = pictures._examine_all(rows(value), Problems(), "image", tmp_path)
        next(examined)
        assert read_so_far <= most
        examined.close()
        assert read_so_far <= most


def test_an_unforeseen_error_is_not_taken_for_a_broken_image(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("data/cat/1.png", "data/dog/1.png", content=encode())

    def fail(source: Any) -> np.ndarray:
        raise ZeroDivisionError

    monkeypatch.setattr(decode, "read_image", fail)
    with pytest.raises(ZeroDivisionError):
        build(tmp_path / "data", tmp_path / "cache")
    with pytest.raises(UserError):
        build(tmp_path / "nothing", tmp_path / "cache")
