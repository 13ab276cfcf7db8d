"""What lies in a folder: texts or images by label, images at any depth; what is hidden is passed over."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from recipes.data.lines import Row, find_fault
from recipes.data.problems import Problems
from zoo.errors import UserError

logger = logging.getLogger("zoo")

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_SUFFIXES = {"texts": (".txt",), "images": IMAGE_SUFFIXES}
_LAYOUTS = {"texts": "label/name.txt", "images": "label/name.jpg"}


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, by their suffixes, at any depth, in the order of their names, folder by folder.

    Links to folders are followed, and each folder is read once.

    Raises:
        UserError: `folder` or one below it is missing, no folder or unreadable, or none holds an image.
    """
    folder = Path(folder)
    try:
        images = list(_walk(folder, IMAGE_SUFFIXES, set()))
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read: {error.strerror}") from None
    if not images:
        raise UserError(f"{folder} holds no images: expected {', '.join(IMAGE_SUFFIXES)}, at any depth")
    return images


def find_labelled(folder: Path) -> tuple[str, list[Path]]:
    """The files of a folder that lie in folders of their labels, by label and name; and which they are, "texts" or
    "images". There may be none.

    Raises:
        UserError: there are both, some lie too deep, or images lie beside the folders of labels.
        OSError: a folder cannot be read.
    """
    found: dict[str, list[Path]] = {kind: [] for kind in _SUFFIXES}
    entries = list_folder(folder)
    unused: list[str] = []  # a file of each label that has no other
    for label in entries:
        before = sum(map(len, found.values()))
        # Not through `Path`, which asks the disk about each: there may be a million.
        files = list_folder(label.path) if label.is_dir() else []
        for entry in files:
            if entry.is_dir():
                _require_nothing_below(entry.path)
                continue
            for kind, suffixes in _SUFFIXES.items():
                if entry.name.lower().endswith(suffixes):
                    found[kind].append(Path(entry.path))
        if files and sum(map(len, found.values())) == before:
            unused.append(files[0].path)
    if unused and any(found.values()):
        logger.warning("%d labels have no file that can be read, such as %s: left out", len(unused), unused[0])
    if found["texts"] and found["images"]:
        text, image = found["texts"][0], found["images"][0]
        raise UserError(f"{folder} holds both texts and images, such as {text} and {image}: leave one kind of them")
    if not found["texts"]:
        for entry in entries:
            if entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.is_dir():
                raise UserError(f"{entry.path} lies in no folder of a label: expected {_LAYOUTS['images']}")
    kind = "texts" if found["texts"] else "images"
    return kind, found[kind]


def list_folder(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, by name; raises OSError."""
    with os.scandir(folder) as entries:
        return sorted((each for each in entries if not each.name.startswith(".")), key=lambda each: each.name)


def _require_nothing_below(folder: str) -> None:
    for kind, suffixes in _SUFFIXES.items():
        if next(_walk(folder, suffixes, set()), None):
            raise UserError(
                f"{folder} holds {kind} too deep for {_LAYOUTS[kind]}: give the folder that holds the labels"
            )


def _walk(folder: str | Path, suffixes: Sequence[str], seen: set[tuple[int, int]]) -> Iterator[Path]:
    """Files below a folder; `seen` are the folders that were read, since links can lead round in circles."""
    status = os.stat(folder)  # noqa: PTH116 - it may be one of very many
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in list_folder(folder):
        if entry.is_dir():
            yield from _walk(entry.path, suffixes, seen)
        elif entry.name.lower().endswith(tuple(suffixes)):
            yield Path(entry.path)


def read_labelled_image(path: Path, problems: Problems) -> Iterator[Row]:
    """One row, of `image`, the absolute path of the file, which is not opened, and `label`, the name of its folder."""
    problems.see(path)
    label = path.parent.name
    fault = find_fault(label)
    if fault:
        problems.add(problems.where, fault)
    else:
        yield {"image": str(path.absolute()), "label": label}
