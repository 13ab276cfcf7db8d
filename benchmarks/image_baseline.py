"""The baselines of vit-pretrain and classify-image: logistic regression and the nearest neighbours, on pixels
(scikit-learn).

    python -m benchmarks.image_baseline --train FOLDER --test FOLDER [--examples-per-class 500] [--seed 0]

Folders of label/name.jpg with images of one size. The images of `--examples-per-class` are drawn as the recipes
draw them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recipes.data.classes import few
from recipes.data.labelled_images import read_labelled
from recipes.data.tables import open_table

NEIGHBOURS = 10


def read(folder: Path, most: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, (images, values) float32, and classes, (images,) int32."""
    data = read_labelled(open_table(folder), ("image", "label"))
    data = data if most is None else few(data, most, seed)
    return np.stack([data.read(place).ravel() for place in range(len(data))]).astype(np.float32) / 255, data.targets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--examples-per-class", type=int)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    pixels, labels = read(settings.train, settings.examples_per_class, settings.seed)
    held_out, right = read(settings.test, None, settings.seed)
    baselines = {
        "logistic_regression": make_pipeline(StandardScaler(), LogisticRegression(C=1e-3, max_iter=300)),
        "nearest_neighbours": KNeighborsClassifier(NEIGHBOURS),
    }
    accuracies = {
        name: round(float(each.fit(pixels, labels).score(held_out, right)), 4) for name, each in baselines.items()
    }
    print(json.dumps({"images": len(pixels), **accuracies}))


if __name__ == "__main__":
    main()
