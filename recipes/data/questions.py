"""Questions, the contexts that hold their answers, and these, as they stand in a table."""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from recipes.data.lines import Row
from recipes.data.problems import Problems
from recipes.data.tables import Table, choose_column

QUESTION_COLUMNS = ("question", "query")
CONTEXT_COLUMNS = ("context", "passage", "document", "paragraph", "text")
ANSWERS_COLUMNS = ("answers", "answer")
MOVED = "moved"  # answers that were put right

STRIDE = 128  # by how many tokens of a context one window is further on than the one before


@dataclasses.dataclass(frozen=True)
class QuestionColumns:
    """Which columns hold what."""

    question_column: str | None = None
    """Column of the question; guessed where its name is plain."""
    context_column: str | None = None
    """Column of the text that holds the answer; guessed where its name is plain."""
    answers_column: str | None = None
    """Column of lists of answers, with text and start; guessed where its name is plain."""


class Columns(NamedTuple):
    """Those in use."""

    question: str
    context: str
    answers: str


class Answer(NamedTuple):
    """A part of a context: what it says, without white space around it, and its first character."""

    text: str
    start: int


class Question(NamedTuple):
    """A question, its context, and the answers any of which is right: none where the context does not answer it."""

    text: str
    context: str
    answers: tuple[Answer, ...]


def find_columns(table: Table, columns: QuestionColumns) -> Columns:
    """Question, context and answers."""
    taken = [each for each in dataclasses.astuple(columns) if each]
    question = choose_column(table, "question", columns.question_column, QUESTION_COLUMNS, taken)
    answers = choose_column(table, "answers", columns.answers_column, ANSWERS_COLUMNS, [*taken, question])
    context = choose_column(table, "context", columns.context_column, CONTEXT_COLUMNS, [*taken, question, answers])
    return Columns(question, context, answers)


def read_rows(rows: Iterator[Row], problems: Problems, columns: Columns, counts: Counter[str]) -> Iterator[Question]:
    """The questions of a table; rows that are none go to the problems.

    An answer that is not at its place, and stands in its context just once, is taken to be there, and counted as
    `MOVED`. A row with any other that is not in its context is none.
    """
    for row in rows:
        question, context = row.get(columns.question), row.get(columns.context)
        if not isinstance(question, str) or not question.strip():
            problems.add(problems.where, f"no {columns.question}")
        elif not isinstance(context, str) or not context.strip():
            problems.add(problems.where, f"no {columns.context}")
        else:
            answers = _read_answers(row.get(columns.answers), context)
            if isinstance(answers, str):
                problems.add(problems.where, answers)
                continue
            found, moved = answers
            counts[MOVED] += moved
            yield Question(question, context, found)


def read_texts(table: Table, columns: Columns, problems: Problems) -> Iterator[str]:
    """The texts alone, to train a tokenizer on: a context once where questions about it follow one another."""
    before = ""
    for question in read_rows(table.rows(problems), problems, columns, Counter()):
        yield question.text
        if question.context != before:
            before = question.context
            yield before


def _read_answers(value: Any, context: str) -> tuple[tuple[Answer, ...], int] | str:
    """The answers, and how many of them were moved to their place; or what is wrong with them."""
    if isinstance(value, dict):  # Hugging Face's layout: lists side by side
        texts, starts = value.get("text"), value.get("answer_start", value.get("start"))
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            return "answers without as many texts and starts"
        value = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        return "no list of answers"
    found, moved = [], 0
    for each in value:
        text, start = _read_answer(each)
        if not text.strip() or type(start) is not int:
            return "an answer without text and start"
        answer = _find(text, start, context)
        if answer is None:
            return "answers that are not in their context"
        found.append(answer)
        moved += answer.start != start + text.index(answer.text)
    return tuple(found), moved


def _read_answer(value: Any) -> tuple[str, Any]:
    """What it says, or nothing where it is none, and where it is said to begin."""
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        return "", None
    return value["text"], value.get("start", value.get("answer_start"))


def _find(text: str, start: int, context: str) -> Answer | None:
    """The answer at its place, or else at the only one where it stands."""
    said = text.strip()
    if start >= 0 and context.startswith(text, start):
        return Answer(said, start + text.index(said))
    found = context.find(said)
    return Answer(said, found) if found >= 0 and context.find(said, found + 1) < 0 else None
