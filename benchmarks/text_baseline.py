"""The baseline of classify-text: logistic regression over TF-IDF of words and pairs of words (scikit-learn).

    python benchmarks/text_baseline.py --train train.csv --test test.csv --text text --label category \
        [--examples-per-class 10] [--seed 0]

The rows of `--examples-per-class` are those that `zoo train classify-text` takes for the same seed.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression


def read(path: Path, text: str, label: str) -> tuple[list[str], list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row[text] for row in rows], [row[label] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--examples-per-class", type=int)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    texts, labels = read(settings.train, settings.text, settings.label)
    if settings.examples_per_class:
        draw, names = np.random.default_rng(settings.seed), np.array(labels)
        chosen = [
            draw.permutation(np.flatnonzero(names == name))[: settings.examples_per_class]
            for name in sorted(set(labels))
        ]
        places = np.sort(np.concatenate(chosen))
        texts, labels = [texts[place] for place in places], [labels[place] for place in places]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    regression = LogisticRegression(C=10.0, max_iter=2000).fit(vectorizer.fit_transform(texts), labels)
    held_out, right = read(settings.test, settings.text, settings.label)
    accuracy = float(regression.score(vectorizer.transform(held_out), right))
    print(json.dumps({"rows": len(texts), "accuracy": round(accuracy, 4)}))


if __name__ == "__main__":
    main()
