"""Parameters and operations counted from configurations alone, beside published numbers and TensorFlow's own count."""

from typing import Any

import pytest
import tensorflow as tf

import zoo
from zoo.model import Axis, ZooModel
from zoo.registry import FAMILIES, find_preset

# By preset and task: published numbers, where somebody published one.
PARAMETERS = {
    # With pooler, without heads: the metadata of KerasHub's presets, and for mini Google's checkpoint
    # uncased_L-4_H-256_A-4; 110 and 340 million in Devlin et al. 2019, the others in Turc et al. 2019.
    ("bert-tiny", "backbone"): 4_385_920,
    ("bert-mini", "backbone"): 11_170_560,
    ("bert-small", "backbone"): 28_763_648,
    ("bert-medium", "backbone"): 41_373_184,
    ("bert-base", "backbone"): 109_482_240,
    ("bert-large", "backbone"): 335_141_888,
    # With the heads of `transformers`' BertForPreTraining, BertForMaskedLM and BertForQuestionAnswering.
    ("bert-base", "pretrain"): 110_106_428,
    ("bert-base", "masked_lm"): 109_514_298,
    ("bert-base", "answer"): 108_893_186,
    # The metadata of KerasHub's presets.
    ("gpt2", "generate"): 124_439_808,
    ("gpt2-medium", "generate"): 354_823_168,
    ("gpt2-large", "generate"): 774_030_080,
    ("gpt2-xl", "generate"): 1_557_611_200,
    # With 1000 classes: timm's (ti16, s16, s32) and torchvision's (b16, b32, l16) models.
    ("vit-ti16", "classify"): 5_717_416,
    ("vit-s16", "classify"): 22_050_664,
    ("vit-s32", "classify"): 22_878_952,
    ("vit-b16", "classify"): 86_567_656,
    ("vit-b32", "classify"): 88_224_232,
    ("vit-l16", "classify"): 304_326_632,
    # OpenAI's checkpoints.
    ("clip-b32", "contrast"): 151_277_313,
    ("clip-b16", "contrast"): 149_620_737,
    ("clip-l14", "contrast"): 427_616_513,
    # Our own, which are to stay as they are.
    ("bert-nano", "backbone"): 45_024,
    ("gpt-nano", "generate"): 43_904,
    ("gpt-mini", "generate"): 1_071_872,
    ("vit-nano", "classify"): 32_554,
    ("vit-micro", "classify"): 459_562,
    ("vit-mini", "classify"): 2_693_578,
    ("clip-nano", "contrast"): 60_321,
    ("clip-micro", "contrast"): 1_314_817,
    ("clip-mini", "contrast"): 7_017_217,
}


@pytest.mark.parametrize(("preset", "task"), PARAMETERS)
def test_parameters_are_those_published(preset: str, task: str) -> None:
    assert find_preset(preset)[1].count_parameters(task) == PARAMETERS[preset, task]


def test_every_preset_is_pinned_for_its_main_task() -> None:
    presets = {(preset, family.main_task) for family in FAMILIES.values() for preset in family.presets}
    assert presets <= set(PARAMETERS)


# --- operations

TEXT = {"vocabulary_size": 23, "max_length": 9, "width": 12, "depth": 3, "num_heads": 2, "mlp_width": 20}
IMAGE = {"image_size": (8, 12), "channels": 2, "patch_size": 4, "width": 12, "depth": 3, "num_heads": 3}
SMALL: dict[str, dict[str, Any]] = {
    "bert": TEXT,
    "gpt": TEXT,
    "vit": {**IMAGE, "mlp_width": 28, "num_classes": 11},
    "clip": {"vision": IMAGE, "text": {**TEXT, "width": 16}, "projection_width": 10, "end_token": 22},
}


# What takes a vector out of a sequence, and is a product with zeros and a one for the exporters' sake alone.
SELECTED = {"clip": 2 * 9 * 16}


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_of_the_graph(family: str) -> None:
    model = zoo.create(f"{family}-nano", **SMALL[family])
    products = profile(model) - SELECTED.get(family, 0)
    # The unit of a text model is a token of a full context.
    tokens = 9 if FAMILIES[family].unit == "token" else 1
    assert model.config.count_flops() == products // tokens


def profile(model: ZooModel) -> int:
    """Operations of the matrix products of a forward pass over one input of full size, as TensorFlow's profiler counts
    them in the traced graph."""
    signature = {
        spec.name: tf.TensorSpec(
            [(size.maximum or 1) if isinstance(size, Axis) else size for size in spec.shape], spec.dtype
        )
        for spec in model.input_specs
    }
    graph = tf.function(lambda inputs: model(inputs, training=False)).get_concrete_function(signature).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    options.with_accounted_types(["MatMul", "BatchMatMulV2", "Conv2D"]).with_empty_output()
    return tf.compat.v1.profiler.profile(graph, cmd="op", options=options.build()).total_float_ops
