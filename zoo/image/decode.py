"""Image files as arrays: decoded by Pillow, within bounds, whatever the file holds."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from zoo.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
LARGEST_FILE = 256 * 1024 * 1024  # bytes
_WARNINGS = threading.Lock()


def read_image(source: str | Path | bytes) -> np.ndarray:
    """Decode a JPEG, PNG, WebP, BMP, or a GIF's or animation's first frame, turned upright as its EXIF record says.

    What is not RGB becomes RGB as Pillow's `convert("RGB")` does it, which is how the published checkpoints were fed:
    gray is repeated, palettes are looked up, transparency is dropped (the colours that lie under it are shown; nothing
    is blended), CMYK is inverted and multiplied. The exception is 16-bit gray, which Pillow would clip: like 16-bit
    colour, it keeps the upper byte of each value.

    Args:
        source: a file, or the bytes of one.

    Returns:
        uint8 (height, width, 3).

    Raises:
        UserError: there is no such file, it is none of these formats, broken, cut short, larger than `LARGEST_FILE`
            bytes, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89 million, unless the program changes it).
    """
    name, data = _read_bytes(source)
    try:
        with _without_warnings():
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        require_pixels(image.height, image.width, name)
        image.load()
        with _without_warnings():
            orientation = _orientation(image)
        return apply_orientation(_to_rgb(image), orientation)
    except UserError:
        raise
    except Image.UnidentifiedImageError:
        raise UserError(f"{name}: not an image, or broken from the start (it can be {', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name}: {_too_many(Image.MAX_IMAGE_PIXELS)}") from None
    except Exception as error:  # decoders raise whatever comes: OSError, SyntaxError, struct.error, EOFError ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name}: the image is broken or cut short: {reason:.200}") from None


def apply_orientation(picture: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror a picture (height, width, channels) by EXIF's orientation, 1 to 8, so that it is upright."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def require_pixels(height: int, width: int, name: str) -> None:
    """Raise UserError where a picture of this size would not be decoded."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > limit:
        raise UserError(f"{name}: {width:,} x {height:,} {_too_many(limit)}")


def _too_many(limit: int | None) -> str:
    return f"is more than {limit:,} pixels: make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS"


def _read_bytes(source: str | Path | bytes) -> tuple[str, bytes]:
    """What to call the source in a message, and its content."""
    if isinstance(source, bytes):
        name, size = "the image", len(source)
    else:
        path = Path(source)
        name = str(path)
        if not path.is_file():  # nor is a pipe or a device, which might never end
            raise UserError(f"{name}: there is no such file")
        size = path.stat().st_size
    if size > LARGEST_FILE:
        raise UserError(f"{name}: {size:,} bytes is more than the {LARGEST_FILE:,} that an image may have")
    if size == 0:
        raise UserError(f"{name}: the file is empty")
    if isinstance(source, bytes):
        return name, source
    try:
        return name, path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Pillow's warnings about odd metadata away from the user, who can do nothing about them.

    Python's list of filters belongs to the whole process, hence the lock, and hence no more than Pillow's own are
    touched, nor for longer than it takes to read a header.
    """
    with _WARNINGS, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata does not make a picture unreadable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit gray
        gray = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    image.info.pop("transparency", None)  # it is dropped in any case, in some modes with a warning
    return np.asarray(image.convert("RGB"))
