"""The command line: what it answers, and how it takes mistakes."""

import json
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from recipes.command import VERBS, main, run

ROOT = Path(__file__).parents[2]


def refuse(capsys, *arguments: object) -> str:
    """Run a command that must end in one line on standard error and exit code 2; the line."""
    code = run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("INFO:")]
    assert code == 2
    assert captured.out == ""
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("zoo: ")
    return lines[0]


def test_cycles_are_gone_before_python_ends(monkeypatch):
    """An iterator of TensorFlow's that is still alive then, and fetches ahead, may keep the process from ending."""

    class Iterator:
        pass

    left = []

    def train(arguments):
        iterator = Iterator()
        iterator.itself = iterator
        left.append(weakref.ref(iterator))
        return 3

    monkeypatch.setattr("recipes.command.run", train)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert left[0]() is None


@pytest.mark.parametrize("arguments", [(), *((verb,) for verb in VERBS), ("train", "gpt-pretrain")], ids=" ".join)
def test_help_answers_without_tensorflow_and_without_the_other_parsers(arguments):
    script = (
        "import atexit, sys; from recipes.command import main;"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr)); main()"
    )
    command = [sys.executable, "-c", script, *arguments, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    imported = set(done.stderr.split())

    assert done.returncode == 0
    assert "usage: zoo" in done.stdout
    assert "tyro" in imported
    assert not {"tensorflow", "keras", "matplotlib", "tf2onnx", "onnxruntime"} & imported
    modules = {verb: f"recipes.command.{verb.replace('-', '_')}_" for verb in VERBS}
    assert set(modules.values()) & imported == {modules[verb] for verb in arguments[:1]}


def test_list_states_parameter_counts(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run(["list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    presets = {name: sizes for family in listed["families"] for name, sizes in family["presets"].items()}
    published = {"gpt2": 124_439_808, "bert-base": 109_482_240, "vit-b16": 86_567_656, "clip-b32": 151_277_313}
    assert {name: presets[name]["parameters"] for name in published} == published
    # 12 blocks of 197 tokens, multiplied out by hand, and the class: 17.6 billion multiplications.
    assert presets["vit-b16"]["flops"] == pytest.approx(2 * 17.56e9, rel=0.01)
    assert "gpt-pretrain" in listed["recipes"]
    assert run(["list"]) == 0
    table = capsys.readouterr().out
    assert all(f"{parameters:,}" in table for parameters in published.values())


def test_train_mistakes_leave_nothing_behind(capsys, tmp_path, text_file):
    empty, binary, folder, short = (tmp_path / name for name in ("empty.txt", "binary.txt", "folder", "short.txt"))
    empty.write_text("")
    binary.write_bytes(bytes(range(256)) * 100)
    folder.mkdir()
    (folder / "picture.jpg").write_bytes(b"no text")
    short.write_text("too short")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    out = tmp_path / "out"

    def train(data, *options, to=out):
        return refuse(capsys, "train", "gpt-pretrain", "--data", data, "--out", to, *options)

    assert "give one of them" in train(text_file, "--steps", 1, "--epochs=1")
    assert "does not exist" in train(tmp_path / "nowhere")
    assert "empty" in train(empty)
    assert "binary" in train(binary)
    assert "no text files" in train(folder)
    assert "tokens" in train(short, "--tokenizer", "char")
    assert "'gpt-nano'" in train(text_file, "--preset", "gpt-nanno")
    assert "not empty" in train(text_file, to=taken)
    assert "no recipe.json" in train(text_file, "--force", to=taken)
    assert "no recipe.json" in train(text_file, "--restart", to=taken)
    assert "--preset" in train(text_file, "--from", taken, "--preset", "gpt-nano")
    assert "--tokenizer" in train(text_file, "--from", taken, "--tokenizer", "char")
    assert "--vocabulary-size" in train(text_file, "--from", taken, "--vocabulary-size", "300")
    assert "too small" in train(text_file, "--vocabulary-size", "12")
    assert "--learning-rate" in train(text_file, "--learning-rate", "-1")
    assert "--steps" in train(text_file, "--steps", "many")
    assert "--stepz" in train(text_file, "--stepz", "3")
    assert "--max-length" in train(text_file, "--max-length", "0")
    assert "tokenizer" in train(text_file, "--tokenizer", "words")
    assert "give --tokenizer bpe or char" in train(text_file, "--tokenizer", "wordpiece")
    assert "--width is 33, and must be a multiple of" in train(text_file, "--width", "33")
    assert "a bert model" in train(text_file, "--preset", "bert-nano")
    assert "give one with --from" in train(text_file, "--adapt", "lora")
    assert "--logits-memory is 0.0, and must be above 0" in train(text_file, "--logits-memory", "0")
    assert "'gpt-pretrain'" in refuse(capsys, "train", "gpt-pretrian")
    assert "'train'" in refuse(capsys, "trian")
    assert "--data" in refuse(capsys, "train", "gpt-pretrain", "--out", out)
    assert not out.exists()
    assert (taken / "thesis.txt").read_text() == "years of work"


def test_a_vocabulary_that_does_not_fit_the_model_to_go_on_from(capsys, tmp_path, text_file, trained_run):
    model = shutil.copytree(trained_run / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["config"]["vocabulary_size"] = 17
    (model / "config.json").write_text(json.dumps(config))

    options = ("--data", text_file, "--out", tmp_path / "out", "--from", model)
    assert "vocabulary_size" in refuse(capsys, "train", "gpt-pretrain", *options)
    assert not (tmp_path / "out").exists()


def test_a_new_beginning_replaces_a_run_but_never_what_is_read_or_is_no_run(capsys, tmp_path, text_file, trained_run):
    run_directory = shutil.copytree(trained_run, tmp_path / "run")
    inside = run_directory / "input.txt"
    shutil.copy(text_file, inside)
    everything = sorted(run_directory.rglob("*"))

    def train(data, *options):
        return refuse(capsys, "train", "gpt-pretrain", "--data", data, "--out", run_directory, "--restart", *options)

    assert "is to be read" in train(inside)
    assert "is to be read" in train(text_file, "--from", run_directory)
    assert "is to be read" in train(text_file, "--tokenizer", run_directory / "model")
    assert "bundle.json" in refuse(capsys, "export", trained_run, "--out", run_directory, "--force")
    assert sorted(run_directory.rglob("*")) == everything


def test_what_is_found_out_late_leaves_nothing_behind_either(capsys, tmp_path, text_file, trained_run):
    model = shutil.copytree(trained_run / "model", tmp_path / "model")
    damage(model, "truncated")
    options = ("--data", text_file, "--out", tmp_path / "out")
    assert "model.safetensors" in refuse(capsys, "train", "gpt-pretrain", *options, "--from", model)
    assert "--seed" in refuse(capsys, "train", "gpt-pretrain", *options, "--seed", str(2**32))
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_is_no_utf8(trained_run):
    command = [sys.executable, "-m", "recipes.command", "generate", str(trained_run), "--max-new-tokens", "3"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([*command, "--prompt", b"caf\xe9 "], cwd=ROOT, env=strict, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith("caf\ufffd ")
    assert b"surrogates" in done.stderr


def damage(model: Path, how: str) -> None:
    weights, config = model / "model.safetensors", model / "config.json"
    record = json.loads(config.read_text())
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "corrupt header":
        weights.write_bytes(b"\xff" * 64 + weights.read_bytes()[64:])
    elif how == "no weights":
        weights.unlink()
    elif how == "unknown field":
        record["config"]["colour"] = "red"
    elif how == "wrong value":
        record["config"]["depth"] = "two"
    elif how == "unknown family":
        record["family"] = "gtp"
    config.write_text("{" if how == "no JSON" else json.dumps(record))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("truncated", "model.safetensors"),
        ("corrupt header", "model.safetensors"),
        ("no weights", "model.safetensors"),
        ("unknown field", "'colour'"),
        ("wrong value", "depth is 'two'"),
        ("unknown family", "'gpt'"),
        ("no JSON", "config.json"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "eval", "export"])
def test_a_damaged_model_is_named(capsys, tmp_path, text_file, trained_run, verb, how, told):
    model = shutil.copytree(trained_run / "model", tmp_path / "model")
    damage(model, how)
    out = tmp_path / "bundle"
    rest = {"generate": ["--prompt", "The"], "eval": ["--data", text_file], "export": ["--out", out]}[verb]

    assert told in refuse(capsys, verb, model, *rest)
    assert not out.exists()


def test_other_mistakes(capsys, tmp_path, trained_run):
    assert "no such directory" in refuse(capsys, "generate", tmp_path / "nothing", "--prompt", "x")
    assert "config.json" in refuse(capsys, "generate", tmp_path, "--prompt", "x")
    assert "temperature" in refuse(capsys, "generate", trained_run, "--prompt", "x", "--temperature", "-1")
    assert "'tflight'" in refuse(capsys, "export", trained_run, "--out", tmp_path / "b", "--formats", "onnx,tflight")
    assert "bundle.json" in refuse(capsys, "verify", tmp_path)
    assert run([]) == 2


def test_debug_shows_where_a_mistake_came_from(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "recipes.command", "verify", str(tmp_path), "--debug"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_generate(capsys, trained_run, caplog):
    def generate(*options: str) -> dict:
        assert run(["generate", str(trained_run), "--prompt", "The model ", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)

    first = generate("--max-new-tokens", "20", "--seed", "5")
    assert generate("--max-new-tokens", "20", "--seed", "5")["text"] == first["text"]
    assert generate("--max-new-tokens", "20", "--seed", "6")["text"] != first["text"]
    assert run(["generate", str(trained_run), "--prompt", "The model ", "--max-new-tokens", "20", "--seed", "5"]) == 0
    assert capsys.readouterr().out == f"The model {first['text']}\n"


def test_a_prompt_longer_than_the_context_is_cut_with_a_warning(capsys, trained_run):
    code = run(["generate", str(trained_run), "--prompt", "The model reads. " * 9, "--max-new-tokens", "3", "--json"])
    captured = capsys.readouterr()
    assert code == 0
    assert "context is 32" in captured.err
    assert json.loads(captured.out)["prompt"] == "The model reads. " * 9


def test_invalid_utf8_is_replaced_and_counted(capsys, tmp_path, trained_run):
    path = tmp_path / "dirty.txt"
    path.write_bytes(b"The model reads \xff text and \xfe\xfe writes. " * 10)
    assert run(["eval", str(trained_run), "--data", str(path)]) == 0
    captured = capsys.readouterr()
    assert "30 invalid UTF-8 sequences replaced" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["bytes"] == path.stat().st_size


def test_export_and_verify(capsys, tmp_path, text_file, trained_run):
    bundle = tmp_path / "bundle"
    options = ["--formats", "onnx", "--quantize", "none,int8", "--data", str(text_file)]
    assert run(["export", str(trained_run), "--out", str(bundle), *options, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    artefacts = {each["name"]: each for each in report["artefacts"]}
    assert report["passed"] and artefacts.keys() == {"onnx", "onnx_int8"}
    assert artefacts["onnx_int8"]["metrics"][0]["name"] == "perplexity"
    assert run(["verify", str(bundle)]) == 0
    assert "onnx" in capsys.readouterr().out

    with (bundle / "model.onnx").open("r+b") as file:  # in the middle: some weight
        file.seek(bundle.joinpath("model.onnx").stat().st_size // 2)
        file.write(os.urandom(64))
    assert run(["verify", str(bundle)]) == 1
    assert "onnx: " in capsys.readouterr().out
    assert "not empty" in refuse(capsys, "export", trained_run, "--out", bundle)


def test_mistakes_of_bench(capsys, tmp_path, monkeypatch):
    def bench_bundle(*_, **__):
        raise AssertionError("it was begun")

    with monkeypatch.context() as patch:
        patch.setattr("export.bench.bench_bundle", bench_bundle)
        for options, told in (
            (("--batch", 0), "--batch is (0,), and must be 1 or more"),
            (("--batch", 1, -8), "--batch is (1, -8), and must be 1 or more"),
            (("--tokens", 0), "--tokens is (0,), and must be 1 or more"),
            (("--rounds", 0), "--rounds is 0, and must be 1 or more"),
            (("--seconds", 0), "--seconds is 0.0, and must be above 0 and below an hour"),
            (("--seconds", 3600), "--seconds is 3600.0, and must be above 0 and below an hour"),
            (("--seconds", "nan"), "--seconds is nan"),
            (("--batch", "two"), "--batch"),
        ):
            assert told in refuse(capsys, "bench", tmp_path, *options)
    assert "bundle.json" in refuse(capsys, "bench", tmp_path)


@pytest.mark.parametrize("failures", [[], ["tflite: no model"]], ids=["all well", "one fails"])
def test_bench(capsys, tmp_path, monkeypatch, failures):
    """What is asked for, and what is shown of what was measured; `tests/export/test_bench.py` has the measuring."""
    from export.bench import Bench, Timing

    keras = Timing("keras", "serving_default", 8, 32, 4_000_000, 210.0, 31.0, 10.5, 12.25, 1.0, 700.0)
    onnx = Timing("onnx", "serving_default", 8, 32, 1_230_000, 45.0, 6.5, 4.2, 4.75, 2.5, None)
    words = Timing("saved_model_text", "text.serving_default", 2, None, 5_000_000, 99.0, 8.25, 7.5, 9.0, None, 650.0)
    calls = []

    def bench_bundle(bundle, *, progress, **asked):
        progress(1, 2)
        calls.append((bundle, asked))
        return Bench("bert", "classify", 5, 2, timings, failures)

    monkeypatch.setattr("export.bench.bench_bundle", bench_bundle)
    monkeypatch.setenv("COLUMNS", "120")
    command = ["bench", str(tmp_path)]

    timings = [keras, onnx]
    options = ["--batch", "1", "8", "--tokens", "32", "--rounds", "5", "--seconds", "0.5"]
    assert run([*command, *options]) == (1 if failures else 0)
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == ["bert,", "classify:", "latency"]
    assert ["keras", "8", "x", "32", "4.00", "210", "31.0", "10.50", "12.25", "1.00"] in lines
    assert ["onnx", "8", "x", "32", "1.23", "45", "6.5", "4.20", "4.75", "2.50"] in lines
    assert [" ".join(line) for line in lines[-len(failures) :] if failures] == failures

    timings = [keras, words]  # functions are named where there are several
    assert run(command) == (1 if failures else 0)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["keras", "serving_default", "8", "x", "32", "4.00", "210", "31.0", "10.50", "12.25", "1.00"] in lines
    assert ["saved_model_text", "text.serving_default", "2", "5.00", "99", "8.2", "7.50", "9.00", "-"] in lines

    assert run([*command, "--json"]) == (1 if failures else 0)
    (line,) = capsys.readouterr().out.splitlines()
    printed = json.loads(line)
    assert printed["rounds"] == 5 and printed["failures"] == failures
    assert printed["timings"][1] == vars(words)

    usual = {"batches": (1,), "tokens": (), "rounds": 3, "seconds": 1.0}
    asked = {"batches": (1, 8), "tokens": (32,), "rounds": 5, "seconds": 0.5}
    assert calls == [(tmp_path, asked), (tmp_path, usual), (tmp_path, usual)]


@pytest.mark.full  # a signal saves and stops in the quick tier
def test_interrupting_a_training_tells_what_is_kept(tmp_path, text_file):
    import signal
    import time

    out = tmp_path / "run"
    command = [
        "train",
        "gpt-pretrain",
        "--data",
        text_file,
        "--out",
        out,
        "--preset",
        "gpt-nano",
        "--tokenizer",
        "char",
    ]
    options = ["--max-length", "32", "--steps", "100000", "--evaluate-every", "20", "--batch-size", "4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "recipes.command", *map(str, command), *options],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A suite that runs in the background ignores Ctrl-C, and so would whatever it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "model" / "model.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 130
    assert "Traceback" not in told
    assert f"{out / 'model'} keeps step" in told
    assert (out / "model" / "config.json").exists()
