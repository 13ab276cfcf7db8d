"""How much memory a run has taken."""

import re
from pathlib import Path

_STATUS = Path("/proc/self/status")  # of Linux; what `getrusage` tells is handed down from the process before


def peak_memory() -> float | None:
    """The most memory that this process has held at a time, in MB (10 ** 6 bytes); None where it cannot be told."""
    if not _STATUS.is_file():
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    return None if found is None else int(found[1]) * 1024 / 1e6
