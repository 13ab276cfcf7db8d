r"""bert-pretrain: train BERT on text to predict masked tokens, and which segment follows which (Devlin et al. 2019,
section 3.1).

On a laptop (two cores, about half an hour); on books expect to find 31 % of the masked tokens (docs/results.md):

    zoo train bert-pretrain --data books --out run --no-nsp --depth 4 --width 256 --dropout 0 --mask-rate 0.2 \
        --steps 3500 --batch-size 16 --optimizer muon --learning-rate 2e-3 --final-learning-rate 0.02

Then go on with `--from run` on the texts of the task, without their labels, for some hundred steps.

On a GPU, by the paper (which trains the last tenth of the steps at `--max-length 512`): `--preset bert-base
--vocabulary-size 30522 --neighbour-blocks 0 --precision bfloat16 --batch-size 256 --learning-rate 1e-4 --beta-2 0.999
--epsilon 1e-6 --weight-decay 0.01 --warmup-steps 10000 --schedule linear --final-learning-rate 0 --steps 1000000`.
"""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any, ClassVar

from recipes.data.masking import MASK_RATE
from recipes.data.pretraining import pretraining_text
from recipes.engine.optimizer import Optimization
from recipes.engine.origin import Origin, look_up
from recipes.engine.settings import Training, require_trained
from recipes.engine.start import start_tensorflow
from zoo.errors import UserError

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class BERTPretrain:
    """Train BERT on text to predict masked tokens, and whether a segment follows another.

    Leaves in --out: recipe.json, metrics.jsonl, loss.png, summary.md, TensorBoard's logs, checkpoints/, and model/, the
    model with the lowest validation loss, to go on from with --from. A run that was stopped, by whatever, goes on when
    the same command is given again.
    """

    free: ClassVar[frozenset[str]] = frozenset({"data", "text_column", "validation_data", "evaluation_sequences"})

    data: tuple[Path, ...]
    """Text files, tables with a text in each row, and folders of them; or what zoo prepare made of some. A file, or a
    row of a table, is one document."""
    out: Path
    """Run directory to make, or to go on in."""
    text_column: str | None = None
    """Column of the text in tables; guessed where its name is plain."""
    validation_data: Path | None = None
    """Held-out text; without it a part of the data is held out."""
    validation_fraction: float = 0.05
    """Part of the data to hold out: whole files of several, the end of a single one."""
    nsp: bool = True
    """Train on pairs of segments to tell successors; --no-nsp: on full sequences, for masked tokens alone."""
    mask_rate: float = MASK_RATE
    """The part of the tokens to predict."""
    whole_words: bool = False
    """Mask whole words, not pieces of them."""
    origin: Origin = dataclasses.field(default_factory=lambda: Origin(max_length=128, neighbour_blocks=2))
    training: Training = dataclasses.field(
        default_factory=lambda: Training(steps=10000, evaluate_every=500, optimization=Optimization(beta_2=0.98))
    )
    evaluation_sequences: int = 1024
    """Most held-out sequences to evaluate on."""
    force: bool = False
    """Go on with the run in --out although settings have changed."""
    restart: bool = False
    """Throw away the run in --out and begin anew."""
    json: bool = False
    """Print the result as one JSON object."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"--validation-fraction is {self.validation_fraction}, and must be between 0 and 1")
        if not 0 < self.mask_rate < 1:
            raise UserError(f"--mask-rate is {self.mask_rate}, and must be between 0 and 1")
        if self.evaluation_sequences < 1:
            raise UserError(f"--evaluation-sequences is {self.evaluation_sequences}, and must be at least 1")
        require_trained(self.origin.source, self.training)


def train_bert(settings: BERTPretrain) -> dict[str, Any]:
    """Run the recipe: text to packed tokens, tokens to masked sequences, and the engine trains."""
    from recipes.data.grouping import GroupedBatches
    from recipes.data.masking import Masking
    from recipes.data.sequences import FullSequences, MaskedSequences, SegmentPairs
    from recipes.engine.directory import Run, require_run_directory
    from recipes.engine.state import summarize
    from recipes.measures import MaskedTokens, evaluation_by

    origin, training = settings.origin, settings.training
    inputs = (*settings.data, settings.validation_data, *origin.paths)
    require_run_directory(settings.out, settings.restart, inputs)
    beginning = look_up(origin, "bert-pretrain", "masked_lm")
    packed = pretraining_text(settings, beginning.tokenizer)
    tokenizer, length = packed.tokenizer, beginning.length
    masking = Masking(tokenizer, settings.mask_rate, settings.whole_words)

    def make_source(split: Any, seed: int | None, most: int | None = None) -> MaskedSequences:
        tokens = packed.tokens(split)
        sequences = (
            SegmentPairs(tokens, tokenizer, length, seed or 0, most)
            if settings.nsp
            else FullSequences(tokens, tokenizer, length, seed, most)
        )
        return MaskedSequences(sequences, masking, tokenizer.special_ids["pad"], settings.nsp)

    train_batches = GroupedBatches(make_source("train", training.seed), training.batch_size, training.seed)
    measure = MaskedTokens(make_source("validation", None, settings.evaluation_sequences), training.batch_size)
    training = training.counted(train_batches.batches_per_epoch)
    run = Run(settings.out, "bert-pretrain", dataclasses.replace(settings, training=training), packed.facts)
    if finished := run.finished():
        logger.info("the run in %s is finished: nothing is left to train", settings.out)
        return summarize(settings.out, finished.state, "tokens")
    start_tensorflow()
    import keras

    from recipes.data.dataset import make_dataset
    from recipes.engine.job import Job
    from recipes.engine.loop import train

    def loss() -> Any:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")

    job = Job(
        lambda dtype: beginning.make("pretrain" if settings.nsp else "masked_lm", dtype, tokenizer),
        {"logits": loss()} | ({"next_sentence": loss()} if settings.nsp else {}),
        lambda first_step: make_dataset(train_batches, first_step),
        lambda: make_dataset(measure.batches),
        unit="tokens",
        units_per_step=math.ceil(training.batch_size * float(train_batches.source.lengths(0).mean())),
        make_evaluation=evaluation_by(measure),
    )
    return train(job, training, run)
