"""Questions with their answers: cut into windows of their contexts, shared out, and made into batches."""

import dataclasses
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from recipes.data.batches import ArraySpec
from recipes.data.examples import Example, Examples, build_examples, in_chunks
from recipes.data.grouping import Source, pad
from recipes.data.held_out import hold_out
from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.questions import MOVED, Answer, Columns, Question, read_rows
from recipes.data.tables import Table
from zoo.text import Tokenizer
from zoo.text.windows import Arrays, locate

logger = logging.getLogger("zoo")


@dataclasses.dataclass(frozen=True)
class AnsweredQuestions:
    """Questions, of which `examples` has the windows, with the columns `ids` (special tokens included), `second` (where
    the part of the context begins), `offsets` (the characters that each token of it stands for), `target` (the first
    token of the answer and its last; 0, 0 where the window does not hold it), `is_known` (0 where no window does), and
    `question` and `context` (numbers); in the first window of a question also its texts `asked` and `answers`, and in
    the first of a context `passage`.

    Attributes:
        examples: all windows of all questions, one after another.
        numbers: which of the questions these are: (questions,).
        begins: of all questions the first window, and behind them how many there are: (all questions + 1,).
        passages: of all contexts the first window: (contexts,).
    """

    examples: Examples
    numbers: np.ndarray
    begins: np.ndarray
    passages: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def has_unanswerable(self) -> bool:
        """Whether some of all questions have no answer."""
        return bool(self.examples.facts["unanswerable"])

    def windows(self) -> np.ndarray:
        """The places of their windows in `examples`, question by question: (windows,)."""
        return np.concatenate([np.arange(*self.begins[number : number + 2]) for number in self.numbers])

    def counts(self) -> np.ndarray:
        """How many windows each has: (questions,)."""
        return np.diff(self.begins)[self.numbers]

    def contexts(self) -> np.ndarray:
        """The number of the context of each: (questions,)."""
        return self.examples.flat("context")[self.begins[self.numbers]]

    def question(self, place: int) -> Question:
        """A question, as it was read."""
        window = int(self.begins[self.numbers[place]])
        passage = int(self.passages[self.examples.flat("context")[window]])
        answers = json.loads(self.examples.text("answers", window))
        return Question(
            self.examples.text("asked", window),
            self.examples.text("passage", passage),
            tuple(Answer(text, start) for text, start in answers),
        )

    def describe(self, name: str) -> str:
        """How many there are, in a line."""
        about = f"about {len(np.unique(self.contexts())):,} contexts, in {int(self.counts().sum()):,} windows"
        return f"{name}: {len(self):,} questions {about}"


def read_answered(table: Table, columns: Columns, tokenizer: Tokenizer, length: int, stride: int) -> AnsweredQuestions:
    """Read a table, and cut its contexts into windows; a window is to be answered by the first of the answers.

    Args:
        table: the rows.
        columns: see `recipes.data.questions.find_columns`.
        tokenizer: a "wordpiece" one.
        length: the most tokens of a window.
        stride: by how many tokens of the context each is further on than the one before.

    Raises:
        UserError: the table cannot be used, or a window of this length has no room for a context.
    """
    counts: Counter[str] = Counter()
    contexts: dict[bytes, int] = {}

    def encode(rows: Iterator[Row], problems: Problems) -> Iterator[Example]:
        questions = read_rows(rows, problems, columns, counts)
        for some in in_chunks(questions, lambda question: len(question.text) + len(question.context)):
            asked, passages = zip(*((question.text, question.context) for question in some), strict=True)
            inputs = tokenizer.prepare_windows(asked, passages, max_length=length, stride=stride)
            ends = np.searchsorted(inputs["pair"], np.arange(len(some)), side="right")
            for question, windows in zip(some, np.split(np.arange(ends[-1]), ends[:-1]), strict=True):
                key = hashlib.sha256(question.context.encode()).digest()
                is_new = key not in contexts
                numbers = {"question": [counts["questions"]], "context": [contexts.setdefault(key, len(contexts))]}
                counts["questions"] += 1
                yield from _encode(question, {name: inputs[name][windows] for name in inputs}, is_new, numbers, counts)

    request: dict[str, Any] = {"kind": "answered", "columns": columns, "tokenizer": tokenizer.fingerprint}
    request |= {"length": length, "stride": stride}
    examples = build_examples(table, request, encode, lambda: {"unanswerable": 0, "unheld": 0, MOVED: 0, **counts})
    if moved := examples.facts[MOVED]:
        logger.warning("%s answers were not where they are said to be, and stand elsewhere just once", f"{moved:,}")
    if unheld := examples.facts["unheld"]:
        logger.warning("%s answers are held by no window, and not learnt: raise --max-length", f"{unheld:,}")
    questions: int = examples.facts["questions"]
    begins = np.searchsorted(examples.flat("question"), np.arange(questions + 1))
    _, passages = np.unique(examples.flat("context"), return_index=True)
    return AnsweredQuestions(examples, np.arange(questions), begins, passages)


def _encode(
    question: Question, inputs: Arrays, is_new: bool, numbers: Example, counts: Counter[str]
) -> Iterator[Example]:
    """The windows of a question as examples; `inputs` are those of `Tokenizer.prepare_windows`, of this question."""
    targets: list[tuple[int, int] | None] = [None] * len(inputs["pair"])
    if question.answers:
        answer = question.answers[0]
        end = answer.start + len(answer.text)
        places = zip(inputs["offsets"], inputs["sequence_ids"], strict=True)
        targets = [locate(answer.start, end, *window) for window in places]
    is_known = not question.answers or any(targets)
    counts["unanswerable"] += not question.answers
    counts["unheld"] += not is_known
    for row, target in enumerate(targets):
        used = int(inputs["padding_mask"][row].sum())
        second = int(inputs["segment_ids"][row].argmax())  # [CLS] question [SEP] is before it, and [SEP] at its end
        yield {
            "ids": inputs["token_ids"][row, :used],
            "second": [second],
            "offsets": inputs["offsets"][row, second : used - 1].ravel(),
            "target": target or (0, 0),
            "is_known": [int(is_known)],
            **numbers,
            "asked": "" if row else question.text,
            "answers": "" if row else json.dumps(question.answers, ensure_ascii=False),
            "passage": question.context if is_new and not row else "",
        }


def split(data: AnsweredQuestions, fraction: float, seed: int) -> tuple[AnsweredQuestions, AnsweredQuestions]:
    """Share questions out to training and validation, at random: all about one context to the same."""
    held_out = hold_out(data.contexts(), fraction, seed)
    return (
        dataclasses.replace(data, numbers=data.numbers[~held_out]),
        dataclasses.replace(data, numbers=data.numbers[held_out]),
    )


def tell(train_data: AnsweredQuestions, held_out: AnsweredQuestions) -> None:
    """Say what there is to train on, before it begins."""
    logger.info("%s", train_data.describe("training"))
    logger.info("%s", held_out.describe("held out"))
    if unanswerable := train_data.examples.facts["unanswerable"]:
        logger.info("%s questions have no answer: the model learns to say so", f"{unanswerable:,}")


class WindowSource(Source):
    """Windows as batches `(inputs, labels, weights)` for the task "answer". One without the answer points to its first
    token, as does each of a question that has none (Devlin et al. 2019, sections 4.2 and 4.3).

    Args:
        data: what to draw from.
        tokenizer: that encoded it.
        length: of the longest window.
    """

    def __init__(self, data: AnsweredQuestions, tokenizer: Tokenizer, length: int) -> None:
        self.data, self.length, self.pad_id = data, length, tokenizer.special_ids["pad"]
        self.windows = data.windows()
        self.ends = np.cumsum(data.counts())
        names = ("token_ids", "padding_mask", "segment_ids")
        outputs = ("start_logits", "end_logits")
        self.element: Any = (
            {name: ArraySpec((None, None)) for name in names},
            {name: ArraySpec((None,)) for name in outputs},
            {name: ArraySpec((None,), "float32") for name in outputs},
        )

    def lengths(self, epoch: int) -> np.ndarray:
        return self.data.examples.lengths("ids")[self.windows]

    def rows_of(self, place: int) -> range:
        """The rows of a question of `data`."""
        return range(int(self.ends[place - 1]) if place else 0, int(self.ends[place]))

    def tokens(self, rows: range, width: int) -> dict[str, np.ndarray]:
        """Where the tokens of some windows stand: `offsets`, `sequence_ids` and `pair`, as `best_spans` takes them."""
        offsets = np.zeros((len(rows), width, 2), np.int32)
        sequence_ids = np.full((len(rows), width), -1, np.int32)
        for row, window in enumerate(self.windows[rows.start : rows.stop]):
            second = int(self.data.examples.row("second", window)[0])
            spans = self.data.examples.row("offsets", window).reshape(-1, 2)
            offsets[row, second : second + len(spans)] = spans
            sequence_ids[row, second : second + len(spans)] = 1
        return {"offsets": offsets, "sequence_ids": sequence_ids, "pair": np.zeros(len(rows), np.int32)}

    def collate(self, epoch: int, rows: np.ndarray, width: int, draw: np.random.Generator) -> Any:
        examples, windows, places = self.data.examples, self.windows[rows], np.arange(width)
        ids = [examples.row("ids", window) for window in windows]
        ends = np.array([[len(each)] for each in ids])
        seconds = np.stack([examples.row("second", window) for window in windows])
        targets = np.stack([examples.row("target", window) for window in windows])
        inputs = {
            "token_ids": pad(ids, width, self.pad_id),
            "padding_mask": (places < ends).astype(np.int32),
            "segment_ids": ((places >= seconds) & (places < ends)).astype(np.int32),
        }
        weights = examples.flat("is_known")[windows].astype(np.float32)
        return (
            inputs,
            {"start_logits": targets[:, 0], "end_logits": targets[:, 1]},
            {"start_logits": weights, "end_logits": weights},
        )
