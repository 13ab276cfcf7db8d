"""`zoo prepare` and what trains on it: the same as on the text itself; and how mistakes are taken."""

import json
import shutil
from pathlib import Path

import pytest

import zoo
from recipes.bert_pretrain import BERTPretrain, train_bert
from recipes.command import run
from recipes.data.packing import TokenizerTraining, pack
from recipes.data.shards import open_shards
from recipes.data.text import open_corpus
from recipes.gpt_pretrain import GPTOrigin, train_gpt
from tests.recipes.conftest import assemble, tiny
from tests.recipes.resuming import STEPS, kill, newest_step, outcome, start, wait_until
from tests.recipes.test_command import refuse


def prepare(capsys, *arguments: object) -> dict:
    assert run(["prepare", *map(str, arguments), "--json"]) == 0
    told: dict = json.loads(capsys.readouterr().out.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def shards(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text of the other tests, characters, in four files and one."""
    out = tmp_path_factory.mktemp("prepared") / "shards"
    assert run(["prepare", "--data", str(text_file), "--out", str(out), "--tokenizer", "char", "--shards", "4"]) == 0
    return out


def test_it_says_what_it_made(capsys, text_file, tmp_path):
    out = tmp_path / "shards"
    arguments = ("--data", text_file, "--out", out, "--tokenizer", "bpe", "--vocabulary-size", 300, "--shards", 4)
    told = prepare(capsys, *arguments)
    made = open_shards(out)
    assert told["directory"] == str(out)
    assert (told["shards"], told["written"], told["missing"]) == (5, 5, 0)
    assert told["tokens"] == made.train.tokens + made.validation.tokens
    assert told["bytes"] == text_file.stat().st_size
    assert told["vocabulary_size"] == made.tokenizer.vocabulary_size == 300
    assert told["seconds"] > 0
    assert told["megabytes_per_second"] > 0
    assert run(["prepare", *map(str, arguments)]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    assert f"{told['tokens']:,} tokens of 0.1 MB in 5 shards, 0 of them written" in line


def test_a_share_says_what_is_missing(capsys, text_file, shards, tmp_path):
    arguments = ("--data", text_file, "--out", tmp_path / "out", "--tokenizer", shards, "--shards", 4)
    told = prepare(capsys, *arguments, "--shard", "2/2")
    assert (told["shards"], told["written"], told["missing"]) == (5, 2, 3)
    train = refuse(capsys, "train", "gpt-pretrain", "--data", tmp_path / "out", "--out", tmp_path / "run")
    assert "train-00000-of-00004, train-00002-of-00004, validation-00000-of-00001 of 5 shards are missing" in train
    assert not (tmp_path / "run").exists()
    assert run(["prepare", *map(str, arguments), "--shard", "1/2"]) == 0
    assert "3 of them written" in capsys.readouterr().out
    assert open_shards(tmp_path / "out").facts == open_shards(shards).facts


@pytest.mark.full  # takes half a minute
def test_a_run_that_was_killed_goes_on_from_however_many_shards_and_is_that_on_the_text(
    capsys, text_file, shards, tmp_path
):
    prepare(capsys, "--data", text_file, "--out", tmp_path / "one", "--tokenizer", "char", "--shards", 1)

    def command(data: Path, out: Path, *options: str) -> list[str]:
        fixed = (
            "--preset gpt-nano --max-length 32 --batch-size 8 --learning-rate 1e-2 --dropout 0.1 --no-xla "
            f"--steps {STEPS} --evaluate-every 10 --save-every 3 --sample-tokens 4"
        )
        return ["train", "gpt-pretrain", "--data", str(data), "--out", str(out), *fixed.split(), *options]

    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    process = start(command(shards, interrupted))
    reached = wait_until(process, lambda: newest_step(interrupted) >= 6)
    code, told = kill(process)
    assert reached, told
    assert code == -9
    assert 0 < newest_step(interrupted) < STEPS
    assert run(command(tmp_path / "one", interrupted)) == 0
    assert run(command(text_file, whole, "--tokenizer", "char")) == 0
    one, other = outcome(interrupted), outcome(whole)
    assert one | {"summary": None} == other | {"summary": None}  # which says what the data was
    assert figures(interrupted) == figures(whole)
    # Other text is refused, and text that is gone told of in a line.
    changed = tmp_path / "changed"
    text = text_file.read_text(encoding="utf-8")
    (tmp_path / "other.txt").write_text(text.replace("model", "ledom"), encoding="utf-8")
    prepare(capsys, "--data", tmp_path / "other.txt", "--out", changed, "--tokenizer", shards, "--shards", 2)
    assert "the data is not what the run" in refuse(capsys, *command(changed, interrupted))
    assert "does not exist" in refuse(capsys, *command(tmp_path / "gone", interrupted))


def figures(run: Path) -> list[dict]:
    """What depends on the counts of the text, and what was found in it."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bits = [{"bits": row["validation_bits_per_byte"]} for row in rows]
    return [json.loads((run / "recipe.json").read_text())["facts"], *bits]


@pytest.mark.full  # shards are in the quick tier in test_data_shards
def test_bert_is_pretrained_on_shards(capsys, tmp_path, text_file):
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = text_file.read_text(encoding="utf-8").splitlines(keepends=True)
    for number in range(20):
        (folder / f"{number:02}.txt").write_text("".join(lines[number::20]), encoding="utf-8")
    out = tmp_path / "shards"
    options = ("--tokenizer", "wordpiece", "--vocabulary-size", 200, "--validation-fraction", 0.2, "--shards", 3)
    prepare(capsys, "--data", folder, "--out", out, *options)
    changes = {"preset": "bert-nano", "max_length": 24, "steps": 4, "batch_size": 8, "evaluate_every": 4, "xla": False}
    told = train_bert(assemble(BERTPretrain, data=(out,), out=tmp_path / "run", **changes))
    assert told["validation_loss"] > 0
    packed = pack(open_corpus(folder, validation_fraction=0.2), TokenizerTraining("wordpiece", 200))
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["facts"] == packed.facts
    model = zoo.load(tmp_path / "run")
    assert model.tokenizer.same_as(packed.tokenizer)
    assert model.config.vocabulary_size == packed.tokenizer.vocabulary_size


def test_what_shards_bring_along_cannot_be_given_beside_them(capsys, text_file, shards, trained_run, tmp_path):
    def train(recipe: str, *options: object, data: tuple[object, ...] = (shards,)) -> str:
        short = ("--steps", 1, "--max-length", 16, "--no-xla")  # where it is not refused after all
        return refuse(capsys, "train", recipe, "--data", *data, "--out", tmp_path / "run", *short, *options)

    for options in (
        ("--tokenizer", "char"),
        ("--tokenizer", shards),
        ("--vocabulary-size", 300),
        ("--text-column", "text"),
        ("--validation-data", text_file),
        ("--validation-fraction", 0.2),
    ):
        told = train("gpt-pretrain", *options)
        assert str(shards) in told
        assert f"leave out {options[0]}" in told
    assert "give it alone" in train("gpt-pretrain", data=(text_file, shards))
    assert "use a bpe or char tokenizer" not in train("bert-pretrain")
    assert "char tokenizer has no mask token" in train("bert-pretrain")
    # A model to go on from has a tokenizer of its own, which must be the one.
    other = tmp_path / "other"
    prepare(capsys, "--data", text_file, "--out", other, "--tokenizer", "bpe", "--vocabulary-size", 300, "--shards", 1)
    assert "another tokenizer than that of" in train("gpt-pretrain", "--from", trained_run, data=(other,))
    wordpiece = tmp_path / "wordpiece"
    prepare(capsys, "--data", text_file, "--out", wordpiece, "--tokenizer", "wordpiece", "--vocabulary-size", 200)
    assert "wordpiece tokenizer has no token for the end" in train("gpt-pretrain", data=(wordpiece,))
    assert "was prepared for training" in refuse(capsys, "eval", trained_run, "--data", shards)
    assert "was prepared for training" in refuse(capsys, "prepare", "--data", shards, "--out", tmp_path / "again")
    assert not (tmp_path / "run").exists()


def test_a_model_goes_on_with_shards_of_its_own_tokenizer(shards, trained_run, tmp_path):
    own = {"source": str(trained_run), "tokenizer": GPTOrigin.tokenizer, "preset": GPTOrigin.preset, "max_length": None}
    told = train_gpt(tiny(shards, tmp_path / "run", steps=2, evaluate_every=2, learning_rate=1e-5, **own))
    before = json.loads((trained_run / "metrics.jsonl").read_text().splitlines()[-1])
    assert told["validation_loss"] == pytest.approx(before["validation_loss"], abs=0.1)


def test_mistakes_leave_nothing_behind(capsys, text_file, shards, tmp_path):
    out = tmp_path / "out"

    def refused(*options: object, data: tuple[object, ...] = (text_file,)) -> str:
        return refuse(capsys, "prepare", "--data", *data, "--out", out, *options)

    assert "does not exist" in refused(data=(tmp_path / "nowhere",))
    assert "does not exist" in refused(data=(text_file, tmp_path / "nowhere"))
    assert "no data is given" in refused(data=())
    assert "--shards" in refused("--shards", 0)
    assert "--shards" in refused("--shards", 257)
    for share in ("0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"):
        assert "--shard is" in refused("--shard", share) or share == "-1/2"
    assert "--shard needs a tokenizer" in refused("--shard", "1/2")
    assert "--force" in refused("--shard", "1/2", "--tokenizer", shards, "--force")
    assert "--validation-fraction" in refused("--validation-fraction", 1)
    assert "too small" in refused("--vocabulary-size", 12)
    assert "--tokenizer is 'words'" in refused("--tokenizer", "words")
    assert "no table in the data" in refused("--text-column", "text")
    assert not out.exists()
    inside = shutil.copytree(shards, tmp_path / "inside")
    shutil.copy(text_file, inside / "text.txt")
    assert "is to be read" in refuse(capsys, "prepare", "--data", inside / "text.txt", "--out", inside, "--force")
    assert "choose another --out" in refuse(capsys, "prepare", "--data", text_file, "--out", shards)
