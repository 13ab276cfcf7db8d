"""How a model that answers questions did: the two measures of SQuAD, and answers beside the right ones."""

from collections.abc import Sequence
from pathlib import Path

from recipes.answers import exact_match, f1
from recipes.data.questions import Question
from recipes.engine.job import Figures
from recipes.reports.markdown import escape, shorten
from zoo.files import write_text
from zoo.text.windows import Span

MOST_QUESTIONS = 50
AROUND = 160  # characters of a context on either side of an answer
PAGE = "answers.md"
NONE = "(no answer)"


def answer_figures(questions: Sequence[Question], said: Sequence[Span]) -> Figures:
    """The means of exact match and of F1 over the questions, each for the right answer for which it is highest.

    Args:
        questions: with the right answers.
        said: a part of the context of each.
    """
    measured = [_measure(question, span) for question, span in zip(questions, said, strict=True)]
    exact, overlap = (sum(each) / len(measured) for each in zip(*measured, strict=True))
    return {"exact_match": exact, "f1": overlap}


def _measure(question: Question, span: Span) -> tuple[float, float]:
    answer, right = question.context[span.start : span.end], [each.text for each in question.answers]
    return exact_match(answer, right), f1(answer, right)


def write_answering(run: Path, questions: Sequence[Question], said: Sequence[Span]) -> list[str]:
    """Write `answers.md`.

    Args:
        run: the run directory.
        questions, said: as for `answer_figures`.

    Returns:
        Markdown that shows it.
    """
    measured = [_measure(question, span) for question, span in zip(questions, said, strict=True)]
    wrong = sum(not exact for exact, _ in measured)
    # The worst are those that are quite wrong, and of these the ones that the model was surest of.
    worst = sorted(range(len(said)), key=lambda place: (measured[place][1], -said[place].score))[:MOST_QUESTIONS]
    lines = [
        "# Answers",
        "",
        f"{wrong:,} of {len(said):,} are not quite right. Here are {len(worst)}, the worst first; in the contexts what "
        "is right is **bold**, or what was said where there is no answer.",
    ]
    for place in worst:
        lines += ["", *_entry(questions[place], said[place], measured[place][1])]
    write_text(run / PAGE, "\n".join(lines) + "\n")
    return [f"{wrong:,} of {len(said):,} held-out answers are not quite right: [the worst]({PAGE})."]


def _entry(question: Question, span: Span, overlap: float) -> list[str]:
    answer = question.context[span.start : span.end]
    right = dict.fromkeys(each.text for each in question.answers)
    start, end = span.start, span.end
    if question.answers:
        start = question.answers[0].start
        end = start + len(question.answers[0].text)
    return [
        f"## {escape(shorten(question.text))}",
        "",
        f"- it said: {escape(shorten(answer)) or NONE} (F1 {overlap:.2f}, probability {span.score:.2f})",
        f"- right: {'; '.join(escape(shorten(each)) for each in right) or NONE}",
        "",
        f"> {_show(question.context, start, end)}",
    ]


def _show(context: str, start: int, end: int) -> str:
    """The context about a part of it, which is bold."""
    before, part, after = context[max(0, start - AROUND) : start], context[start:end], context[end : end + AROUND]
    bold = f"**{escape(shorten(part))}**" if part.strip() else ""
    sides = ("…" if start > AROUND else "", "…" if len(context) > end + AROUND else "")
    return " ".join(each for each in (sides[0] + escape(before), bold, escape(after) + sides[1]) if each)
