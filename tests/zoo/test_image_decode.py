"""Decoding: every format and mode against the pixels that went in, and files that nobody should trust."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from zoo.errors import UserError
from zoo.image import decode, read_image

RGB = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (7, 5, 1)).astype(np.uint8)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(values, color):
    """A PNG of 16-bit values (height, width, channels), which Pillow does not write in colour."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_lossless_formats_give_the_pixels_that_went_in(kind, tmp_path):
    data = encode(Image.fromarray(RGB), kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "picture").write_bytes(data)

    for source in (data, tmp_path / "picture", str(tmp_path / "picture")):
        picture = read_image(source)
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, RGB)


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparency_is_dropped_and_not_blended(kind):
    image = Image.fromarray(np.concatenate([RGB, ALPHA], axis=2))
    data = encode(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))

    np.testing.assert_array_equal(read_image(data), RGB)


def test_gray_is_repeated():
    gray = RGB[..., 0]
    expected = np.repeat(gray[..., None], 3, axis=2)

    np.testing.assert_array_equal(read_image(encode(Image.fromarray(gray), "PNG")), expected)
    with_alpha = Image.fromarray(np.stack([gray, ALPHA[..., 0]], axis=2))
    np.testing.assert_array_equal(read_image(encode(with_alpha, "PNG")), expected)
    bilevel = Image.fromarray(gray).convert("1")
    np.testing.assert_array_equal(read_image(encode(bilevel, "PNG"))[..., 0], np.asarray(bilevel) * np.uint8(255))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(35))])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palettes_are_looked_up(kind, transparency):
    if transparency is not None and (kind == "BMP" or (kind == "GIF" and isinstance(transparency, bytes))):
        transparency = 0 if kind == "GIF" else None  # what they can express
    indices = np.arange(35, dtype=np.uint8).reshape(7, 5)
    palette = np.random.default_rng(2).integers(0, 256, (35, 3)).astype(np.uint8)
    image = Image.frombytes("P", (5, 7), indices.tobytes())
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}

    np.testing.assert_array_equal(read_image(encode(image, kind, **options)), palette[indices])


@pytest.mark.parametrize(("color", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bits_keep_the_upper_byte(color, channels):
    values = np.random.default_rng(3).integers(0, 65536, (7, 5, channels))
    colors = values[..., :3] if channels > 2 else np.repeat(values[..., :1], 3, axis=2)

    np.testing.assert_array_equal(read_image(png(values, color)), colors >> 8)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind):
    frames = [Image.fromarray(np.full((6, 4, 3), shade, np.uint8)) for shade in (10, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)

    np.testing.assert_array_equal(read_image(data), np.full((6, 4, 3), 10))


def test_jpeg_is_pillows_and_close_to_what_went_in():
    smooth = np.linspace(0, 255, 40 * 24 * 3).reshape(40, 24, 3).astype(np.uint8)
    data = encode(Image.fromarray(smooth), "JPEG", quality=95)

    np.testing.assert_array_equal(read_image(data), np.asarray(Image.open(io.BytesIO(data))))
    assert np.abs(read_image(data).astype(int) - smooth).max() <= 4


def test_cmyk():
    flat = np.full((16, 16, 4), (40, 100, 200, 30), np.uint8)
    data = encode(Image.fromarray(flat, "CMYK"), "JPEG", quality=100, subsampling=0)

    expected = [(255 - c) * (255 - 30) / 255 for c in (40, 100, 200)]
    np.testing.assert_allclose(read_image(data).reshape(-1, 3), np.tile(expected, (256, 1)), atol=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(RGB), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))

    stored = Image.open(io.BytesIO(data)).convert("RGB")
    # Row 0 and column 0 of what is stored are these sides of what is to be seen (EXIF 2.32, 4.6.4 A).
    upright = {2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}.get(orientation, "")
    expected = np.asarray(stored)
    for step in upright:
        expected = {"t": expected.transpose(1, 0, 2), "h": expected[:, ::-1], "v": expected[::-1]}[step]
    np.testing.assert_array_equal(read_image(data), expected)
    np.testing.assert_array_equal(read_image(data), np.asarray(ImageOps.exif_transpose(stored)))


def test_broken_metadata_is_no_reason_to_refuse_a_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    block = exif.tobytes()
    for end in range(len(block)):  # cut short at any place; Pillow warns about most of them
        data = encode(Image.fromarray(RGB), "JPEG", exif=block[:end])
        assert read_image(data).shape in ((7, 5, 3), (5, 7, 3))
    np.testing.assert_array_equal(read_image(encode(Image.fromarray(RGB), "PNG", exif=b"no such header")), RGB)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    # 60,000 x 60,000 pixels in a hundred bytes: Pillow refuses to open it. 12,000 x 12,000: Pillow warns.
    for edge in (60_000, 12_000):
        data = bytearray(png(np.zeros((1, 1, 1)), 0))
        data[16:24] = struct.pack(">II", edge, edge)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
        monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
        with pytest.raises(UserError, match=r"more than 89,478,485 pixels.*PIL\.Image\.MAX_IMAGE_PIXELS"):
            read_image(bytes(data))
    monkeypatch.undo()

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 34)
    with pytest.raises(UserError, match=r"5 x 7 is more than 34 pixels"):
        read_image(encode(Image.fromarray(RGB), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    assert read_image(encode(Image.fromarray(RGB), "PNG")).shape == (7, 5, 3)


def test_bad_files_are_named(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    cases = {
        b"": "is empty",
        b"a text, and no image": "not an image",
        encode(Image.fromarray(RGB), "TIFF"): "not an image",  # a format that is not read
        encode(Image.fromarray(RGB), "PNG")[:60]: "broken or cut short",
        encode(Image.fromarray(RGB), "JPEG")[:-20]: "broken or cut short",
    }
    for content, told in cases.items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"picture\.png: .*{told}") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"absent.*no such file"):
        read_image(tmp_path / "absent")
    with pytest.raises(UserError, match="no such file"):
        read_image(tmp_path)
    monkeypatch.setattr(decode, "LARGEST_FILE", 10)
    with pytest.raises(UserError, match=r"picture\.png: .* is more than the 10"):
        read_image(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_mutilated_files_decode_or_are_refused(kind):
    exif = Image.Exif()
    exif[0x0112] = 5
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP") else {}
    whole = encode(Image.fromarray(np.tile(RGB, (4, 4, 1))), kind, **options)
    chance = random.Random(kind)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            data = bytearray(whole)
            if chance.random() < 0.3:
                del data[chance.randrange(len(data)) :]
            for _ in range(chance.randint(0, 4)):
                if data:
                    # The headers are the more interesting part.
                    data[chance.randrange(min(len(data), chance.choice((40, len(whole)))))] = chance.randrange(256)
            try:
                picture = read_image(bytes(data))
                assert picture.dtype == np.uint8
                assert picture.shape[2] == 3
                outcomes.add("decoded")
            except UserError as error:
                assert "\n" not in str(error)
                outcomes.add("refused")
    assert outcomes == {"decoded", "refused"}
