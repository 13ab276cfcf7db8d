"""answer-questions: train BERT to find the answer to a question in a text (Devlin et al. 2019, sections 4.2 and 4.3).

On a laptop (two cores), from a model that was pretrained before:

    zoo train answer-questions --data train.jsonl --from pretrained --out run --max-length 128 --stride 48

On a GPU: `--from hf:google-bert/bert-base-uncased --precision bfloat16 --learning-rate 5e-5 --epochs 3`.
"""

import dataclasses
from pathlib import Path
from typing import Any

from recipes.data.questions import STRIDE, QuestionColumns
from recipes.data.tables import Table
from recipes.engine.origin import Origin
from recipes.engine.settings import Training
from recipes.fine_tuning import FineTuning, Tuning, begin, fine_tune, fine_tuning, require_wordpiece, share_out
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class AnswerQuestions(FineTuning):
    """Train a model to answer questions about texts by a part of the text: on SQuAD's JSON, or on JSON Lines or Parquet
    with question, context and answers, lists of {"text", "start"}, or Hugging Face's lists of text and of answer_start.

    Contexts of any length are read in windows that overlap. Where some questions have no answer, the model learns to
    say so. It is trained on the first of several answers, and measured on all.

    Leaves in --out: summary.md, answers.md, loss.png, recipe.json, metrics.jsonl, TensorBoard's logs, checkpoints/, and
    model/, the model with the highest F1 on held-out questions, which zoo predict, eval and export take. A run that was
    stopped, by whatever, goes on when the same command is given again.
    """

    data: Path
    """Table with a question, its context and its answers in each row."""
    validation_data: Path | None = None
    """Held-out questions; without them a part of the data is held out."""
    validation_fraction: float = 0.1
    """Part of the questions to hold out: all about one context, or none."""
    origin: Origin = dataclasses.field(default_factory=lambda: Origin(max_length=384))
    training: Training = dataclasses.field(default_factory=lambda: fine_tuning(epochs=4.0))
    columns: QuestionColumns = dataclasses.field(default_factory=QuestionColumns)
    stride: int = STRIDE
    """By how many tokens of a context a window is further on than the one before; by half of a window at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride < 1:
            raise UserError(f"--stride is {self.stride}, and must be at least 1")


def train_answerer(settings: AnswerQuestions) -> dict[str, Any]:
    """Run the recipe: rows to windows with the place of the answer, these to groups of like length, and the engine
    trains."""
    from recipes.data import answered
    from recipes.data.questions import find_columns, read_texts
    from recipes.data.vocabulary import tokenizer_for
    from recipes.measures import Answering

    beginning, table = begin(settings, "answer-questions", "answer")
    require_wordpiece(beginning, "answer-questions")
    columns = find_columns(table, settings.columns)
    tokenizer = tokenizer_for(
        beginning.tokenizer, table, columns, lambda table, problems: read_texts(table, columns, problems)
    )
    length = beginning.length
    data = answered.read_answered(table, columns, tokenizer, length, settings.stride)

    def read(other: Table) -> answered.AnsweredQuestions:
        return answered.read_answered(other, find_columns(other, settings.columns), tokenizer, length, settings.stride)

    train_data, held_out = share_out(settings, data, answered.split, read)
    answered.tell(train_data, held_out)
    facts = {
        "train_questions": len(train_data),
        "validation_questions": len(held_out),
        "train_windows": int(train_data.counts().sum()),
        "unanswerable": data.examples.facts["unanswerable"],
        "data": f"{data.examples.fingerprint} {held_out.examples.fingerprint}",
    }
    tuning = Tuning(
        "answer-questions",
        "windows",
        answered.WindowSource(train_data, tokenizer, length),
        Answering(held_out, tokenizer, length, settings.training.batch_size, data.has_unanswerable),
        losses=("start_logits", "end_logits"),
        judged_by="f1",
        facts=facts,
    )
    return fine_tune(settings, tuning, lambda dtype: beginning.make("answer", dtype, tokenizer))
