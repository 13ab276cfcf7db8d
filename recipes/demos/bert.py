"""BERT: pretrained on Python's documentation, then docstrings told apart by the package that they come from; exported,
and held-out docstrings classified by the model and by every artefact alike."""

import csv
from pathlib import Path

from recipes.bert_pretrain import BERTPretrain, train_bert
from recipes.classify_text import ClassifyText, train_classifier
from recipes.data.labelled import Columns
from recipes.data.samples import docstrings_folder, python_documentation_folder
from recipes.demos.journey import Arrival, Journey, artefact_figures, classify_everywhere
from recipes.engine.optimizer import Optimization
from recipes.engine.origin import Origin
from recipes.engine.settings import Training
from recipes.engine.start import start_tensorflow
from recipes.fine_tuning import fine_tuning
from zoo.files import require_free

LENGTH = 64
# Two minutes on two cores that have nothing else to do.
PRETRAINING = Training(
    steps=1500,
    batch_size=32,
    evaluate_every=250,
    optimization=Optimization(optimizer="muon", learning_rate=2e-3, warmup_steps=100, beta_2=0.98),
)


def travel(journey: Journey) -> Arrival:
    """Leaves `pretrained/`, `run/` and `bundle/`."""
    pretrained, run_directory, bundle = (journey.out / name for name in ("pretrained", "run", "bundle"))
    require_free(bundle, journey.force, marker="bundle.json")
    documentation, docstrings = python_documentation_folder(), docstrings_folder()
    origin = Origin(preset="bert-tiny", vocabulary_size=4096, max_length=LENGTH, dropout=0.0, neighbour_blocks=2)
    before = train_bert(
        BERTPretrain(
            data=(documentation,),
            out=pretrained,
            nsp=False,
            mask_rate=0.3,
            origin=origin,
            training=journey.training(PRETRAINING),
            restart=journey.force,
        )
    )
    fine = fine_tuning(epochs=8.0) if journey.steps is None else fine_tuning(epochs=None, steps=journey.steps)
    trained = train_classifier(
        ClassifyText(
            data=docstrings / "train.csv",
            validation_data=docstrings / "test.csv",
            out=run_directory,
            columns=Columns(text_column="docstring", label_column="package"),
            origin=Origin(source=str(pretrained)),
            training=fine,
            restart=journey.force,
        )
    )

    start_tensorflow()
    import zoo
    from export.bundle import export_bundle
    from recipes.command.reporting import report_table, tell

    model = zoo.load(run_directory)
    texts, packages = _read(docstrings / "test.csv")
    report = export_bundle(model, bundle, texts=texts, force=journey.force, progress=tell)
    tell(f"classifying {len(texts)} docstrings with the Keras model and each artefact")
    inputs = model.tokenizer.prepare(texts, max_length=model.config.max_length)
    accuracies, agree = classify_everywhere(model, bundle, inputs, packages)
    largest, words = _baselines(docstrings)
    result = {
        "masked_accuracy": before["validation_masked_accuracy"],
        "accuracy": trained["validation_accuracy"],
        "accuracies": accuracies,
        "agree": agree,
        "largest_class": largest,
        "tfidf_accuracy": words,
        "artefacts": artefact_figures(report),
        "paths": {
            "pretrained": str(pretrained),
            "run": str(run_directory),
            "model": str(run_directory / "model"),
            "bundle": str(bundle),
        },
    }
    shown = [
        f"pretrained to predict {before['validation_masked_accuracy']:.1%} of the masked tokens",
        report_table(report),
        f"accuracy on {len(texts)} held-out docstrings of {len(model.labels or ())} packages:",
        *(f"  {name:12}{accuracy:.4f}" for name, accuracy in accuracies.items()),
        f"  beside it: always the largest package {largest:.4f}, TF-IDF with logistic regression {words:.4f}",
        f"\n{'the same answers from all' if agree else 'DIFFERENT answers'}\n",
    ]
    return Arrival(report.passed and agree, result, shown)


def _read(table: Path) -> tuple[list[str], list[str]]:
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["docstring"] for row in rows], [row["package"] for row in rows]


def _baselines(folder: Path) -> tuple[float, float]:
    """The accuracy of the most frequent package, and of logistic regression over TF-IDF of the words."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    (texts, packages), (held_out, right) = _read(folder / "train.csv"), _read(folder / "test.csv")
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    regression = LogisticRegression(C=10.0, max_iter=1000).fit(vectorizer.fit_transform(texts), packages)
    most = max(set(packages), key=packages.count)
    return right.count(most) / len(right), float(regression.score(vectorizer.transform(held_out), right))
