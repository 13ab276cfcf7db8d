"""`zoo explain SOURCE INPUT --out PNG`: what a model attends to, and what its answer rests on."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from recipes.command.inputs import find_images, read_texts
from recipes.command.parsing import parse
from recipes.engine.start import start_tensorflow
from recipes.explanation.target import Question, require_options
from zoo.directory import find_model_directory, read_saved
from zoo.errors import UserError
from zoo.text.tokenizer import without_surrogates


@dataclasses.dataclass(frozen=True)
class Explain:
    """Draw what an output of a model rests on: the integrated gradients of each word or pixel, which add up to the
    output's difference from that of an input that says nothing, and the attention. Explained is the likeliest class
    (classify, tag), token (masked_lm, generate) or answer, or how near two embeddings are (contrast, embed)."""

    source: Annotated[Positional[str], arg(metavar="SOURCE")]
    """Model directory, a run that holds one, a Hugging Face checkpoint, or hf:organisation/name[@revision]."""
    input: Annotated[Positional[str], arg(metavar="INPUT")]
    """A text, - for one from standard input, or an image file for a model that sees."""
    out: Path
    """PNG file to write."""
    task: str | None = None
    """Load the model for another task than it was saved for."""
    target: str | None = None
    """Explain this class (its label or number) or token instead of the likeliest."""
    token: int | None = None
    """Explain the output at this token, counted from 0, instead of the masked or the surest one (masked_lm, tag)."""
    context: str | None = None
    """The text that holds the answer to a question, or the second of a pair of texts (BERT)."""
    text: str | None = None
    """The text that the image is compared with (CLIP), or the input's embedding."""
    layer: int | None = None
    """Show the heads of this block over a text, counted from 0, instead of the last one's."""
    force: bool = False
    """Replace the file that is there."""
    json: bool = False
    """Print the numbers as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Explain, arguments, "zoo explain")
    if settings.out.suffix.lower() != ".png":
        raise UserError(f"--out is {settings.out}, and must end in .png")
    if settings.out.is_dir() or (settings.out.exists() and not settings.force):
        raise UserError(f"{settings.out} exists: choose another name, or --force to replace it")
    directory = find_model_directory(settings.source)
    saved = read_saved(directory)
    sees = hasattr(saved.config, "image_size")
    read = [str(each) for each in (find_images if sees else read_texts)([settings.input], None)]
    if len(read) != 1:
        raise UserError(f"INPUT holds {len(read)} texts or images, and one can be explained at a time")
    question = Question(
        text=None if sees else read[0],
        image=read[0] if sees else None,
        context=None if settings.context is None else without_surrogates(settings.context),
        other=None if settings.text is None else without_surrogates(settings.text),
        target=settings.target,
        token=settings.token,
    )
    task = settings.task or saved.task
    if task is not None:  # else loading tells of it
        saved.family.require_task(task)
        require_options(saved.family.name, task, question)
    _require_layer(settings.layer, saved.config, saved.family.name)

    start_tensorflow()
    import zoo
    from recipes.explanation.drawing import describe, draw
    from recipes.explanation.explain import explain

    explanation = explain(zoo.load(directory, task=settings.task), question)
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    draw(explanation, settings.out, settings.layer)
    if settings.json:
        print(json.dumps({**explanation.to_record(), "out": str(settings.out)}, ensure_ascii=False))
    else:
        print("\n".join(line for line in (explanation.title, describe(explanation), str(settings.out)) if line))
    return 0


def _require_layer(layer: int | None, config: object, family: str) -> None:
    if layer is None:
        return
    if family == "vit":
        raise UserError("--layer is of the words, and a vit model reads none: leave it out")
    depth = getattr(config, "text", config).depth  # type: ignore[attr-defined]
    if not 0 <= layer < depth:
        raise UserError(f"--layer is {layer}, and the model has blocks 0 to {depth - 1}")
