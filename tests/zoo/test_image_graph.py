"""The graph against NumPy and Pillow, bit for bit: decoding, resizing, and everything together."""

import io
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from zoo.errors import UserError
from zoo.image import Preprocessing, graph, preprocess, read_image
from zoo.image.graph_resize import resize_image
from zoo.image.huggingface import FILTERS
from zoo.image.pixels import crop_center

RANDOM = np.random.default_rng(0)


def picture(height, width, channels=3):
    """Noise on a smooth ground: edges and areas, as pictures have."""
    ground = RANDOM.integers(0, 256, (height // 5 + 2, width // 5 + 2, channels)).astype(np.uint8)
    smooth = [np.asarray(Image.fromarray(ground[..., i]).resize((width, height))) for i in range(channels)]
    return np.clip(np.stack(smooth, axis=2) + RANDOM.integers(-9, 10, (height, width, channels)), 0, 255).astype(
        "uint8"
    )


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def decode():
    signature = [tf.TensorSpec([], tf.string)]
    return tf.function(graph.decode_image, input_signature=signature)


@pytest.fixture(scope="module")
def read_orientation():
    return tf.function(graph.read_orientation, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpegs_are_pillows(decode, subsampling, quality):
    """TensorFlow's own defaults differ on two pixels of three, by up to 15."""
    for size in ((64, 48), (101, 67), (17, 1), (8, 8)):
        for options in ({}, {"progressive": True}, {"optimize": True, "restart_marker_blocks": 1}):
            image = Image.fromarray(picture(*size))
            data = encode(image, "JPEG", quality=quality, subsampling=subsampling, **options)
            np.testing.assert_array_equal(decode(data), read_image(data))


def images_of_all_kinds():
    color, alpha = picture(21, 30), picture(21, 30, 1)
    gray = color[..., 0]
    palette = Image.fromarray(color).quantize(50)
    translucent = Image.fromarray(np.concatenate([color, alpha], axis=2))
    sixteen = Image.fromarray(RANDOM.integers(0, 65536, (21, 30)).astype(np.uint16))
    return {
        "jpeg gray": encode(Image.fromarray(gray), "JPEG"),
        "png 1": encode(Image.fromarray(gray).convert("1"), "PNG"),
        "png gray": encode(Image.fromarray(gray), "PNG"),
        "png gray and a transparent shade": encode(Image.fromarray(gray), "PNG", transparency=int(gray[0, 0])),
        "png gray and alpha": encode(Image.fromarray(np.stack([gray, alpha[..., 0]], axis=2)), "PNG"),
        "png 16": encode(sixteen, "PNG"),
        "png": encode(Image.fromarray(color), "PNG"),
        "png and alpha": encode(translucent, "PNG"),
        "png palette": encode(palette, "PNG"),
        "png palette of 4": encode(Image.fromarray(color).quantize(4), "PNG", bits=2),
        "png palette and alpha": encode(palette, "PNG", transparency=bytes(range(50))),
        "png animated": encode(palette, "PNG", save_all=True, append_images=[palette.rotate(90)]),
        "webp": encode(Image.fromarray(color), "WEBP", quality=70),
        "webp lossless": encode(Image.fromarray(color), "WEBP", lossless=True),
        "webp and alpha": encode(translucent, "WEBP", quality=70),
        "webp lossless and alpha": encode(translucent, "WEBP", lossless=True, exact=True),
        "bmp": encode(Image.fromarray(color), "BMP"),
        "bmp of 32 bits": encode(translucent, "BMP"),
        "gif": encode(palette, "GIF"),
        "gif gray": encode(Image.fromarray(gray), "GIF"),
        "gif animated": encode(palette, "GIF", save_all=True, append_images=[palette.rotate(90)]),
    }


def test_other_formats_are_pillows(decode):
    for name, data in images_of_all_kinds().items():
        np.testing.assert_array_equal(decode(data), read_image(data), err_msg=name)


def test_cmyk_differs_by_one_at_most(decode):
    data = encode(Image.fromarray(picture(40, 30, 4), "CMYK"), "JPEG", quality=90)
    assert np.abs(decode(data).numpy().astype(int) - read_image(data)).max() == 1


def test_where_gifs_differ(decode):
    palette = Image.fromarray(picture(40, 30)).quantize(50)
    clear = np.asarray(palette) == 3
    data = encode(palette, "GIF", transparency=3)
    np.testing.assert_array_equal(decode(data), np.where(clear[..., None], 0, read_image(data)))

    data = bytearray(encode(palette, "GIF"))
    data[6:10] = struct.pack("<HH", 50, 60)  # the whole, around a frame of 30 x 40 in its corner
    assert read_image(bytes(data)).shape == (60, 50, 3)
    np.testing.assert_array_equal(decode(bytes(data)), read_image(bytes(data))[:40, :30])


@pytest.mark.parametrize("endian", ["<", ">"])
def test_exif_orientation(decode, endian):
    image = Image.fromarray(picture(24, 16))
    for orientation in range(10):
        exif = Image.Exif()
        exif.endian = endian
        exif[0x010F] = "somebody's camera"
        exif[0x0112] = orientation
        exif[0x011A] = 72.0
        data = encode(image, "JPEG", exif=exif, icc_profile=b"a segment" * 9000)
        np.testing.assert_array_equal(decode(data), read_image(data))
        assert decode(data).shape == ((16, 24, 3) if 5 <= orientation <= 8 else (24, 16, 3))


def test_no_exif_is_upright(read_orientation):
    assert read_orientation(encode(Image.fromarray(picture(8, 8)), "JPEG")) == 1
    for data in (
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe1",
        b"\xff\xd8\xff\xe1\0\x20Exif\0\0II",
        b"\xff\xd8" + b"\xff" * 99,
    ):
        assert read_orientation(data) == 1


def test_the_search_for_exif_ends(read_orientation):
    exif = Image.Exif()
    exif[0x0112] = 3
    whole = encode(Image.fromarray(picture(8, 8)), "JPEG", exif=exif)
    assert read_orientation(whole) == 3
    assert read_orientation(whole[:2] + b"\xff\xe2\x12\x34" + bytes(0x1232) + whole[2:]) == 3
    comment = b"\xff\xfe\0\x02"
    assert read_orientation(whole[:2] + 60 * comment + whole[2:]) == 3
    assert read_orientation(whole[:2] + 1_000_000 * comment + whole[2:]) == 1


def test_broken_exif_is_no_error(read_orientation):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0131] = "a program"
    whole = encode(Image.fromarray(picture(8, 8)), "JPEG", exif=exif)
    end = whole.index(b"a program") + 10
    chance = random.Random(0)
    found = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(2, end)] = chance.choice((0, 1, 8, 255, chance.randrange(256)))
        if chance.random() < 0.2:
            del data[chance.randrange(end) :]
        found.add(int(read_orientation(bytes(data))))
    assert {1, 6} <= found <= set(range(1, 9))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("empty", "Input is empty"),
        ("text", "Unknown image file format"),
        ("cut jpeg", "Invalid JPEG"),
        ("cut png", "Invalid PNG"),
        ("palette bmp", "BMP with a palette"),
        ("cut bmp", "BMP with a palette"),
        ("animated webp", "animated WebP"),
    ],
)
def test_what_is_refused(decode, name, told):
    """The animated WebP writes past the end of TensorFlow 2.21's memory, the palette comes out as gray."""
    color = Image.fromarray(picture(40, 30))
    data = {
        "empty": b"",
        "text": b"a text, and no image",
        "cut jpeg": encode(color, "JPEG")[:300],
        "cut png": encode(color, "PNG")[:300],
        "palette bmp": encode(color.quantize(9), "BMP"),
        "cut bmp": b"BM",
        "animated webp": encode(color, "WEBP", save_all=True, append_images=[color.rotate(90)]),
    }[name]
    with pytest.raises(tf.errors.InvalidArgumentError, match=told):
        decode(data)


SIZES = [(1, 1, 1, 1), (1, 1, 9, 4), (9, 4, 1, 1), (1, 300, 20, 7), (300, 1, 7, 20), (500, 3, 2, 400), (64, 64, 32, 32)]


@pytest.mark.parametrize("resample", FILTERS)
def test_resize_is_pillows(resample):
    signature = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int32), tf.TensorSpec([], tf.int32)]
    resize = tf.function(lambda x, height, width: resize_image(x, height, width, resample), input_signature=signature)
    number = Image.Resampling(FILTERS.index(resample))
    drawn = [tuple(int(edge) for edge in RANDOM.integers(1, limit, 4)) for limit in (12, 80, 300) for _ in range(15)]
    for i, (height, width, *new) in enumerate([*SIZES, *drawn]):
        x = RANDOM.integers(0, 256, (height, width, 3)).astype(np.uint8)
        if i % 3 == 0:
            x = (x > 127).astype(np.uint8) * 255  # nothing but hard edges, where filters overshoot
        expected = np.asarray(Image.fromarray(x).resize(new[::-1], number))
        np.testing.assert_array_equal(resize(x, *new), expected, err_msg=f"{x.shape} -> {new}")


def test_crop_is_numpys():
    signature = [tf.TensorSpec([None, None, 3], tf.uint8)]
    for wanted in ((5, 8), (8, 5)):
        crop = tf.function(lambda x, wanted=wanted: graph.crop_center(x, *wanted), input_signature=signature)
        for height in (1, 4, 5, 6, 7, 8, 11):
            x = picture(height, 12 - height)
            np.testing.assert_array_equal(crop(x), crop_center(x, *wanted))


SETTINGS = [
    Preprocessing.for_vit(24, 32),
    Preprocessing.for_clip(20),
    Preprocessing(height=15, width=40, resample="lanczos", crop_height=30, crop_width=30, mean=(0.1, 0.2, 0.3)),
    Preprocessing(height=None, width=None, shortest_edge=7, crop_height=9, crop_width=5, rescale_factor=1.0),
    Preprocessing(height=None, width=None, crop_height=16, crop_width=16, resample="nearest"),
]


def files_of_all_kinds_and_shapes():
    files = list(images_of_all_kinds().values())
    sizes = ((16, 16), (50, 9), (9, 50), (120, 160))
    return files + [encode(Image.fromarray(picture(*size)), "JPEG") for size in sizes]


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_an_input_pipeline_is_numpy(settings):
    files = files_of_all_kinds_and_shapes()
    dataset = tf.data.Dataset.from_tensor_slices(files)
    dataset = dataset.map(lambda data: graph.preprocess_image(graph.decode_image(data), settings), tf.data.AUTOTUNE)

    assert dataset.element_spec == tf.TensorSpec([*settings.output_size, 3], tf.float32)
    expected = preprocess([read_image(data) for data in files], settings)
    np.testing.assert_array_equal(dataset.batch(len(files)).get_single_element(), expected)


def test_a_saved_model_is_numpy(tmp_path):
    settings, files = Preprocessing.for_clip(20), files_of_all_kinds_and_shapes()
    module = tf.Module()
    signature = [tf.TensorSpec([None], tf.string, name="encoded_images")]
    module.serve = tf.function(lambda data: graph.preprocess_encoded(data, settings), input_signature=signature)
    tf.saved_model.save(module, str(tmp_path))
    serve = tf.saved_model.load(str(tmp_path)).serve

    np.testing.assert_array_equal(serve(tf.constant(files)), preprocess([read_image(data) for data in files], settings))
    assert serve(tf.constant([], tf.string)).shape == (0, 20, 20, 3)
    definition = serve.get_concrete_function().graph.as_graph_def()
    nodes = [*definition.node, *(node for each in definition.library.function for node in each.node_def)]
    assert not {"PyFunc", "EagerPyFunc", "PyFuncStateless"} & {node.op for node in nodes}


def test_images_without_a_fixed_size():
    settings = Preprocessing(height=None, width=None, shortest_edge=10)
    signature = [tf.TensorSpec([None, None, 3], tf.uint8)]
    run = tf.function(lambda x: graph.preprocess_image(x, settings), input_signature=signature)
    for size in ((20, 31), (31, 20), (7, 7), (1, 5)):
        x = picture(*size)
        np.testing.assert_array_equal(run(x)[None], preprocess([x], settings))
    assert run.get_concrete_function().output_shapes == (None, None, 3)
    with pytest.raises(UserError, match="make no batch"):
        graph.preprocess_encoded(tf.constant([], tf.string), settings)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too long to resize"):
        run(np.zeros((1, 1_000_000, 3), np.uint8))


def test_a_malformed_exif_directory_is_bounded(read_orientation):
    """A directory that claims to have more entries than there are bytes, or to begin beyond the end."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, 8, 0)
    for start, count, expected in ((8, 1, 8), (8, 65535, 8), (8, 0, 1), (9, 1, 1), (20, 1, 1), (2**32 - 1, 1, 1)):
        block = b"Exif\0\0II*\0" + struct.pack("<IH", start, count) + entry
        data = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(block) + 2) + block + b"\xff\xda" + b"\0" * 20
        assert read_orientation(data) == expected
