"""`hf:organisation/name[@revision]`, found in a cache that is laid out as `huggingface_hub` lays it out. No network."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects

import zoo
from tests.golden import MODELS
from zoo.directory import find_model_directory
from zoo.errors import UserError
from zoo.hub import FILES, fetch

MAIN, OLD = "a" * 40, "b" * 40  # two commits


def add_snapshot(cache: Path, name: str, commit: str, checkpoint: str, revision: str | None = None) -> Path:
    """Files as links to blobs, under the commit, which `revision` leads to."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for path in (MODELS / checkpoint).iterdir():
        if path.is_file() and path.name != "expected.safetensors":
            blob = repository / "blobs" / f"{commit[:4]}-{path.name}"
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, blob)
            snapshot.mkdir(parents=True, exist_ok=True)
            (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    if revision:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    return snapshot


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no way out."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def refusal(source: str) -> str:
    with pytest.raises(UserError) as caught:
        zoo.load(source)
    message = str(caught.value)
    assert "\n" not in message and source[:100] in message
    return message


def test_a_checkpoint_is_found_by_its_name_and_revision(cache: Path) -> None:
    main = add_snapshot(cache, "org/tiny.bert-1", MAIN, "bert-tag", revision="main")
    old = add_snapshot(cache, "org/tiny.bert-1", OLD, "bert-answer", revision="v1.0")
    assert fetch("hf:org/tiny.bert-1") == main
    assert fetch("hf:org/tiny.bert-1@main") == main
    assert fetch(f"hf:org/tiny.bert-1@{MAIN}") == main
    assert fetch("hf:org/tiny.bert-1@v1.0") == old
    assert find_model_directory(f"hf:org/tiny.bert-1@{OLD}") == old
    model = zoo.load("hf:org/tiny.bert-1")
    assert (model.family, model.task, model.config.num_classes) == ("bert", "tag", 5)


def test_a_name_without_an_organisation(cache: Path) -> None:
    snapshot = add_snapshot(cache, "gpt2", MAIN, "gpt-generate", revision="main")
    assert fetch("hf:gpt2") == snapshot


@pytest.mark.parametrize("source", ["hf:org/unknown", "hf:org/known@unknown", f"hf:org/known@{OLD}", "hf:unknown"])
def test_what_is_not_in_the_cache_is_refused_offline(cache: Path, source: str) -> None:
    add_snapshot(cache, "org/known", MAIN, "bert-tag", revision="main")
    assert refusal(source) == f"{source}: the hub cannot be reached, and the checkpoint is not in the cache"


@pytest.mark.parametrize(
    "source",
    [
        "hf:",
        "hf:/",
        "hf:org/",
        "hf:/name",
        "hf:a/b/c",
        "hf:../../etc",
        "hf:org/a name",
        "hf:org/name@",
        "hf:org/name@a b",
        "hf:@main",
        "hf:https://host/org/name",
        "hf:org\\name",
        "hf:org/name\n",
        "hf:org/name@main@main",
    ],
)
def test_what_is_no_name_is_refused(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("it was asked for"))
    with pytest.raises(UserError, match=r"expected hf:organisation/name\[@revision\]") as caught:
        zoo.load(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["hf:org/na--me", "hf:../name", "hf:.org/name", "hf:org/name-", "hf:" + "n" * 200])
def test_a_name_that_the_hub_cannot_have_is_refused(source: str) -> None:
    assert refusal(source)


@pytest.mark.parametrize(
    "error",
    [
        OSError("disk full\nwith details"),
        HfHubHTTPError.__bases__[0]("403 Forbidden"),  # of the HTTP library, as where a proxy refuses
        LocalEntryNotFoundError("no connection\nwith details"),
        OSError(),
    ],
)
def test_a_failure_on_the_way_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: Any, **settings: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert refusal("hf:org/name").startswith("hf:org/name: ")


def test_what_is_fetched_holds_neither_code_nor_pickles() -> None:
    wanted = [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "preprocessor_config.json",
        "modules.json",
        "1_Pooling/config.json",
    ]
    unwanted = [
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "tf_model.h5",
        "flax_model.msgpack",
        "model.onnx",
        "onnx/model.onnx",
        "rust_model.ot",
        "modeling.py",
        "training_args.bin",
        "optimizer.pt",
        "README.md",
        ".gitattributes",
    ]
    assert list(filter_repo_objects([*wanted, *unwanted], allow_patterns=list(FILES))) == wanted


def test_a_repository_with_a_pickle_alone_is_refused_with_the_command_that_converts_it(cache: Path) -> None:
    snapshot = add_snapshot(cache, "org/old", MAIN, "bert-tag", revision="main")
    (snapshot / "model.safetensors").unlink()  # the pickle beside it was never fetched
    message = refusal("hf:org/old")
    assert "transformers.BertForTokenClassification.from_pretrained('org/old')" in message
    assert "save_pretrained('old-safetensors')" in message
