"""`zoo launch --workers N -- train ...`: several workers on this machine, to try a distributed run out."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Annotated

from tyro.conf import arg

from recipes.command.parsing import parse
from zoo.errors import UserError

SECONDS_TO_END = 20.0  # for the others, when one has failed: a worker alone waits for ever


@dataclasses.dataclass(frozen=True)
class Launch:
    """Start several workers on this machine, each with the command after `--`; the first one speaks.

    They find each other by TF_CONFIG, as on several machines. GPUs listed in CUDA_VISIBLE_DEVICES are shared out.
    """

    workers: Annotated[int, arg(metavar="N")] = 2
    """Number of processes."""

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 64:
            raise UserError(f"--workers is {self.workers}, and must be from 1 to 64")


def run(arguments: list[str]) -> int:
    """Start the workers and wait for them; the exit code is that of the first one to fail, or 0."""
    own, command = (
        (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :])
        if "--" in arguments
        else (arguments, [])
    )
    settings = parse(Launch, own, "zoo launch")
    if not command or command[0] != "train":
        raise UserError("zoo launch takes a command after --, as in: zoo launch --workers 2 -- train gpt-pretrain ...")
    workers: list[subprocess.Popen] = []
    wanted: list[int] = []
    reached: set[int] = set()

    def pass_on(number: int, frame: object) -> None:
        wanted.append(number)
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)
                reached.add(worker.pid)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        addresses = [f"127.0.0.1:{port}" for port in _free_ports(settings.workers)]
        for place in range(settings.workers):
            workers.append(_start(command, addresses, place))
            if wanted and workers[-1].pid not in reached:  # it came while this one was started
                workers[-1].send_signal(wanted[0])
        return _wait(workers, wanted)
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(command: list[str], addresses: list[str], place: int) -> subprocess.Popen:
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": place}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
    gpus = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu not in ("", "-1")]
    if len(gpus) >= len(addresses):
        share = len(gpus) // len(addresses)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[place * share : (place + 1) * share])
    if not os.environ.get("ZOO_DEBUG"):
        # When one worker ends, in whatever order, TensorFlow's threads on the others cry out; what a run has to say of
        # a lost worker it says itself.
        environment["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # A group of its own: Ctrl-C reaches a worker once, through this process.
    return subprocess.Popen(
        [sys.executable, "-m", "recipes.command", *command],
        env=environment,
        stdout=None if place == 0 else subprocess.DEVNULL,
        start_new_session=True,
    )


def _wait(workers: list[subprocess.Popen], wanted: list[int]) -> int:
    """Until all have ended; where one fails, the others are ended as well, but for what a signal has them save."""
    code, ended = 0, None
    while None in (codes := [worker.poll() for worker in workers]):
        failed = [each for each in codes if each]
        if failed and ended is None:
            ended, code = time.monotonic(), min(failed)  # one that was killed, before one that missed it
            for worker in workers:
                if worker.poll() is None and not wanted:
                    worker.terminate()
        if ended is not None and not wanted and time.monotonic() - ended > SECONDS_TO_END:
            for worker in workers:
                worker.kill()
        time.sleep(0.1)
    code = code or next((worker.returncode for worker in workers if worker.returncode), 0)
    if code < 0:  # ended by a signal, which a shell tells as 128 and its number
        place = next(place for place, worker in enumerate(workers) if worker.returncode == code)
        print(f"zoo: worker {place} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        code = 128 - code
    return code


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
