"""Two processes on this machine, by MultiWorkerMirroredStrategy, end with the weights of one device, in plain `fit`."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.training.cases import FAMILIES, Result, assert_equal, train

ROOT = Path(__file__).parents[3]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def train_on_two_workers(tmp_path_factory) -> Callable[..., dict[str, list[Result]]]:
    """Trains families on two workers; gives what each of the two ended with."""

    def run(families: tuple[str, ...], accumulate: int) -> dict[str, list[Result]]:
        folder = tmp_path_factory.mktemp("workers")
        addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
        workers = []
        for place in range(2):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": place}}
            command = [
                sys.executable,
                "-m",
                "tests.zoo.training.worker",
                ",".join(families),
                str(accumulate),
                str(folder),
            ]
            environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
            with (folder / f"{place}.log").open("w") as log:
                workers.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log))
        try:
            for place, worker in enumerate(workers):
                assert worker.wait(300) == 0, (folder / f"{place}.log").read_text()[-2000:]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return {
            family: [
                (
                    dict(np.load(folder / f"{family}-{place}.npz")),
                    json.loads((folder / f"{family}-{place}.json").read_text()),
                )
                for place in range(2)
            ]
            for family in families
        }

    return run


def check(results: dict[str, list[Result]]) -> None:
    for family, workers in results.items():
        expected = train(family, tf.distribute.get_strategy())
        for result in workers:
            assert_equal(result, expected)
        for name, value in workers[0][0].items():
            np.testing.assert_array_equal(workers[1][0][name], value)


@pytest.mark.full  # two processes; two replicas are in the quick tier
def test_two_workers_equal_one_device(train_on_two_workers) -> None:
    check(train_on_two_workers(("gpt",), 1))


@pytest.mark.full
def test_two_workers_equal_one_device_for_every_family(train_on_two_workers) -> None:
    check(train_on_two_workers(tuple(FAMILIES), 1))


@pytest.mark.full
def test_micro_batches_on_two_workers_equal_the_batch(train_on_two_workers) -> None:
    check(train_on_two_workers(tuple(FAMILIES), 4))
