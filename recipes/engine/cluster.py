"""Which machines a run of several workers is on, as the environment that started it says (TensorFlow only)."""

import json
import os
import socket
import time
from typing import Any

import tensorflow as tf

from zoo.errors import UserError

resolvers = tf.distribute.cluster_resolver

KUBERNETES = "kubernetes:"
SECONDS_FOR_PODS = 300.0
LARGEST_SLURM_STEP = 4096


def counts_several_workers() -> bool:
    """Whether this process was started as one of several."""
    return _workers_of_tf_config() > 1 or _tasks_of_slurm() > 1


def find_cluster(name: str) -> Any:
    """A cluster resolver of TensorFlow's, which knows all workers and which of them this process is.

    Args:
        name: "tf_config", from the variable `TF_CONFIG`; "slurm", from the variables of `srun`; "kubernetes:LABELS",
            all pods with these labels, such as `job-name=train`, of this pod's namespace; "auto", by `TF_CONFIG` where
            it is set, else by Slurm.

    Raises:
        UserError: the environment does not say what is needed.
    """
    if name.startswith(KUBERNETES):
        return _find_pods(name.removeprefix(KUBERNETES))
    if name == "tf_config" or (name == "auto" and os.environ.get("TF_CONFIG")):
        if not _workers_of_tf_config():
            raise UserError(
                "TF_CONFIG is not set: it lists all workers and says which one this is; "
                "zoo launch --workers 2 -- train ... sets it for workers on this machine"
            )
        return resolvers.TFConfigClusterResolver()
    if name == "slurm" or (name == "auto" and "SLURM_PROCID" in os.environ):
        return _find_tasks()
    if name == "auto":
        raise UserError(
            "--strategy multiworker needs TF_CONFIG, or srun, or --cluster kubernetes:LABELS to find workers"
        )
    raise UserError(f"--cluster is {name!r:.80}, and must be auto, tf_config, slurm or kubernetes:LABELS")


def is_first(resolver: Any) -> bool:
    """Whether this process is the one of its cluster that writes and speaks: its chief, or the first worker where none
    is called so. Alone, without a resolver, it is."""
    if resolver is None or resolver.task_type is None:
        return True
    chiefs = "chief" in resolver.cluster_spec().jobs
    return resolver.task_id == 0 and (resolver.task_type == "chief" or not chiefs)


def _workers_of_tf_config() -> int:
    """Number of workers in `TF_CONFIG`; 0 where it is not set."""
    text = os.environ.get("TF_CONFIG", "")
    if not text:
        return 0
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        workers = [*cluster.get("chief", ()), *cluster["worker"]]
        int(task["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"TF_CONFIG is not what it should be ({error!r:.80}): it reads "
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        ) from None
    return len(workers)


def _tasks_of_slurm() -> int:
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    return int(tasks) if "SLURM_PROCID" in os.environ and tasks.isdecimal() else 0


def _find_tasks() -> Any:
    """The tasks of this step of `srun`, a worker each; which GPUs one sees is left to Slurm (`--gpus-per-task`)."""
    port = 10_000 + int(os.environ.get("SLURM_JOB_ID", "0")) % 20_000  # two jobs on one node need two
    try:
        # With the GPUs that it would count TensorFlow divides by zero where there are none.
        resolver = resolvers.SlurmClusterResolver(
            port_base=port, gpus_per_node=LARGEST_SLURM_STEP, gpus_per_task=1, auto_set_gpu=False
        )
        cluster = resolver.cluster_spec()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(
            f"Slurm's variables do not tell the workers ({error}): start with srun, one task a worker"
        ) from None
    task, place = resolver.get_task_info()
    return resolvers.SimpleClusterResolver(cluster, task_type=task, task_id=place)


def _find_pods(labels: str) -> Any:
    """All pods with these labels, once they all run. Their addresses are sorted, so that each pod counts alike."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise UserError("--cluster kubernetes needs the package kubernetes: pip install kubernetes") from None
    config.load_incluster_config()
    resolver = resolvers.KubernetesClusterResolver({"worker": [labels]}, override_client=client.CoreV1Api())
    wanted = int(os.environ.get("ZOO_WORKERS", "0"))
    own = os.environ.get("POD_IP") or socket.gethostbyname(socket.gethostname())
    waited_since = time.monotonic()
    while True:
        try:
            addresses = sorted(resolver.cluster_spec().job_tasks("worker"))
        except (RuntimeError, ValueError):  # one of them does not run yet
            addresses = []
        mine = [place for place, address in enumerate(addresses) if address.rsplit(":", 1)[0] == own]
        if mine and len(addresses) >= wanted:
            cluster = tf.train.ClusterSpec({"worker": addresses})
            return resolvers.SimpleClusterResolver(cluster, task_type="worker", task_id=mine[0])
        if time.monotonic() - waited_since > SECONDS_FOR_PODS:
            raise UserError(
                f"after {SECONDS_FOR_PODS:.0f} s the pods with labels {labels!r} are {addresses}, this one is {own}, "
                f"and ZOO_WORKERS asks for {wanted or 'as many as run'}"
            )
        time.sleep(2)
