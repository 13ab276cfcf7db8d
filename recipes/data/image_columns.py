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
