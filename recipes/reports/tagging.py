"""How a tagger did: precision, recall and F1 of entities, and sentences in which they are marked."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipes.engine.job import Figures
from recipes.reports.markdown import escape
from zoo.files import write_text
from zoo.text.entities import Entity

MOST_SENTENCES = 50
LONGEST_GAP = 160  # characters without an entity that are shown
PAGE = "tagged.md"


@dataclasses.dataclass(frozen=True)
class Score:
    """How many entities are right, of those that are said and of those that there are."""

    correct: int
    said: int
    there: int

    @property
    def precision(self) -> float:
        return self.correct / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        return self.correct / self.there if self.there else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.correct / (self.said + self.there) if self.said + self.there else 0.0


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of all entities together, and of each type by name."""

    overall: Score
    of_types: dict[str, Score]

    @property
    def figures(self) -> Figures:
        """Micro-averages over all types."""
        return {
            "entity_precision": self.overall.precision,
            "entity_recall": self.overall.recall,
            "entity_f1": self.overall.f1,
        }


def score_entities(right: Sequence[Sequence[Entity]], said: Sequence[Sequence[Entity]]) -> Scores:
    """Count by `nervaluate`, with its strict scheme, what the CoNLL-2003 shared task counts (Tjong Kim Sang and De
    Meulder 2003, section 2.3): an entity is right where its first word, its last and its type are.

    Args:
        right: what there is in each sentence, without overlaps.
        said: what is said of each, without overlaps.
    """
    from nervaluate import Evaluator

    types = sorted({entity.label for entities in (*right, *said) for entity in entities})
    results = Evaluator(_plain(right), _plain(said), tags=types, loader="dict").evaluate()
    return Scores(
        _score(results["overall"]["strict"]), {name: _score(results["entities"][name]["strict"]) for name in types}
    )


def _plain(sentences: Sequence[Sequence[Entity]]) -> list[list[dict[str, Any]]]:
    """As nervaluate takes them: the end is the last character, so that neighbours do not overlap."""
    return [
        [{"label": entity.label, "start": entity.start, "end": entity.end - 1} for entity in entities]
        for entities in sentences
    ]


def _score(result: Any) -> Score:
    return Score(result.correct, result.actual, result.possible)


def write_tagging(
    run: Path, right: Sequence[Sequence[Entity]], said: Sequence[Sequence[Entity]], text: Callable[[int], str]
) -> list[str]:
    """Write `tagged.md`.

    Args:
        run: the run directory.
        right, said: as for `score_entities`.
        text: of a sentence.

    Returns:
        Markdown that shows it.
    """
    scores = score_entities(right, said)
    rows = [_row("all", scores.overall), *(_row(escape(name), score) for name, score in scores.of_types.items())]
    table = [
        "| type | precision | recall | F1 | right | said | there |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    table += rows
    mistakes = [len(set(there) ^ set(found)) for there, found in zip(right, said, strict=True)]
    telling = [place for place in range(len(right)) if right[place] or said[place]]
    worst = sorted(telling, key=lambda place: -mistakes[place])[:MOST_SENTENCES]
    lines = [
        "# Entities",
        "",
        *table,
        "",
        f"The {len(worst)} sentences with the most mistakes: **right** [TYPE], *missed* [TYPE], ~~wrong~~ [TYPE], in "
        "parentheses where it stands for a part of what was missed.",
        "",
        *(f"{number}. {mark(text(place), right[place], said[place])}" for number, place in enumerate(worst, 1)),
    ]
    write_text(run / PAGE, "\n".join(lines) + "\n")
    return [*table, "", f"[Sentences with the most mistakes]({PAGE}), their entities marked."]


def mark(text: str, right: Sequence[Entity], said: Sequence[Entity]) -> str:
    """A sentence in Markdown, with what is right, missed and wrong: see the legend in `write_tagging`."""
    wrong = [entity for entity in said if entity not in right]
    marks: list[tuple[Entity, str]] = []
    for entity in right:
        instead = [each for each in wrong if each.start < entity.end and entity.start < each.end]
        wrong = [each for each in wrong if each not in instead]
        marked = _mark(text, entity, "**" if entity in said else "*")
        marks.append((entity, marked + "".join(f" ({_mark(text, each, '~~')})" for each in instead)))
    marks += [(entity, _mark(text, entity, "~~")) for entity in wrong]
    parts: list[str] = []
    at = 0
    for entity, marked in sorted(marks):
        parts += [_gap(text[at : entity.start]), marked]
        at = entity.end
    return " ".join(part for part in (*parts, _gap(text[at:])) if part)


def _mark(text: str, entity: Entity, sign: str) -> str:
    return f"{sign}{escape(text[entity.start : entity.end])}{sign} \\[{escape(entity.label)}\\]"


def _gap(text: str) -> str:
    half = LONGEST_GAP // 2
    return escape(text if len(text) <= LONGEST_GAP else f"{text[:half]} … {text[-half:]}")


def _row(name: str, score: Score) -> str:
    shares = f"{score.precision:.4f} | {score.recall:.4f} | {score.f1:.4f}"
    return f"| {name} | {shares} | {score.correct:,} | {score.said:,} | {score.there:,} |"
