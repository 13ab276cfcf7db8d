"""One of several workers on this machine, started by `workers.py`: trains a family, and leaves the result in a file.

python -m tests.zoo.training.worker FAMILY ACCUMULATE RESULT
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.zoo.training import cases


def main(families: str, accumulate: str, folder: str) -> None:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    for family in families.split(","):
        weights, history = cases.train(family, strategy, accumulate=int(accumulate))
        place = strategy.cluster_resolver.task_id
        np.savez(Path(folder) / f"{family}-{place}.npz", **weights)
        (Path(folder) / f"{family}-{place}.json").write_text(json.dumps(history))


if __name__ == "__main__":
    main(*sys.argv[1:])
