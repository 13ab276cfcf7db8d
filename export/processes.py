"""Child processes: converters and runtimes run alone, so that their leaks, noise and crashes stay out of the caller."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from zoo.errors import UserError

# Disk full, quota used up, size limit reached: TensorFlow and the converters pass them on as text only.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class ChildFailure(Exception):  # noqa: N818 - not an error of the caller's: what a child could not do
    """A child process crashed, hung, or said that it failed. The message is one line."""


def run_child(arguments: list[str], timeout: float) -> None:
    """Run Python with `arguments`, its output kept out of ours.

    The child sees no GPU, so that every run computes in the same float32, and finds this project by name (unless
    `-I` is among the arguments).

    Args:
        arguments: what follows `python` on the command line.
        timeout: seconds after which the child is ended.

    Raises:
        ChildFailure: it ended in any way but with exit status 0; the message ends in the last line that it wrote.
        OSError: it failed for want of space for a file.
    """
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    try:
        child = subprocess.run(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=environment,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise ChildFailure(f"did not finish within {timeout:.0f} seconds") from None
    if child.returncode == 0:
        return
    raise_if_no_space(child.stdout)
    lines = [line.strip() for line in child.stdout.splitlines() if line.strip()]
    last = one_line(lines[-1]) if lines else "no word"
    if child.returncode < 0:
        raise ChildFailure(f"was killed by {signal.Signals(-child.returncode).name}, after: {last}")
    raise ChildFailure(last)


def raise_if_no_space(text: str) -> None:
    """Raise the OSError that an error message speaks of, if it says that there was no space for a file."""
    for number in NO_SPACE:
        if os.strerror(number) in text:
            raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses (a full disk, no permission) into a UserError: nothing came to `path`."""
    try:
        try:
            yield
        except Exception as error:
            if not isinstance(error, (OSError, UserError)):
                raise_if_no_space(str(error))
            raise
    except OSError as error:
        file = f" ({error.filename})" if error.filename else ""
        raise UserError(f"{error.strerror or error}{file}: nothing was written to {path}") from error


@contextlib.contextmanager
def heeding_interrupts() -> Iterator[Callable[[], None]]:
    """Yield what raises KeyboardInterrupt where Ctrl-C was pressed and the exception was lost: one that is raised while
    a library cleans up is told of on standard error, and goes no further."""
    pressed: list[int] = []

    def note(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    def heed() -> None:
        if pressed:
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():  # somebody else sees to it
        yield heed
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield heed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def one_line(text: str, limit: int = 300) -> str:
    """`text` with its white space folded, cut to `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
