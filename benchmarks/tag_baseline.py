"""The baseline of tag-text: the entities of the training data as a dictionary.

    python -m benchmarks.tag_baseline --train train.conll --test test.conll [--lowercase]

From left to right, the longest entity of the dictionary that begins at a word is taken, with the label that it most
often has in training; of labels that are as frequent, the one that is first by name. The baseline of the CoNLL-2003
shared task (Tjong Kim Sang and De Meulder 2003, section 2.5) is the same, but that it leaves out what has several
labels. Files, columns and scores are those of `zoo train tag-text`.
"""

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from recipes.data.problems import Problems
from recipes.data.sentences import Sentence, TagColumns, find_layout, read_sentences
from recipes.data.tables import open_table
from recipes.reports.tagging import score_entities
from zoo.text.entities import Entity, join_labels, label_words

WORD = re.compile(r"\w+|[^\w\s]")  # of a text that comes without words

Words = tuple[str, ...]


def read(path: Path) -> Iterator[tuple[Sentence, list[tuple[int, int]], list[Entity]]]:
    """The sentences of a table, the characters of their words, and their entities."""
    table = open_table(path)
    problems = Problems()
    for sentence in read_sentences(table.rows(problems), problems, find_layout(table, TagColumns())):
        words = sentence.words or [match.span() for match in WORD.finditer(sentence.text)]
        labels = sentence.tags if sentence.words else label_words(sentence.entities, words)
        yield sentence, words, join_labels(labels, words)


class Dictionary:
    """Entities by their words, each with its label.

    Args:
        path: the table that they are taken from.
        lowercase: case tells nothing.
    """

    def __init__(self, path: Path, lowercase: bool) -> None:
        self.lowercase = lowercase
        counts: dict[Words, Counter[str]] = defaultdict(Counter)
        for sentence, words, entities in read(path):
            for entity in entities:
                inside = [word for word in words if entity.start <= word[0] and word[1] <= entity.end]
                counts[self._key(sentence.text, inside)][entity.label] += 1
        self.labels = {key: min(found, key=lambda label: (-found[label], label)) for key, found in counts.items()}
        self.longest = max(map(len, self.labels), default=0)

    def find(self, text: str, words: list[tuple[int, int]]) -> list[Entity]:
        """The entities of a sentence, none of which overlap."""
        found: list[Entity] = []
        place = 0
        while place < len(words):
            for count in range(min(self.longest, len(words) - place), 0, -1):
                part = words[place : place + count]
                label = self.labels.get(self._key(text, part))
                if label is not None:
                    found.append(Entity(part[0][0], part[-1][1], label))
                    place += count
                    break
            else:
                place += 1
        return found

    def _key(self, text: str, words: list[tuple[int, int]]) -> Words:
        return tuple((text[start:end].lower() if self.lowercase else text[start:end]) for start, end in words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--lowercase", action="store_true", help="case tells nothing")
    settings = parser.parse_args()
    dictionary = Dictionary(settings.train, settings.lowercase)
    right, said = [], []
    for sentence, words, entities in read(settings.test):
        right.append(entities)
        said.append(dictionary.find(sentence.text, words))
    scores = score_entities(right, said)
    figures = {name: round(value, 4) for name, value in scores.figures.items()}
    of_types = {name: round(score.f1, 4) for name, score in scores.of_types.items()}
    print(json.dumps({"entities": len(dictionary.labels), "sentences": len(right), **figures, "f1_of_types": of_types}))


if __name__ == "__main__":
    main()
