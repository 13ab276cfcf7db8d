"""The columns of a table of images."""

import dataclasses

from recipes.data.classes import LABEL_COLUMNS
from recipes.data.tables import Table, choose_column

IMAGE_COLUMNS = (
    "image",
    "img",
    "image_path",
    "image/encoded",
    "picture",
    "photo",
    "file_name",
    "filename",
    "path",
    "file",
)
CAPTION_COLUMNS = ("caption", "captions", "text", "title", "name", "description", "alt", "alt_text", "sentence")


@dataclasses.dataclass(frozen=True)
class ImageColumns:
    """Which columns hold what; None is guessed. A folder of label/name.jpg needs none."""

    image_column: str | None = None
    """Column of the image, its file or its content; guessed where its name is plain."""
    label_column: str | None = None
    """Column of the label; guessed where its name is plain."""


def find_columns(table: Table, columns: ImageColumns) -> tuple[str, str]:
    """Image and label."""
    wanted = [each for each in (columns.image_column, columns.label_column) if each]
    label = choose_column(table, "label", columns.label_column, LABEL_COLUMNS, wanted)
    return choose_column(table, "image", columns.image_column, IMAGE_COLUMNS, [label]), label


@dataclasses.dataclass(frozen=True)
class CaptionColumns:
    """Which columns hold what; None, or no name, is guessed."""

    image_column: str | None = None
    """Column of the image, its file or its content; guessed where its name is plain."""
    caption_column: tuple[str, ...] = ()
    """Column of the caption, a text or a list of several; guessed where its name is plain. Columns named after it hold
    more words for the image, such as keywords, which vary the captions in training."""


def find_caption_columns(table: Table, columns: CaptionColumns) -> tuple[str, tuple[str, ...]]:
    """Image; and caption, with what is said besides.

    Raises:
        UserError: a column is not there, or none can be told to be the image or the caption.
    """
    wanted = columns.caption_column
    image = choose_column(table, "image", columns.image_column, IMAGE_COLUMNS, wanted)
    caption = choose_column(table, "caption", wanted[0] if wanted else None, CAPTION_COLUMNS, [image])
    return image, (caption, *(choose_column(table, "caption", each, ()) for each in wanted[1:]))
