"""`zoo embed SOURCE INPUT...`: one vector for each text or image."""

import dataclasses
import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from tyro.conf import Positional, arg

from recipes.command.inputs import find_images, in_batches, read_texts
from recipes.command.parsing import parse
from recipes.command.printing import as_json
from recipes.engine.start import start_tensorflow
from zoo.directory import find_model_directory, read_saved
from zoo.errors import UserError
from zoo.files import whole_file


@dataclasses.dataclass(frozen=True)
class Embed:
    """Make one vector of each text or image. Without --out each becomes a line of standard output, a JSON object with
    `input` and `embedding`."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Model directory, a run that holds one, a Hugging Face checkpoint, or hf:organisation/name[@revision]."""
    inputs: Annotated[Positional[tuple[str, ...]], arg(metavar="INPUT")] = ()
    """Texts, or image files and folders of them; - reads one a line from standard input."""
    file: Path | None = None
    """Read texts, or paths of images, from the lines of this file."""
    kind: Literal["auto", "text", "image"] = "auto"
    """What the inputs are; auto takes them for images where the model sees images alone, or sees and reads and the
    first input is a file or a folder."""
    pooling: str | None = None
    """Make one vector of many in this way instead of the model's own: mean, first or last, as the family has it."""
    normalize: bool = False
    """Divide vectors by their length even where the model does not."""
    batch_size: int = 16
    """Inputs at a time; it does not change the vectors."""
    out: Path | None = None
    """Write the vectors to this file instead, as a NumPy array (.npy), float32 (inputs, width)."""
    force: bool = False
    """Replace the file that is there."""


def run(arguments: list[str]) -> int:
    settings = parse(Embed, arguments, "zoo embed")
    if settings.out is not None and settings.out.exists() and not settings.force:
        raise UserError(f"{settings.out} exists: choose another name, or --force to replace it")
    directory = find_model_directory(settings.source)
    saved = read_saved(directory)
    sees, reads = hasattr(saved.config, "image_size"), hasattr(saved.config, "vocabulary_size")
    images = settings.kind == "image" or (settings.kind == "auto" and sees and not (reads and not _is_path(settings)))
    items = (find_images if images else read_texts)(settings.inputs, settings.file)
    batches = in_batches(items, settings.batch_size)
    first = next(batches, [])

    start_tensorflow()
    import zoo
    from zoo.layers import l2_normalize
    from zoo.prediction import embed

    embeds = "embed" in saved.family.tasks
    if settings.pooling is not None and not embeds:
        raise UserError(f"--pooling is {settings.pooling!r}, and a {saved.family.name} model has one way to pool")
    overrides = {} if settings.pooling is None else {"pooling": settings.pooling}
    model = zoo.load(directory, task="embed" if embeds else None, **overrides)
    vectors = []
    batch: list | None = first
    while batch:
        found = embed(model, batch, are_images=images)
        found = np.asarray(l2_normalize(found)) if settings.normalize else found
        if settings.out is None:
            for item, vector in zip(batch, found, strict=True):
                print(as_json({"input": str(item), "embedding": vector.tolist()}), flush=True)
        else:
            vectors.append(found)
        batch = next(batches, None)
    if settings.out is not None:
        if not vectors:
            raise UserError("there was no input: nothing is written")
        settings.out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(settings.out) as partial, partial.open("wb") as file:
            np.save(file, np.concatenate(vectors))
        print(settings.out)
    return 0


def _is_path(settings: Embed) -> bool:
    return bool(settings.inputs) and os.path.exists(settings.inputs[0])  # noqa: PTH110 - a text may be no name of a file
