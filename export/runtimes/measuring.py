"""What is found out about an artefact beside its outputs: how long it takes, how a text goes on by it, its memory."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def measure_latency(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Milliseconds of one call, p50 and p95, over at least 20 calls and about `seconds`, after 5 to warm up; of calls
    that take long, fewer."""
    times: list[float] = []
    began = time.perf_counter()
    warm = 0
    while warm < 5 and (warm < 1 or time.perf_counter() - began < seconds):
        call()
        warm += 1
    began = time.perf_counter()
    while len(times) < 1000:
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
        spent = time.perf_counter() - began
        if (spent > seconds and len(times) >= 20) or spent > 5 * seconds:
            break
    return {"p50_ms": float(np.percentile(times, 50)), "p95_ms": float(np.percentile(times, 95)), "calls": len(times)}


def continue_greedily(
    read: Callable[[list[int]], np.ndarray], prompt: list[int], count: int, given: list[int] | None = None
) -> dict[str, Any]:
    """`count` tokens after `prompt`, each the most likely after those before it, or after `given` ones where there are
    such; the smallest distance that there was between the two best logits; minus the logarithm of the probability of
    each token that was read on with; and the milliseconds of each."""
    tokens, gap = list(prompt), float("inf")
    ids: list[int] = []
    losses: list[float] = []
    times: list[float] = []
    for place in range(count):
        start = time.perf_counter()
        logits = read(tokens).astype("float64")
        if not np.isfinite(logits).all():
            raise ValueError(f"the logits after {len(prompt) + len(ids)} tokens are not finite")
        ids.append(int(np.argmax(logits)))
        times.append(1000 * (time.perf_counter() - start))
        second, best = np.partition(logits, -2)[-2:]
        gap = min(gap, float(best - second))
        tokens = ids[-1:] if given is None else given[place : place + 1]
        losses.append(float(np.log(np.exp(logits - best).sum()) + best - logits[tokens[0]]))
    return {"ids": ids, "smallest_gap": gap, "losses": losses, "milliseconds": times}


def peak_memory() -> float | None:
    """Of this process so far, in megabytes, as the operating system has it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no Linux
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")), None)
