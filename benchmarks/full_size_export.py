"""What it takes to export a published size in every format, float32 and int8, verified:

    python -m benchmarks.full_size_export bert-base:classify vit-b16:classify clip-b32:contrast gpt2:generate

Each in a fresh process, with fresh weights and a tokenizer of 800 tokens. Memory is what is resident, of all processes
together every fifth of a second, and of the largest at any time; Linux alone tells it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PAUSE = 0.2  # seconds
PAGE = 4096


class Memory(threading.Thread):
    """Watches this process and its descendants.

    Attributes:
        together: bytes, the most of all at once.
        largest: bytes, the most of one.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.together = self.largest = 0

    def run(self) -> None:
        while True:
            sizes = descendants(Path("/proc/self").resolve().name)
            self.together = max(self.together, sum(sizes))
            self.largest = max(self.largest, *sizes, 0)
            time.sleep(PAUSE)


def descendants(root: str) -> list[int]:
    """Resident bytes of a process and of all that it started, directly or not."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            sizes[folder.name] = PAGE * int((folder / "statm").read_text().split()[1])
        except OSError:  # it has ended
            continue
    found, further = [], [root]
    while further:
        found += further
        further = [child for child, parent in parents.items() if parent in further]
    return [sizes[process] for process in found if process in sizes]


def export(preset: str, task: str) -> None:
    """Export one and print one JSON object."""
    import zoo
    from export.artefacts import Plan
    from export.bundle import export_bundle
    from recipes.export_data import sample_data
    from zoo.text import train_bpe, train_clip, train_wordpiece

    memory = Memory()
    memory.start()
    model = zoo.create(preset, task=task)
    reads, sees = any(spec.name == "token_ids" for spec in model.input_specs), model.preprocessing is not None
    data = sample_data(reads, sees)
    if reads:
        train = {"bert": train_wordpiece, "gpt": train_bpe, "clip": train_clip}[model.family]
        model.tokenizer = train(data.texts[:1], 800)
    plan = Plan(precisions=("float32", "int8"))
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = export_bundle(
            model,
            Path(scratch) / "bundle",
            plan=plan,
            texts=data.texts,
            images=data.images,
            force=True,
            progress=lambda line: print(f"{time.monotonic() - began:6.0f} s  {line}", file=sys.stderr, flush=True),
        )
    figures = {"seconds": time.monotonic() - began, "together": memory.together, "largest": memory.largest}
    print(json.dumps(figures | {"artefacts": len(report.artefacts), "failures": report.failure_lines()}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", metavar="PRESET:TASK")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        export(*arguments.models[0].split(":"))
        return
    print("| model | seconds | GB, all processes | GB, the largest | artefacts | |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for name in arguments.models:
        command = [sys.executable, "-m", "benchmarks.full_size_export", "--alone", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        verdict = "; ".join(found["failures"]) or "passed"
        gigabytes = " | ".join(f"{found[key] / 1e9:.1f}" for key in ("together", "largest"))
        print(f"| {name} | {found['seconds']:.0f} | {gigabytes} | {found['artefacts']} | {verdict} |", flush=True)


if __name__ == "__main__":
    main()
