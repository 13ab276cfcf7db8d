"""generate-text: go on training GPT on prompts and what is to be said to them, or on more text (Radford et al. 2018,
section 3.2; Ouyang et al. 2022, section 3.5).

On a laptop (two cores, minutes), from a model that was pretrained before:

    zoo train generate-text --data train.jsonl --from pretrained --out run
    zoo generate run --prompt "What is the capital of France?" --temperature 0

On a GPU: `--from hf:openai-community/gpt2 --precision bfloat16 --learning-rate 5e-5 --batch-size 64`.
"""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from recipes.data.completions import SEPARATOR, CompletionColumns
from recipes.engine.settings import Training
from recipes.fine_tuning import FineTuning, Tuning, begin, fine_tune, fine_tuning, share_out
from recipes.gpt_pretrain import GPTOrigin, GPTPretrain, require_end_of_text, train_gpt
from zoo.errors import UserError

logger = logging.getLogger("zoo")

SAMPLES = 3  # held-out prompts that samples.txt shows at each evaluation


@dataclasses.dataclass(frozen=True)
class GenerateText(FineTuning):
    """Train GPT to complete prompts, on a table: CSV, TSV, JSON Lines, JSON or Parquet with a prompt and its completion
    in each row. The loss is of the completion and the end of the text after it, not of the prompt.

    A model that is trained so is given a prompt as it stands in the table: it says --separator by itself, then the
    completion, and there it stops. Where a row is too long (--max-length), its prompt is cut from the left.

    Or go on training a model on text: files, folders, tables with one column of text, or what zoo prepare made of some.
    The run is then one of gpt-pretrain, which has more options for it.

    Leaves in --out: summary.md, completions.md, samples.txt, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs,
    checkpoints/, and model/, the model with the lowest loss on held-out rows, which zoo generate, eval and export take
    (with --adapt lora the adapters are merged there, and apart in adapters/). A run that was stopped, by whatever, goes
    on when the same command is given again.
    """

    free: ClassVar[frozenset[str]] = FineTuning.free | {"text_column", "evaluation_completions"}

    data: Path
    """Table with a prompt and its completion in each row; or text, for a model given with --from to go on with."""
    validation_data: Path | None = None
    """Held-out rows, or text; without it a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the data to hold out: of a table all rows with the same prompt, or none."""
    columns: CompletionColumns = dataclasses.field(default_factory=CompletionColumns)
    text_column: str | None = None
    """Column of the text in tables that have no prompts; guessed where its name is plain."""
    separator: str = SEPARATOR
    """Text between a prompt and its completion, which the model learns to say before the latter; '' for none."""
    origin: GPTOrigin = dataclasses.field(default_factory=GPTOrigin)
    training: Training = dataclasses.field(default_factory=lambda: fine_tuning(epochs=3.0))
    evaluation_completions: int = 50
    """Most held-out prompts that the model completes at each evaluation, evenly spaced; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.evaluation_completions < 0:
            raise UserError(f"--evaluation-completions is {self.evaluation_completions}, and must be 0 or more")
        if self.text_column is not None and self.columns != CompletionColumns():
            raise UserError(
                "--text-column is for text, and --prompt-column and those beside it for prompts: leave out either"
            )
        if self.training.optimization.adapt == "frozen":
            raise UserError(
                "--adapt frozen trains the head alone, and a language model's is its table of embeddings: use --adapt "
                "lora, or say with --freeze what is to stay"
            )


def train_generator(settings: GenerateText) -> dict[str, Any]:
    """Run the recipe: rows to encoded prompts and completions, these to groups of like length, and the engine trains;
    or, by what --data is, gpt-pretrain on text."""
    from recipes.data import completions
    from recipes.data.vocabulary import tokenizer_for
    from recipes.measures import Completion

    if completions.is_text(settings.data, settings.columns, settings.text_column):
        return _go_on_with_text(settings)
    beginning, table = begin(settings, "generate-text", "generate")
    require_end_of_text(beginning)
    columns = completions.find_columns(table, settings.columns)
    tokenizer = tokenizer_for(beginning.tokenizer, table, tuple(name for name in columns if name))
    data = completions.read_completions(table, columns, tokenizer)

    def read(other: Any) -> completions.Completions:
        asked = CompletionColumns(*columns)
        return completions.read_completions(other, completions.find_columns(other, asked), tokenizer)

    train_data, held_out = share_out(settings, data, completions.split, read)
    source = completions.CompletionSource(train_data, tokenizer, beginning.length, settings.separator)
    completions.tell(train_data, held_out, source)
    measure = Completion(
        completions.CompletionSource(held_out, tokenizer, beginning.length, settings.separator),
        settings.training.batch_size,
        settings.evaluation_completions,
    )
    facts = {
        "train_rows": len(train_data),
        "validation_rows": len(held_out),
        "data": f"{data.examples.fingerprint} {held_out.examples.fingerprint}",
    }

    def make_sample(model: Any) -> Callable[[], str]:
        def sample() -> str:
            said = zip(measure.places, measure.complete(model, SAMPLES), strict=False)
            return "\n\n".join(f"{held_out.texts(place)[0]}{settings.separator}{text}" for place, text in said)

        return sample

    tuning = Tuning(
        "generate-text",
        "rows",
        source,
        measure,
        losses=next_token_loss,
        judged_by="loss",
        facts=facts,
        highest_is_best=False,
        make_sample=make_sample if settings.evaluation_completions else None,
    )
    return fine_tune(settings, tuning, lambda dtype: beginning.make("generate", dtype, tokenizer))


def next_token_loss(model: Any) -> dict[str, Any]:
    """The loss of a model that keeps its vectors: the mean over all tokens of a batch that weigh."""
    from zoo.gpt.loss import NextTokenLoss

    return {"sequence": NextTokenLoss(model.backbone.token_embedding.table, reduction="mean_with_sample_weight")}


def _go_on_with_text(settings: GenerateText) -> dict[str, Any]:
    if settings.origin.source is None:
        raise UserError(
            f"{settings.data} is text, and no table with prompts and completions: give a model to go on from with "
            "--from, --prompt-column and --completion-column of a table, or begin with gpt-pretrain"
        )
    for name in ("separator", "evaluation_completions"):
        if getattr(settings, name) != getattr(GenerateText, name):
            raise UserError(f"--{name.replace('_', '-')} is for prompts, and {settings.data} is text: leave it out")
    logger.info("%s is text: going on with it as gpt-pretrain does", settings.data)
    return train_gpt(
        GPTPretrain(
            data=(settings.data,),
            out=settings.out,
            text_column=settings.text_column,
            validation_data=settings.validation_data,
            validation_fraction=settings.validation_fraction,
            origin=settings.origin,
            training=settings.training,
            force=settings.force,
            restart=settings.restart,
            json=settings.json,
        )
    )
