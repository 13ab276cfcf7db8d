"""embed-text: train BERT or GPT to make vectors of texts, near each other where the texts belong together (Gao et al.
2021, SimCSE, sections 3 and 4; Henderson et al. 2017; Reimers & Gurevych 2019).

On a laptop (two cores, minutes), from a model that was pretrained before:

    zoo train embed-text --data pairs.csv --from pretrained --out run

On a GPU: `--from hf:google-bert/bert-base-uncased --precision bfloat16 --learning-rate 5e-5 --batch-size 512
--epochs 3`; where the memory does not hold so many, `--accumulate 8` compares as many pairs all the same.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from recipes.data.pairs import PairColumns
from recipes.engine.settings import Training
from recipes.fine_tuning import FineTuning, Tuning, begin, fine_tune, fine_tuning, share_out
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class EmbedText(FineTuning):
    """Train an embedder of texts on a table of pairs, of which each is told from all others of its batch.

    A table with one column of text alone will do: each text is then paired with itself, under another dropout. What is
    held out of such a table is looked for by every other token of it, unless --validation-data has pairs.

    Leaves in --out: summary.md, neighbours.md, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs, checkpoints/,
    and model/, the model that ranks the right partners of held-out texts highest, which zoo embed and export take. A
    run that was stopped, by whatever, goes on when the same command is given again.
    """

    data: Path
    """Table with a text, or two that belong together, in each row."""
    validation_fraction: float = 0.1
    """Part of the rows to hold out."""
    columns: PairColumns = dataclasses.field(default_factory=PairColumns)
    pooling: Literal["mean", "first", "last"] | None = None
    """How one vector is made of those of all tokens; None for the model's own, at first BERT's mean and GPT's last."""
    temperature: float = 0.05
    """What cosines are divided by: the lower, the more the nearest of the wrong ones count."""
    training: Training = dataclasses.field(default_factory=lambda: fine_tuning(batch_size=64))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"--temperature is {self.temperature}, and must be above 0")
        if self.training.batch_size < 2:
            raise UserError("--batch-size is 1, and a pair is told from the others of its batch: give more")


def train_embedder(settings: EmbedText) -> dict[str, Any]:
    """Run the recipe: rows to pairs of encoded texts, pairs to groups of like length, and the engine trains."""
    from recipes.data import pairs
    from recipes.data.vocabulary import tokenizer_for
    from recipes.measures import Retrieval

    beginning, table = begin(settings, "embed-text", "embed")
    length, training = beginning.length, settings.training
    config = {"normalize": True, **({} if settings.pooling is None else {"pooling": settings.pooling})}
    changed = beginning.config.replace(**config)
    columns = pairs.find_columns(table, settings.columns)
    if columns[1] is None and not changed.dropout and not changed.attention_dropout:
        raise UserError(
            f"{settings.data} has no pairs, and without dropout a text is the same each time: give --dropout 0.1"
        )
    tokenizer = tokenizer_for(beginning.tokenizer, table, tuple(name for name in columns if name))
    data = pairs.read_pairs(table, columns, tokenizer)

    def read(other: Any) -> pairs.TextPairs:
        return pairs.read_pairs(other, pairs.find_columns(other, settings.columns), tokenizer)

    train_data, held_out = share_out(settings, data, pairs.split, read)
    if len(held_out) < 2:
        raise UserError(f"{len(held_out)} held-out row leaves nothing to tell its texts from: hold out more")
    source = pairs.PairSource(train_data, tokenizer, length)
    pairs.tell(train_data, held_out, source)
    facts = {
        "train_pairs": len(train_data),
        "validation_pairs": len(held_out),
        "data": f"{data.examples.fingerprint} {held_out.examples.fingerprint}",
    }

    def make_objective(model: Any) -> Any:
        from zoo.objectives import PairContrast

        return PairContrast(model, settings.temperature)

    tuning = Tuning(
        "embed-text",
        "pairs",
        source,
        Retrieval(held_out, tokenizer, length, training.batch_size),
        losses=(),
        judged_by="mean_reciprocal_rank",
        facts=facts,
        objective=make_objective,
    )
    return fine_tune(settings, tuning, lambda dtype: beginning.make("embed", dtype, tokenizer, **config))
