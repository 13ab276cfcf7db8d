"""The recipe bert-pretrain, end to end with tiny settings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf  # noqa: F401 - for the devices that all tests of a process share

import zoo
from recipes.bert_pretrain import BERTPretrain, train_bert
from recipes.command import run as zoo_command
from tests.recipes.conftest import assemble
from tests.recipes.resuming import arrays, kill, newest_step, start, wait_until
from zoo.errors import UserError
from zoo.prediction import Predictor


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents that repeat one word each: what is masked stands all around, and another document says other words."""
    folder = tmp_path_factory.mktemp("corpus")
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    for number in range(48):
        (folder / f"{number:02}.txt").write_text(f"{words[number % 12]} " * 60, encoding="utf-8")
    return folder


TINY = {
    "validation_fraction": 0.2,
    "steps": 240,
    "batch_size": 8,
    "optimizer": "muon",
    "learning_rate": 1e-2,
    "warmup_steps": 10,
    "evaluate_every": 80,
    "xla": False,
    "preset": "bert-nano",
    "vocabulary_size": 160,
    "max_length": 32,
    "dropout": 0.0,
    "neighbour_blocks": 0,
}


def tiny(data: Path, out: Path, **changes: Any) -> BERTPretrain:
    return assemble(BERTPretrain, data=(data,), out=out, **TINY | changes)


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bert") / "run"
    train_bert(tiny(corpus, out, nsp=False))
    return out


def test_masked_tokens_are_learned(run: Path) -> None:
    found = rows(run)
    # Of twelve words; a guess would be right one time in twelve.
    assert found[-1]["validation_masked_accuracy"] > 0.8
    assert found[-1]["loss"] < found[0]["loss"] / 2
    assert found[-1]["validation_loss"] < found[0]["validation_loss"] / 2
    summary = (run / "summary.md").read_text()
    assert "validation masked accuracy" in summary and "| nsp | False |" in summary


def test_the_kept_model_fills_in_what_is_missing(run: Path) -> None:
    model = zoo.load(run)
    assert model.task == "masked_lm"
    record = Predictor(model).predict(["seven " * 8 + "[MASK]" + " seven" * 8])[0]
    assert record["masks"][0]["tokens"][0]["token"] == "seven"


def test_the_evaluation_is_the_mean_over_the_masked_tokens(
    run: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a loop over single sequences; zoo eval says the same."""
    from recipes.data.grouping import GroupedBatches
    from recipes.data.masking import Masking
    from recipes.data.packing import pack
    from recipes.data.sequences import FullSequences, MaskedSequences
    from recipes.data.text import open_corpus

    model = zoo.load(run)
    packed = pack(open_corpus(corpus, None, 0.2), model.tokenizer)
    sequences = FullSequences(packed.tokens("validation"), model.tokenizer, 32, None)
    batches = GroupedBatches(MaskedSequences(sequences, Masking(model.tokenizer), 0, False), 8, None)
    right, loss, count = 0, 0.0, 0
    for step in range(batches.num_batches or 0):
        inputs, labels, weights = batches.batch(step)
        for row in range(len(inputs["token_ids"])):
            logits = np.asarray(model({name: value[row : row + 1] for name, value in inputs.items()})["logits"])[0]
            for place in np.flatnonzero(weights["logits"][row]):
                label = labels["logits"][row, place]
                right += int(logits[place].argmax() == label)
                loss += float(np.log(np.exp(logits[place].astype(float)).sum()) - logits[place, label])
                count += 1
    best = min(rows(run), key=lambda row: row["validation_loss"])
    assert best["validation_masked_accuracy"] == pytest.approx(right / count, abs=1e-6)
    assert best["validation_masked_loss"] == pytest.approx(loss / count, rel=1e-4)
    capsys.readouterr()
    assert (
        zoo_command(["eval", str(run), "--data", str(corpus), "--validation-fraction", "0.2", "--batch-size", "8"]) == 0
    )
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert measured["masked_accuracy"] == pytest.approx(best["validation_masked_accuracy"], abs=1e-6)
    assert measured["masked_loss"] == pytest.approx(best["validation_masked_loss"], rel=1e-4)
    assert measured["sequences"] == sequences.count


@pytest.mark.full  # takes half a minute
def test_successors_are_learned_too(corpus: Path, tmp_path: Path) -> None:
    result = train_bert(tiny(corpus, tmp_path / "run", steps=400, evaluate_every=200, whole_words=True))
    assert result["validation_masked_accuracy"] > 0.7
    assert result["validation_successor_accuracy"] > 0.7
    assert zoo.load(tmp_path / "run").task == "pretrain"
    assert zoo.load(tmp_path / "run", task="masked_lm").task == "masked_lm"


@pytest.mark.full  # its kin in test_gpt_pretrain is in the quick tier
def test_two_replicas_end_as_one_device(corpus: Path, tmp_path: Path, run: Path) -> None:
    """NSP on, so that rows have different lengths and weights."""
    weights = []
    for strategy in ("one", "mirrored"):
        out = tmp_path / strategy
        train_bert(
            tiny(corpus, out, steps=6, evaluate_every=6, strategy=strategy, optimizer="adamw", learning_rate=1e-3)
        )
        weights.append({name: np.frombuffer(value, "float32") for name, value in arrays_of(out).items()})
    for name, value in weights[0].items():
        scale = max(float(np.linalg.norm(value)), 1e-3)
        if not name.endswith("qkv.bias"):  # the gradient of the key's is zero, and Adam makes steps of its rounding
            assert np.linalg.norm(value - weights[1][name]) <= 1e-5 * scale, name


def arrays_of(out: Path) -> dict[str, bytes]:
    return arrays(out / "checkpoints" / "step-00000006" / "weights.safetensors")


@pytest.mark.full  # its kin in test_classify_text and test_resume are in the quick tier
def test_stopped_and_gone_on_with_ends_as_one_never_stopped(corpus: Path, tmp_path: Path) -> None:
    """With dropout, masks and order drawn anew: by SIGKILL of the process that trains."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = (
        "--no-nsp --preset bert-nano --vocabulary-size 160 --max-length 32 --dropout 0.1 --batch-size 8 --steps 60 "
        "--evaluate-every 30 --save-every 4 --no-xla --validation-fraction 0.2"
    )

    def train(out: Path) -> None:
        assert zoo_command(["train", "bert-pretrain", "--data", str(corpus), "--out", str(out), *command.split()]) == 0

    train(whole)
    process = start(["train", "bert-pretrain", "--data", str(corpus), "--out", str(parts), *command.split()])
    assert wait_until(process, lambda: newest_step(parts) >= 8)
    kill(process)
    assert newest_step(parts) < 60
    train(parts)
    last = "checkpoints/step-00000060"
    for name in ("weights.safetensors", "optimizer.safetensors"):
        assert arrays(whole / last / name) == arrays(parts / last / name)


def test_mistakes_are_told_in_a_line(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--mask-rate is 1"):
        tiny(corpus, tmp_path / "run", mask_rate=1.0)
    with pytest.raises(UserError, match=r"documents of two tokens or more.*--no-nsp"):
        train_bert(tiny(corpus / "00.txt", tmp_path / "run"))
    with pytest.raises(UserError, match="bert-pretrain trains a model to masked_lm, and gpt-nano is a gpt model"):
        train_bert(tiny(corpus, tmp_path / "run", preset="gpt-nano"))
    with pytest.raises(UserError, match="a char tokenizer has no mask token"):
        train_bert(tiny(corpus, tmp_path / "run", tokenizer="char"))
    assert not (tmp_path / "run").exists()
