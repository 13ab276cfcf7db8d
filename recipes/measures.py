"""How well a model does on held-out examples of its task: what it says of them, the figures of that, and pages to look
at. The same for the evaluations of a run, for its report, and for `zoo eval`."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from recipes.data.answered import AnsweredQuestions, WindowSource
from recipes.data.classes import Classified
from recipes.data.completions import CompletionSource
from recipes.data.grouping import GroupedBatches, Source
from recipes.data.pairs import PairSource, TextPairs
from recipes.data.sequences import MaskedSequences
from recipes.data.tagged import TaggedTexts, TagSource
from recipes.engine.job import Figures
from zoo.text import Tokenizer
from zoo.text.entities import Entity
from zoo.text.windows import Span, best_spans

if TYPE_CHECKING:
    from recipes.data.labelled_images import LabelledImages


class Measure(Protocol):
    """A measure of models by held-out examples.

    Attributes:
        batches: the examples.
    """

    batches: GroupedBatches

    def judge(self, model: Any) -> Any:
        """What a model says of each example."""

    def figures(self, said: Any) -> Figures:
        """How much of it is right."""

    def write(self, said: Any, run: Path) -> list[str]:
        """Write pages that show it to the directory `run`; lines of Markdown that lead to them."""


def evaluation_by(measure: Measure) -> Callable[[Any], Callable[[], Figures]]:
    """What a `Job` measures its model by after each interval."""

    def make_evaluation(model: Any) -> Callable[[], Figures]:
        return lambda: {f"validation_{name}": value for name, value in measure.figures(measure.judge(model)).items()}

    return make_evaluation


class MaskedTokens(Measure):
    """How well masked tokens are found, and told which segments follow.

    Args:
        source: the sequences, masked each time alike.
        batch_size: sequences at a time; which of their tokens are masked hangs on it.
    """

    NAMES: ClassVar[dict[str, str]] = {"logits": "masked", "next_sentence": "successor"}

    def __init__(self, source: MaskedSequences, batch_size: int) -> None:
        self.batches = GroupedBatches(source, batch_size, None)

    def judge(self, model: Any) -> dict[str, tuple[float, float]]:
        """Of each output the share that is right, and the mean loss in nats."""
        from recipes.engine.outputs import each_output

        sums = {name: np.zeros(3) for name in model.output_names}
        for _, (_, labels, weights), outputs in each_output(model, self.batches):
            for name, total in sums.items():
                logits, label, weight = outputs[name], labels[name], weights[name]
                highest = logits.max(axis=-1)
                log_sum = highest + np.log(np.exp(logits - highest[..., None]).sum(axis=-1))
                loss = log_sum - np.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
                right = logits.argmax(axis=-1) == label
                total += [(right * weight).sum(), (loss * weight).sum(), weight.sum()]
        return {name: (total[0] / total[2], total[1] / total[2]) for name, total in sums.items()}

    def figures(self, said: dict[str, tuple[float, float]]) -> Figures:
        figures: Figures = {}
        for name, (right, loss) in said.items():
            figures |= {f"{self.NAMES[name]}_accuracy": float(right), f"{self.NAMES[name]}_loss": float(loss)}
        return figures

    def write(self, said: dict[str, tuple[float, float]], run: Path) -> list[str]:
        return []


class Classification(Measure):
    """Accuracy and macro F1 of classes, of texts or of images.

    Args:
        data: the rows.
        source: batches of them.
        batch_size: rows at a time; it does not change the result.
    """

    def __init__(self, data: Classified, source: Source, batch_size: int) -> None:
        self.data = data
        self.batches = GroupedBatches(source, batch_size, None)

    def judge(self, model: Any) -> np.ndarray:
        """The probabilities of the classes, (rows, classes) float32."""
        from recipes.engine.outputs import each_output
        from zoo.prediction import softmax

        probabilities = np.empty((len(self.data), len(self.data.labels)), np.float32)
        for step, _, outputs in each_output(model, self.batches):
            probabilities[self.batches.rows(step)] = softmax(outputs["logits"])
        return probabilities

    def figures(self, said: np.ndarray) -> Figures:
        from recipes.reports.classification import classification_figures

        return classification_figures(self.data.targets, said)

    def write(self, said: np.ndarray, run: Path) -> list[str]:
        from recipes.reports.classification import write_classification

        return write_classification(run, self.data.targets, said, self.data.labels, self.data.text)


class ImageClassification(Classification):
    """The same of images, which are shown."""

    data: "LabelledImages"

    def write(self, said: np.ndarray, run: Path) -> list[str]:
        from recipes.reports.images import write_predictions

        lines = super().write(said, run)
        return [*lines, "", *write_predictions(run, self.data.targets, said, self.data.labels, self.data.read)]


class Tagging(Measure):
    """Precision, recall and F1 of entities.

    Args:
        data: the sentences.
        tokenizer: that encoded them.
        length: the most tokens of a sentence that are read. The words beyond are taken for "O".
        batch_size: sentences at a time; it does not change the result.
    """

    def __init__(self, data: TaggedTexts, tokenizer: Tokenizer, length: int, batch_size: int) -> None:
        self.data, self.source = data, TagSource(data, tokenizer, length)
        self.batches = GroupedBatches(self.source, batch_size, None)
        self.right = [data.entities(place) for place in range(len(data))]

    def judge(self, model: Any) -> list[list[Entity]]:
        """The entities of each sentence."""
        from recipes.engine.outputs import each_output

        said: list[list[Entity]] = [[] for _ in range(len(self.data))]
        for step, _, outputs in each_output(model, self.batches):
            best = outputs["logits"].argmax(axis=-1)  # (rows, tokens)
            for place, classes in zip(self.batches.rows(step), best, strict=True):
                labels = [model.labels[number] for number in self.source.of_pieces(classes)]
                said[place] = self.data.read_labels(int(place), labels)
        return said

    def figures(self, said: list[list[Entity]]) -> Figures:
        from recipes.reports.tagging import score_entities

        return score_entities(self.right, said).figures

    def write(self, said: list[list[Entity]], run: Path) -> list[str]:
        from recipes.reports.tagging import write_tagging

        return write_tagging(run, self.right, said, self.data.text)


class Answering(Measure):
    """Exact match and F1 of answers.

    Args:
        data: the questions.
        tokenizer: that encoded them.
        length: the most tokens of a window.
        batch_size: windows at a time; it does not change the result.
        null: the model may say that a question has no answer.
    """

    def __init__(self, data: AnsweredQuestions, tokenizer: Tokenizer, length: int, batch_size: int, null: bool) -> None:
        self.data, self.null, self.source = data, null, WindowSource(data, tokenizer, length)
        self.batches = GroupedBatches(self.source, batch_size, None)

    def judge(self, model: Any) -> list[Span]:
        """The likeliest answer to each question, in all windows of its context together."""
        from recipes.engine.outputs import each_output

        lengths = self.source.lengths(0)
        logits: list[Any] = [None] * len(lengths)  # (2, tokens) of each window
        for step, _, outputs in each_output(model, self.batches):
            both = np.stack([outputs["start_logits"], outputs["end_logits"]], axis=1)
            for row, found in zip(self.batches.rows(step), both, strict=True):
                logits[row] = found[:, : lengths[row]]
        said = []
        for place in range(len(self.data)):
            rows = self.source.rows_of(place)
            width = int(lengths[rows.start : rows.stop].max())
            padded = [np.pad(logits[row], ((0, 0), (0, width - lengths[row]))) for row in rows]
            starts, ends = np.stack(padded, axis=1)
            said += best_spans(self.source.tokens(rows, width), starts, ends, null=self.null)
        return said

    def figures(self, said: list[Span]) -> Figures:
        from recipes.reports.answering import answer_figures

        return answer_figures([self.data.question(place) for place in range(len(self.data))], said)

    def write(self, said: list[Span], run: Path) -> list[str]:
        from recipes.reports.answering import write_answering

        return write_answering(run, [self.data.question(place) for place in range(len(self.data))], said)


class Retrieval(Measure):
    """Recall at 1 and 10 and mean reciprocal rank of the text that belongs to another, among all that are held out.

    Args:
        data: the pairs. Where a text has none it is to be found by every other token of it.
        tokenizer, length, batch_size: as for `Tagging`.
    """

    def __init__(self, data: TextPairs, tokenizer: Tokenizer, length: int, batch_size: int) -> None:
        self.data, self.source = data, PairSource(data, tokenizer, length, thinned=True)
        self.batches = GroupedBatches(self.source, batch_size, None)
        self._objective: Any = None

    def judge(self, model: Any) -> tuple[np.ndarray, np.ndarray]:
        """The vectors of both texts of each row, each (rows, width) float32, of length 1."""
        from recipes.engine.outputs import each_output
        from zoo.objectives import PairContrast

        if self._objective is None or self._objective.model is not model:
            self._objective = PairContrast(model)  # the same at each evaluation, to be traced once
        vectors = np.empty((2, len(self.data), model.config.width), np.float32)
        for step, _, outputs in each_output(self._objective, self.batches):
            vectors[:, self.batches.rows(step)] = [outputs[name] for name in self._objective.output_names]
        return vectors[0], vectors[1]

    def figures(self, said: tuple[np.ndarray, np.ndarray]) -> Figures:
        from recipes.reports.retrieval import partner_ranks, retrieval_figures

        return retrieval_figures(partner_ranks(*said, self.source.numbers))

    def write(self, said: tuple[np.ndarray, np.ndarray], run: Path) -> list[str]:
        from recipes.reports.retrieval import write_neighbours

        return write_neighbours(run, *said, self.source.numbers, self.data.texts)


class Completion(Measure):
    """Loss and perplexity of completions of prompts, and how many of them the model says word for word.

    Args:
        source: the rows.
        batch_size: rows at a time; it does not change the result.
        most: how many prompts the model completes, evenly spaced: a table may be sorted; 0 for none.

    Attributes:
        places: the rows of these.
    """

    def __init__(self, source: CompletionSource, batch_size: int, most: int) -> None:
        count = min(most, len(source.data))
        self.source, self.batches = source, GroupedBatches(source, batch_size, None)
        self.places = [place * len(source.data) // count for place in range(count)]
        self._longest = len(source.separator) + int(source.data.counts()[1][self.places].max(initial=0))
        self._completer: Any = None

    def judge(self, model: Any) -> tuple[float, list[str]]:
        """The mean loss of the tokens to predict, in nats, and what the model says to each prompt of `places`."""
        said = self.complete(model, len(self.places))
        return self._completer_of(model).mean_loss(self.batches), said

    def complete(self, model: Any, count: int) -> list[str]:
        """What the model says to the first `count` prompts of `places`, by the likeliest token each time, until the
        text ends or is longer than every right one; without the separator before it."""
        prompts = [self.source.data.ids(place)[0] for place in self.places[:count]]
        said = self._completer_of(model).complete(prompts, self._longest, self.batches.batch_size)
        return [text.removeprefix(self.source.separator_text) for text in said]

    def figures(self, said: tuple[float, list[str]]) -> Figures:
        from recipes.reports.completion import completion_figures

        loss, texts = said
        return completion_figures(loss, [right for _, right in self._rows()], texts)

    def write(self, said: tuple[float, list[str]], run: Path) -> list[str]:
        from recipes.reports.completion import write_completions

        return write_completions(run, self._rows(), said[1])

    def _rows(self) -> list[tuple[str, str]]:
        return [self.source.data.texts(place) for place in self.places]

    def _completer_of(self, model: Any) -> Any:
        """The same at each evaluation, to be traced once."""
        from recipes.evaluation import Completer

        if self._completer is None or self._completer.model is not model:
            self._completer = Completer(model)
        return self._completer
