"""gpt-pretrain: train GPT on text to predict the next token (Radford et al. 2019, section 2).

On a laptop (two cores, about two minutes), characters:

    zoo train gpt-pretrain --data input.txt --out run --tokenizer char --max-length 64

On a GPU: `--preset gpt2 --vocabulary-size 32000 --precision bfloat16 --batch-size 64 --learning-rate 6e-4
--beta-2 0.95 --warmup-steps 2000 --steps 100000 --evaluate-every 1000`.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from recipes.data.packing import pack
from recipes.engine.origin import Origin, look_up
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
    """Train GPT on a text file, or a folder of them, to predict the next token.

    Leaves in --out: recipe.json, metrics.jsonl, loss.png, samples.txt, summary.md, TensorBoard's logs, checkpoints/,
    and model/, the model with the lowest validation loss (with --adapt lora the adapters are merged there, and apart in
    adapters/). A run that was stopped, by whatever, goes on when the same command is given again, and ends as if it had
    not been. Ctrl-C and SIGTERM save first; SIGTERM exits with 75.
    """

    # What the text is made of counts, not where it lies.
    free: ClassVar[frozenset[str]] = frozenset(
        {"data", "validation_data", "evaluation_windows", "sample_prompt", "sample_tokens"}
    )

    data: Path
    """Text file, or folder of text files."""
    out: Path
    """Run directory to make, or to go on in."""
    validation_data: Path | None = None
    """Held-out text; without it a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the data to hold out: whole documents of a folder, the end of a single file."""
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
        if self.evaluation_windows < 1:
            raise UserError(f"--evaluation-windows is {self.evaluation_windows}, and must be at least 1")
        if self.sample_tokens < 0:
            raise UserError(f"--sample-tokens is {self.sample_tokens}, and must be 0 or more")
        require_trained(self.origin.source, self.training)


def train_gpt(settings: GPTPretrain) -> dict[str, Any]:
    """Run the recipe: text to packed tokens, tokens to windows, and the engine trains; what it says is printed."""
    from recipes.data.batches import TrainingBatches, ValidationBatches
    from recipes.data.text import open_corpus
    from recipes.engine.directory import Run, require_run_directory
    from recipes.engine.state import summarize

    # What can be wrong is found out before anything is written to --out, and most of it before TensorFlow is imported.
    training = settings.training
    inputs = (settings.data, settings.validation_data, *settings.origin.paths)
    require_run_directory(settings.out, settings.restart, inputs)
    beginning = look_up(settings.origin, "gpt-pretrain", "generate")
    corpus = open_corpus(settings.data, settings.validation_data, settings.validation_fraction)
    packed = pack(corpus, beginning.tokenizer)
    tokenizer, length = packed.tokenizer, beginning.length
    _ = tokenizer.end_of_text
    train_batches = TrainingBatches(packed.tokens("train"), length, training.batch_size, training.seed)
    validation_batches = ValidationBatches(
        packed.tokens("validation"), length, training.batch_size, settings.evaluation_windows
    )
    entropy = {"unigram_entropy": packed.unigram_entropy}
    run = Run(settings.out, "gpt-pretrain", settings, packed.facts)
    if finished := run.finished():
        logger.info("the run in %s is finished: nothing is left to train", settings.out)
        return {**summarize(settings.out, finished.state, "tokens"), **entropy}
    start_tensorflow()
    import keras

    from recipes.data.dataset import make_dataset
    from recipes.engine.job import Job
    from recipes.engine.loop import train
    from zoo.generation import Generator

    def make_sample(model: Any) -> Callable[[], str]:
        generator = Generator(model)
        return lambda: settings.sample_prompt + generator.generate_text(settings.sample_prompt, settings.sample_tokens)

    bytes_per_token = packed.validation.bytes / packed.validation.tokens
    job = Job(
        lambda dtype: beginning.make("generate", dtype, tokenizer),
        {"logits": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        lambda first_step: make_dataset(train_batches, first_step),
        lambda: make_dataset(validation_batches),
        unit="tokens",
        units_per_step=training.batch_size * length,
        figures=lambda loss: {"validation_bits_per_byte": loss / bytes_per_token / math.log(2)},
        make_sample=make_sample if settings.sample_tokens else None,
    )
    return {**train(job, training, run), **entropy}
