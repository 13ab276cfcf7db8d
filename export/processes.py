"""Child processes: converters and runtimes run alone, so that their leaks, noise and crashes stay out of the caller."""

import contextlib
import errno
import io
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
KEPT = 64 * 1024  # bytes, of what a child prints: converters print without end
LAST_WORDS = 5.0  # seconds that a pipe may stay open when the child has ended: what it started may hold it for ever

# A parent that is killed has no time to end its children. So the child asks Linux to be killed with it (1 is
# PR_SET_PDEATHSIG), makes sure that it was not too late to ask, and becomes the program that was wanted, which the
# request outlives. It is asked here rather than between fork and exec (`preexec_fn`), where a parent with threads, as
# TensorFlow makes any, may hang; and of the kernel rather than of a thread of the child, which a converter that works
# for minutes without letting go of Python's lock would not let run.
TIED = """
import ctypes, os, signal, sys
parent, *arguments = sys.argv[1:]
ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL))
if os.getppid() != int(parent):
    sys.exit("the process that started this one is gone")
os.execv(sys.executable, [sys.executable, *arguments])
"""


class ChildFailure(Exception):  # noqa: N818 - not an error of the caller's: what a child could not do
    """A child process crashed, hung, or said that it failed. The message is one line."""


def run_child(arguments: list[str], timeout: float) -> None:
    """Run Python with `arguments`, its output kept out of ours.

    The child sees no GPU, so that every run computes in the same float32, and finds this project by name (unless
    `-I` is among the arguments).

    On Linux it does not outlive this process, nor the thread that called, however they end. Elsewhere it may.

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
    tied = ["-I", "-S", "-c", TIED, str(os.getpid())] if sys.platform == "linux" else []
    child = subprocess.Popen(
        [sys.executable, *tied, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        bufsize=0,
    )
    try:
        end = bytearray()
        reader = threading.Thread(target=_keep_end, args=(child.stdout, end), daemon=True)
        reader.start()
        status = child.wait(timeout)
    except subprocess.TimeoutExpired:
        raise ChildFailure(f"did not finish within {timeout:.0f} seconds") from None
    finally:  # nothing where it has ended
        child.kill()
        child.wait()
    reader.join(LAST_WORDS)
    if status == 0:
        return
    text = bytes(end).decode(errors="replace")
    raise_if_no_space(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = one_line(lines[-1]) if lines else "no word"
    if status < 0:
        raise ChildFailure(f"was killed by {signal.Signals(-status).name}, after: {last}")
    raise ChildFailure(last)


def _keep_end(pipe: io.FileIO, end: bytearray) -> None:
    """Read a pipe until it is closed, and keep the last `KEPT` bytes."""
    with pipe:
        while chunk := pipe.read(KEPT):
            end += chunk
            del end[:-KEPT]


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
