"""Every kind of model as a .tflite file: XNNPACK takes it nearly whole, with fixed shapes and with a free axis."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from export.signatures import portable_signatures
from export.tflite import fix_shapes, write_tflite
from tests.partitions import count_partitions
from zoo.bert import BERTConfig
from zoo.gpt import GPTConfig

pytestmark = pytest.mark.full

TOKENS = 24
CASES = [
    *(("bert-nano", task) for task in ("classify", "tag", "masked_lm", "answer", "embed", "backbone")),
    *(("vit-nano", task) for task in ("classify", "embed", "backbone")),
    *(("gpt-nano", task) for task in ("generate", "classify", "embed")),
    ("clip-nano", "contrast"),
    ("clip-nano-bert", "contrast"),
]


@pytest.mark.parametrize(("preset", "task"), CASES)
def test_partitions(preset: str, task: str, enliven: Callable[..., Any], tmp_path: Path) -> None:
    """Of fixed shape at most 3. Where the length of texts or the number of images is free, at most 6, however many
    blocks there are: here 5."""
    model = enliven(_create(preset, task))
    functions = portable_signatures(model)
    fixed = [fix_shapes(each, 1, TOKENS) for each in functions]
    free = [
        dataclasses.replace(fix_shapes(each, 1 if "token_ids" in str(each.inputs) else None), name=f"free_{each.name}")
        for each in functions
    ]
    fifth = [name for name in model.named_weights() if name.endswith("block_4.attention.qkv.kernel")]
    assert len(fifth) == len(functions)  # of two towers each has five
    file = tmp_path / "model.tflite"
    write_tflite(model, [*fixed, *free], file, timeout=300)
    image = next(iter(model.input_specs)).shape[1:]
    sizes = {"images": (2, *image)} | dict.fromkeys(("token_ids", "padding_mask", "segment_ids"), (1, 7))
    counts = count_partitions(file, sizes)
    print(f"{preset} {task}: {counts}")
    assert counts.keys() == {each.name for each in (*fixed, *free)}
    for name, count in counts.items():
        assert 1 <= count <= (6 if name.startswith("free") else 3), name


def _create(preset: str, task: str) -> Any:
    if task == "contrast":
        vision = {"depth": 5}
        common: dict[str, Any] = {"vocabulary_size": 512, "max_length": 32, "width": 32, "depth": 5, "num_heads": 2}
        if preset == "clip-nano-bert":
            text: Any = BERTConfig(**common, pooler=False)
            return zoo.create("clip-nano", task, vision=vision, text=text, text_pooling="first", end_token=None)
        return zoo.create("clip-nano", task, vision=vision, text=GPTConfig(**common))
    return zoo.create(preset, task, depth=5, **({"num_classes": 3} if task in ("classify", "tag") else {}))
