"""However an export ends early, there is no bundle where one was to be."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from export.manifest import Manifest

# For each pair of arguments that follow the name of the bundle: export this format, and from this moment on let no
# file grow beyond 50 kB, which ends a write as a full disk does. "never" is no moment.
EXPORT = """
import resource, sys
import zoo
from export.artefacts import Plan
from export.bundle import export_bundle
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
model = zoo.create("gpt-nano")
out, *rest = sys.argv[1:]
for format, moment in zip(rest[::2], rest[1::2]):
    def progress(line):
        print(line, flush=True)
        if line == moment:
            limit(50_000)
    try:
        limit(resource.RLIM_INFINITY)
        export_bundle(model, out, plan=Plan((format,)), progress=progress)
    except zoo.UserError as error:
        print("UserError:", error, flush=True)
"""


@contextmanager
def exporting(out: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(out), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
        # A suite that runs in the background ignores Ctrl-C, and so would whatever it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        yield process
    if process.returncode == -signal.SIGKILL:  # then nobody ended the converter
        with suppress(ProcessLookupError):  # there may be none
            os.killpg(process.pid, signal.SIGKILL)


def test_a_signal_leaves_no_bundle(tmp_path: Path) -> None:
    kinds = {signal.SIGINT: tmp_path / "ended", signal.SIGKILL: tmp_path / "killed"}
    with ExitStack() as stack:  # both at once, since most of it is starting up
        processes = {kind: stack.enter_context(exporting(out, "tflite", "never")) for kind, out in kinds.items()}
        for kind, process in processes.items():
            assert process.stdout is not None
            while process.stdout.readline() != "converting to tflite\n":
                assert process.poll() is None
            time.sleep(0.5)
            assert any(tmp_path.glob(f".{kinds[kind].name}.partial-*/saved_model/gpt/1/saved_model.pb"))
            process.send_signal(kind)
        interrupted = processes[signal.SIGINT].stdout
        assert interrupted is not None
        told = interrupted.read()
    assert told == f"UserError: export interrupted: nothing was written to {kinds[signal.SIGINT]}\n"
    assert processes[signal.SIGKILL].returncode == -signal.SIGKILL
    # Nothing of the one, and of the other a hidden directory of an unmistakable name.
    assert [path.name for path in tmp_path.iterdir()] == [f".killed.partial-{processes[signal.SIGKILL].pid}"]


def assert_whole(bundle: Path) -> None:
    """Every file that a bundle has, and no others."""
    manifest = Manifest.read(bundle)
    parts = (manifest.reference, manifest.beside, *manifest.artefacts.values())
    assert [part.altered(bundle) for part in parts] == [[] for _ in parts]
    assert manifest.added(bundle) == []
    assert (bundle / "report.json").is_file()


@pytest.mark.full  # twenty exports and more; a signal amid one is in the quick tier
def test_killed_at_any_moment_there_is_no_bundle_and_the_next_one_is_whole(tmp_path: Path) -> None:
    draw = random.Random(0)
    out = tmp_path / "bundle"

    def export(format: str, moment: float | None = None) -> tuple[int, float]:
        """An export, killed at that moment where one is given: its exit code, and how long it lived. Both in seconds
        after it began to write."""
        with exporting(out, format, "never") as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "writing saved_model\n"
            began = time.monotonic()
            with suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            process.kill()  # which one that has ended does not notice
        return process.returncode, time.monotonic() - began

    formats, longest, killed = ("saved_model", "onnx", "tflite"), {}, 0
    for format in formats:
        code, longest[format] = export(format)
        assert code == 0
        shutil.rmtree(out)
    for number in range(40):  # at the most: there is no telling how long an export takes
        format = formats[number % len(formats)]
        code, lived = export(format, draw.uniform(0, 0.8 * longest[format]))
        if out.exists():  # it was done already, if only just
            assert code in (0, -signal.SIGKILL)
            assert_whole(out)
            shutil.rmtree(out)
            longest[format] = min(longest[format], lived)
        else:
            assert code == -signal.SIGKILL
            killed += 1
        if killed == 20:
            break
    assert killed == 20
    assert all(path.name.startswith(".bundle.partial-") for path in tmp_path.iterdir())
    assert export("onnx")[0] == 0
    assert_whole(out)  # nothing of those before
    assert set(Manifest.read(out).artefacts) == {"onnx"}
    # What the killed ones left, the next has removed.
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.full  # three exports; a signal amid one is in the quick tier
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """In TensorFlow, in the converter's process, and in our own reference files."""
    out = tmp_path / "bundle"
    moments = ["writing saved_model", "converting to tflite", "computing the reference"]
    formats = ["saved_model", "tflite", "saved_model"]
    with exporting(out, *(word for pair in zip(formats, moments, strict=True) for word in pair)) as process:
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    reason = f"UserError: File too large: nothing was written to {out}"
    left_out = "leaving out saved_model_text: the gpt model has no tokenizer, so that it reads no strings"
    assert lines == [moments[0], reason, *moments[:2], reason, moments[0], left_out, moments[2], reason]
    assert list(tmp_path.iterdir()) == []
