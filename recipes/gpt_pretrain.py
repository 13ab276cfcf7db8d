r"""gpt-pretrain: train GPT on text to predict the next token (Radford et al. 2019, section 2).

On a laptop (two cores, about a minute), characters; on tinyshakespeare expect a validation loss of 1.74:

    zoo train gpt-pretrain --data input.txt --out run --tokenizer char --max-length 64 --batch-size 24 --steps 500 \
        --optimizer muon --learning-rate 1e-2 --warmup-steps 50 --final-learning-rate 0.02

On a GPU: `--preset gpt2 --vocabulary-size 32000 --precision bfloat16 --batch-size 64 --learning-rate 6e-4
--beta-2 0.95 --warmup-steps 2000 --steps 100000 --evaluate-every 1000`.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from recipes.data.pretraining import pretraining_text
from recipes.engine.origin import Beginning, Origin, look_up
from recipes.engine.settings import Training, require_trained
from recipes.engine.start import start_tensorflow
from zoo.errors import UserError

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class GPTOrigin(Origin):
    """The GPT that is trained, before it is."""

    preset: str = "gpt-mini"
    """Size of a fresh model; zoo list shows them."""
    tokenizer: str = "bpe"
    """bpe or char, trained on the data; or the directory of a model or a tokenizer."""
    vocabulary_size: int = 2048
    """Tokens of a bpe that is trained."""


@dataclasses.dataclass(frozen=True)
class GPTPretrain:
    """Train GPT on text to predict the next token.

    Leaves in --out: recipe.json, metrics.jsonl, loss.png, samples.txt, summary.md, TensorBoard's logs, checkpoints/,
    and model/, the model with the lowest validation loss (with --adapt lora the adapters are merged there, and apart in
    adapters/). A run that was stopped, by whatever, goes on when the same command is given again, and ends as if it had
    not been. Ctrl-C and SIGTERM save first; SIGTERM exits with 75.
    """

    # What the text is made of counts, not where it lies; and by what parts the loss goes is but the order of sums.
    free: ClassVar[frozenset[str]] = frozenset(
        {"data", "text_column", "validation_data", "logits_memory", "evaluation_windows"}
        | {"sample_prompt", "sample_tokens"}
    )

    data: tuple[Path, ...]
    """Text files, tables with a text in each row, and folders of them; or what zoo prepare made of some."""
    out: Path
    """Run directory to make, or to go on in."""
    text_column: str | None = None
    """Column of the text in tables; guessed where its name is plain."""
    validation_data: Path | None = None
    """Held-out text; without it a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the data to hold out: whole files of several, the end of a single one."""
    separate_documents: bool = False
    """Let no token see another document than its own, where a sequence holds parts of several."""
    logits_memory: float = 256.0
    """MB that the logits of a device may take; where they are more, the loss goes by parts of the tokens."""
    origin: GPTOrigin = dataclasses.field(default_factory=GPTOrigin)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation_windows: int = 1000
    """Most windows of held-out text to evaluate on, evenly spaced."""
    sample_prompt: str = "The "
    """Text that the sample at each evaluation continues."""
    sample_tokens: int = 48
    """Length of the sample; 0 makes none."""
    force: bool = False
    """Go on with the run in --out although settings have changed."""
    restart: bool = False
    """Throw away the run in --out and begin anew."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"--validation-fraction is {self.validation_fraction}, and must be between 0 and 1")
        if not 0 < self.logits_memory < float("inf"):
            raise UserError(f"--logits-memory is {self.logits_memory}, and must be above 0")
        if self.evaluation_windows < 1:
            raise UserError(f"--evaluation-windows is {self.evaluation_windows}, and must be at least 1")
        if self.sample_tokens < 0:
            raise UserError(f"--sample-tokens is {self.sample_tokens}, and must be 0 or more")
        require_trained(self.origin.source, self.training)


def train_gpt(settings: GPTPretrain) -> dict[str, Any]:
    """Run the recipe: text to packed tokens, tokens to windows, and the engine trains; what it says is printed."""
    from recipes.data.batches import TrainingBatches, ValidationBatches, WindowBatch
    from recipes.engine.directory import Run, require_run_directory
    from recipes.engine.state import summarize

    # What can be wrong is found out before anything is written to --out, and most of it before TensorFlow is imported.
    inputs = (*settings.data, settings.validation_data, *settings.origin.paths)
    require_run_directory(settings.out, settings.restart, inputs)
    beginning = look_up(settings.origin, "gpt-pretrain", "generate")
    require_end_of_text(beginning)
    packed = pretraining_text(settings, beginning.tokenizer)
    tokenizer, length, batch_size = packed.tokenizer, beginning.length, settings.training.batch_size
    separator = tokenizer.end_of_text  # text that was prepared may be anything's
    form = WindowBatch("sequence", separator if settings.separate_documents else None)
    train_batches = TrainingBatches(packed.tokens("train"), length, batch_size, settings.training.seed, form)
    validation_batches = ValidationBatches(
        packed.tokens("validation"), length, batch_size, settings.evaluation_windows, form
    )
    training = settings.training.counted(math.ceil(train_batches.windows_per_epoch / batch_size))
    entropy = {"unigram_entropy": packed.unigram_entropy}
    run = Run(settings.out, "gpt-pretrain", dataclasses.replace(settings, training=training), packed.facts)
    if finished := run.finished():
        logger.info("the run in %s is finished: nothing is left to train", settings.out)
        return {**summarize(settings.out, finished.state, "tokens"), **entropy}
    start_tensorflow()
    from recipes.data.dataset import make_dataset
    from recipes.engine.job import Job
    from recipes.engine.loop import train
    from zoo.generation import Generator
    from zoo.gpt.loss import NextTokenLoss

    def make_model(dtype: str) -> Any:
        model = beginning.make("generate", dtype, tokenizer)
        model.keeps_sequence = True
        return model

    def make_sample(model: Any) -> Callable[[], str]:
        generator = Generator(model)
        return lambda: settings.sample_prompt + generator.generate_text(settings.sample_prompt, settings.sample_tokens)

    bytes_per_token = packed.validation.bytes / packed.validation.tokens
    job = Job(
        make_model,
        lambda model: {"sequence": NextTokenLoss(model.backbone.token_embedding.table, settings.logits_memory)},
        lambda first_step: make_dataset(train_batches, first_step),
        lambda: make_dataset(validation_batches),
        unit="tokens",
        units_per_step=batch_size * length,
        figures=lambda loss: {"validation_bits_per_byte": loss / bytes_per_token / math.log(2)},
        make_sample=make_sample if settings.sample_tokens else None,
    )
    return {**train(job, training, run), **entropy}


def require_end_of_text(beginning: Beginning) -> None:
    """Raise UserError unless the model's tokenizer has a token that ends a text."""
    if beginning.tokenizer.kind == "wordpiece":
        raise UserError("a wordpiece tokenizer has no token for the end of a text: give --tokenizer bpe or char")
