"""`zoo retrieve SOURCE --index DIR QUERY...`: search a folder of images, by a text or by an image."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import Positional, arg

from recipes.command.inputs import in_batches, read_texts
from recipes.command.parsing import parse
from recipes.command.printing import as_json
from recipes.command.reporting import progress
from recipes.data.folders import IMAGE_SUFFIXES, find_images
from recipes.data.problems import printable
from recipes.engine.start import start_tensorflow
from zoo.directory import Saved, find_model_directory, read_saved
from zoo.errors import UserError

Hits = list[tuple[float, Path]]

MOST_PICTURES = 40  # of a sheet


@dataclasses.dataclass(frozen=True)
class Retrieve:
    """Find the images of a folder that are nearest to a text or to an image, by the cosine of what the model makes of
    them. Each query has a ranking of its own.

    A CLIP finds by both; a ViT by images alone. The vectors of the folder are made once and kept in the cache
    ($ZOO_CACHE, else ~/.cache/tf-model-zoo); afterwards only those of new and of changed files are.
    """

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Model directory, a run that holds one, a Hugging Face checkpoint, or hf:organisation/name[@revision]."""
    index: Path
    """Folder of the images to search, at any depth."""
    queries: Annotated[Positional[tuple[str, ...]], arg(metavar="QUERY")] = ()
    """Texts, or image files; - reads one a line from standard input."""
    file: Path | None = None
    """Read queries from the lines of this file."""
    kind: Literal["auto", "text", "image"] = "auto"
    """What the queries are; auto takes one for an image file if it ends as they do, such as in .jpg or .png."""
    top: int = 10
    """Images of a ranking."""
    out: Path | None = None
    """Write a picture of the best images too, 40 at most, to this PNG file; of several queries, to files that are
    numbered: sheet.png to sheet-1.png, sheet-2.png and so on."""
    batch_size: int = 32
    """Images at a time; it does not change the ranking."""
    force: bool = False
    """Replace the pictures that are there."""
    json: bool = False
    """Print one JSON object a line for each query."""


def run(arguments: list[str]) -> int:
    settings = parse(Retrieve, arguments, "zoo retrieve")
    for name in ("top", "batch_size"):
        if getattr(settings, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}, and must be at least 1")
    directory = find_model_directory(settings.source)
    saved = read_saved(directory)
    queries = _read_queries(settings, saved)
    sheets = _name_sheets(settings, len(queries))
    paths = find_images(settings.index)

    start_tensorflow()
    import zoo
    from recipes.image_index import index_images

    model = zoo.load(directory, task="embed" if "embed" in saved.family.tasks else None)
    vectors = _embed(model, queries, settings.batch_size)  # first: a mistake in them is told before the long work
    with progress("embedding images") as show:
        index = index_images(model, directory, settings.index, paths, settings.batch_size, show)
    for (query, is_image), vector, sheet in zip(queries, vectors, sheets, strict=True):
        hits = index.search(vector, settings.top)
        _print(query, is_image, hits, settings.json)
        if sheet is not None:
            _draw(sheet, query, hits)
    return 0


def _read_queries(settings: Retrieve, saved: Saved) -> list[tuple[str, bool]]:
    """Each query, and whether it is an image."""
    if not hasattr(saved.config, "image_size"):
        raise UserError(f"a {saved.family.name} model sees no images: zoo retrieve needs a CLIP or a ViT")
    queries = []
    for query in read_texts(settings.queries, settings.file):
        is_image = settings.kind == "image" or (settings.kind == "auto" and query.lower().endswith(IMAGE_SUFFIXES))
        if is_image and not os.path.isfile(query):  # noqa: PTH113 - of a name that is too long, `Path` raises
            hint = "" if settings.kind == "image" else "; if it is a text, say so with --kind text"
            raise UserError(f"{query}: there is no such file{hint}")
        if not is_image and not query.strip():
            raise UserError("a query is empty: give a text, or an image file")
        if not is_image and not hasattr(saved.config, "vocabulary_size"):
            raise UserError(
                f"{query!r:.80} is a text, and a {saved.family.name} model reads none: give an image file, with "
                "--kind image if it does not end as they do"
            )
        queries.append((query, is_image))
    if not queries:
        raise UserError("there is no query")
    return queries


def _name_sheets(settings: Retrieve, count: int) -> list[Path | None]:
    """The file of each query's sheet, which can be written as far as can be told; None without --out."""
    if settings.out is None:
        return [None] * count
    out = settings.out
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}, and must end in .png")
    sheets = [out] if count == 1 else [out.with_stem(f"{out.stem}-{number}") for number in range(1, count + 1)]
    for sheet in sheets:
        if sheet.is_dir() or (sheet.exists() and not settings.force):
            raise UserError(f"{sheet} exists: choose another name, or --force to replace it")
    there = next(each for each in out.absolute().parents if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise UserError(f"--out is {out}, and {there} is no folder that can be written to")
    return list(sheets)


def _embed(model: Any, queries: Sequence[tuple[str, bool]], batch_size: int) -> np.ndarray:
    """Vectors of length 1: (queries, width) float32."""
    from zoo.layers import l2_normalize
    from zoo.prediction import embed

    vectors: dict[int, np.ndarray] = {}
    for are_images in (False, True):
        places = [place for place, (_, is_image) in enumerate(queries) if is_image == are_images]
        for some in in_batches(places, batch_size):
            found = np.asarray(l2_normalize(embed(model, [queries[place][0] for place in some], are_images)))
            vectors |= dict(zip(some, found, strict=True))
    return np.stack([vectors[place] for place in range(len(queries))])


def _print(query: str, is_image: bool, hits: Hits, in_json: bool) -> None:
    if in_json:
        results = [{"rank": rank, "cosine": cosine, "path": str(path)} for rank, (cosine, path) in enumerate(hits, 1)]
        print(as_json({"query": query, "kind": "image" if is_image else "text", "results": results}), flush=True)
        return

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=Text(printable(query)), title_justify="left")
    for heading in ("rank", "cosine"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("path", overflow="fold")
    for rank, (cosine, path) in enumerate(hits, 1):
        table.add_row(str(rank), f"{cosine:.4f}", Text(printable(str(path))))
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 2**14  # a program that reads it needs each path in one piece
    console.print(table)


def _draw(sheet: Path, query: str, hits: Hits) -> None:
    from recipes.reports.images import draw_sheet, shrink
    from zoo.image import read_image

    shown = hits[:MOST_PICTURES]
    captions = [f"{rank}  {cosine:.3f}\n{_shorten(path.name)}" for rank, (cosine, path) in enumerate(shown, 1)]
    sheet.parent.mkdir(parents=True, exist_ok=True)
    title = query if len(query) <= 60 else f"{query[:59]}…"
    draw_sheet(sheet, [shrink(read_image(path)) for _, path in shown], captions, title=title)


def _shorten(name: str) -> str:
    """A file's name as it fits over a picture: what tells it from others is often at its end."""
    return name if len(name) <= 20 else f"{name[:9]}…{name[-10:]}"
