"""How long commands take, from start to end and until a validation loss is reached, in turn.

    python benchmarks/time_to_loss.py --target 1.88 --repeat 3 \
        "zoo train gpt-pretrain --data input.txt --out /tmp/run --force ..." \
        "python train.py config/train_shakespeare_char.py ..."

Each command runs in a shell of its own, one after another, `--repeat` times over. Its output is searched for the
validation loss, and the clock runs from the start of the process: imports, reading and compiling are in the figure.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time

LOSS = re.compile(r"val(?:idation)?(?: loss)?:? ([0-9]+\.[0-9]+)")


def run(command: str, target: float) -> dict[str, float | None]:
    """Run one command; the seconds it took, those until the target, and the best loss."""
    began, reached, best = time.perf_counter(), None, None
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            for found in LOSS.findall(line):
                loss = float(found)
                best = loss if best is None else min(best, loss)
                if reached is None and loss <= target:
                    reached = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{command} ended with exit code {process.returncode}")
    return {"seconds": time.perf_counter() - began, "seconds_to_target": reached, "best_loss": best}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="+")
    parser.add_argument("--target", type=float, required=True)
    parser.add_argument("--repeat", type=int, default=3)
    settings = parser.parse_args()
    results: list[list[dict[str, float | None]]] = [[] for _ in settings.commands]
    for turn in range(settings.repeat):
        for command, found in zip(settings.commands, results, strict=True):
            found.append(run(command, settings.target))
            print(f"turn {turn}: {json.dumps(found[-1])}  {command}", file=sys.stderr)
    for command, found in zip(settings.commands, results, strict=True):
        median = {}
        for name in found[0]:
            values = [each[name] for each in found]
            median[name] = None if None in values else round(statistics.median(values), 4)
        print(json.dumps({"command": command, "median": median}))


if __name__ == "__main__":
    main()
