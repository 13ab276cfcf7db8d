"""Finding the workers of a run by what started it, and starting some on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import tensorflow as tf

from recipes.engine import cluster
from recipes.engine.cluster import counts_several_workers, find_cluster, is_first
from recipes.engine.strategy import make_strategy
from zoo.errors import UserError

TWO = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 1}}


@pytest.fixture(autouse=True)
def _alone(monkeypatch) -> None:
    for name in list(os.environ):
        if name.startswith("SLURM_") or name in ("TF_CONFIG", "TPU_NAME", "POD_IP", "ZOO_WORKERS"):
            monkeypatch.delenv(name)


def test_tf_config(monkeypatch) -> None:
    assert not counts_several_workers()
    monkeypatch.setenv("TF_CONFIG", json.dumps(TWO))
    assert counts_several_workers()
    for name in ("auto", "tf_config"):
        found = find_cluster(name)
        assert (found.task_type, found.task_id) == ("worker", 1)
        assert found.cluster_spec().as_dict() == TWO["cluster"]
    alone = {"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(alone))
    assert not counts_several_workers()


@pytest.mark.parametrize(
    ("jobs", "task", "index", "first"),
    [
        (["worker"], "worker", 0, True),
        (["worker"], "worker", 1, False),
        (["chief", "worker"], "chief", 0, True),
        (["chief", "worker"], "worker", 0, False),
    ],
)
def test_one_process_alone_writes(monkeypatch, jobs: list[str], task: str, index: int, first: bool) -> None:
    spec = {"cluster": {job: ["a:1", "b:2"] for job in jobs}, "task": {"type": task, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(spec))
    assert is_first(find_cluster("auto")) is first
    assert is_first(None)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": {}}', '{"cluster": {"worker": []}, "task": {"index": "x"}}'])
def test_a_wrong_tf_config_is_told(monkeypatch, text: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=r'TF_CONFIG is not what it should be .* it reads {"cluster": {"worker": '):
        find_cluster("auto")


def test_slurm(monkeypatch) -> None:
    """As srun sets its variables for the fourth of five tasks on three nodes."""
    for name, value in {
        "PROCID": "3",
        "STEP_NUM_TASKS": "5",
        "STEP_NODELIST": "node[07-09]",
        "STEP_TASKS_PER_NODE": "2(x2),1",
        "JOB_ID": "20042",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert counts_several_workers()
    found = find_cluster("auto")
    hosts = ["node07:10042", "node07:10043", "node08:10042", "node08:10043", "node09:10042"]
    assert found.cluster_spec().as_dict() == {"worker": hosts}
    assert (found.task_type, found.task_id) == ("worker", 3)
    monkeypatch.delenv("SLURM_STEP_NODELIST")
    with pytest.raises(UserError, match=r"Slurm's variables do not tell the workers .*: start with srun"):
        find_cluster("slurm")


def test_kubernetes(monkeypatch) -> None:
    """Pods come in any order, and one after the other; this one is the second by address."""

    def pod(address: str, phase: str = "Running") -> object:
        status = types.SimpleNamespace(phase=phase, host_ip=address, pod_ip=address)
        return types.SimpleNamespace(status=status, metadata=types.SimpleNamespace(name=address))

    listings = [
        [pod("10.0.0.3"), pod("10.0.0.2", "Pending")],
        [pod("10.0.0.3"), pod("10.0.0.2")],
        [pod("10.0.0.3"), pod("10.0.0.2"), pod("10.0.0.1")],
    ]
    asked = []

    class Client:
        def list_pod_for_all_namespaces(self, label_selector: str) -> object:
            asked.append(label_selector)
            return types.SimpleNamespace(items=listings[min(len(asked), len(listings)) - 1])

    package = types.ModuleType("kubernetes")
    package.client = types.SimpleNamespace(CoreV1Api=Client)
    package.config = types.SimpleNamespace(load_incluster_config=lambda: None)
    monkeypatch.setitem(sys.modules, "kubernetes", package)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("POD_IP", "10.0.0.2")
    monkeypatch.setenv("ZOO_WORKERS", "3")
    found = find_cluster("kubernetes:job-name=train")
    assert found.cluster_spec().as_dict() == {"worker": ["10.0.0.1:8470", "10.0.0.2:8470", "10.0.0.3:8470"]}
    assert (found.task_type, found.task_id) == ("worker", 1)
    assert asked == ["job-name=train"] * 3
    monkeypatch.setenv("ZOO_WORKERS", "4")
    monkeypatch.setattr(cluster, "SECONDS_FOR_PODS", 0.0)
    with pytest.raises(UserError, match=r"this one is 10.0.0.2, and ZOO_WORKERS asks for 4"):
        find_cluster("kubernetes:job-name=train")


def test_what_cannot_be_found_is_told() -> None:
    with pytest.raises(UserError, match="--strategy multiworker needs TF_CONFIG, or srun, or --cluster kubernetes"):
        make_strategy("multiworker", 8)
    with pytest.raises(UserError, match="TF_CONFIG is not set: it lists all workers"):
        find_cluster("tf_config")
    with pytest.raises(
        UserError, match="--cluster is 'nomad', and must be auto, tf_config, slurm or kubernetes:LABELS"
    ):
        find_cluster("nomad")
    with pytest.raises(UserError, match="--strategy tpu finds no TPU"):
        make_strategy("tpu", 8)


def test_one_device_and_several(two_replicas) -> None:
    assert make_strategy("auto", 3) is tf.distribute.get_strategy()
    assert make_strategy("mirrored", 4).num_replicas_in_sync == 2
    with pytest.raises(UserError, match=r"--batch-size is 3, and must be a multiple of the number of replicas, 2$"):
        make_strategy("mirrored", 3)
    with pytest.raises(UserError, match=r"a multiple of the number of replicas, 2 times --accumulate, 8$"):
        make_strategy("mirrored", 4, accumulate=4)


def zoo(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "recipes.command", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0", "--", "train"], "--workers is 0, and must be from 1 to 64"),
        (["--workers", "2"], "zoo launch takes a command after --"),
        (["--", "list"], "zoo launch takes a command after --"),
    ],
)
def test_a_wrong_launch_is_told(arguments: list[str], message: str) -> None:
    worker = zoo("launch", *arguments)
    _, errors = worker.communicate(timeout=60)
    assert worker.returncode == 2
    assert errors.startswith("zoo: ") and message in errors and errors.count("\n") == 1


def test_workers_share_the_exit_code_of_one_that_fails() -> None:
    launch = zoo("launch", "--workers", "2", "--", "train", "no-such-recipe")
    _, errors = launch.communicate(timeout=60)
    assert launch.returncode == 2
    assert "unknown recipe 'no-such-recipe'" in errors


def test_a_signal_ends_all_workers(tmp_path) -> None:
    """While they start: nothing of theirs handles it yet."""
    text = tmp_path / "text.txt"
    text.write_text("a text\n" * 100)
    launch = zoo("launch", "--", "train", "gpt-pretrain", "--data", str(text), "--out", str(tmp_path / "run"))
    children = Path(f"/proc/{launch.pid}/task/{launch.pid}/children")
    for _ in range(100):
        if len(workers := children.read_text().split()) == 2:
            break
        time.sleep(0.05)
    launch.send_signal(signal.SIGTERM)
    _, errors = launch.communicate(timeout=60)
    assert launch.returncode == 128 + signal.SIGTERM
    assert "zoo: worker 0 was ended by SIGTERM" in errors
    assert len(workers) == 2
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(int(worker), 0)
