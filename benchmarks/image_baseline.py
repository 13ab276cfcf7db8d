"""The baselines of vit-pretrain and classify-image: logistic regression and the nearest neighbours, on pixels
(scikit-learn).

    python -m benchmarks.image_baseline --train FOLDER --test FOLDER [--examples-per-class 500] [--seed 0]

Folders of label/name.jpg with images of one size. The images of `--examples-per-class` are drawn by the seed.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from recipes.data.folders import find_images
from zoo.image import read_image

NEIGHBOURS = 10


def read(folder: Path, most: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, (images, values) float32, and labels."""
    paths = find_images(folder)
    labels = np.array([path.parent.name for path in paths])
    if most is not None:
        draw = np.random.default_rng(seed)
        chosen = [draw.permutation(np.flatnonzero(labels == label))[:most] for label in sorted(set(labels))]
        places = np.sort(np.concatenate(chosen))
        paths, labels = [paths[place] for place in places], labels[places]
    return np.stack([read_image(path).ravel() for path in paths]).astype(np.float32) / 255, labels


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
