"""GPT against `transformers`' GPT-2 on PyTorch: the same weights give the same logits, and the same gradients."""

import keras
import numpy as np
import pytest

import zoo

pytestmark = pytest.mark.peers

BLOCK = {  # ours -> theirs; theirs keeps its matrices (in, out) as ours does
    "attention_norm.gamma": "ln_1.weight",
    "attention_norm.beta": "ln_1.bias",
    "attention.qkv.kernel": "attn.c_attn.weight",
    "attention.qkv.bias": "attn.c_attn.bias",
    "attention.output.kernel": "attn.c_proj.weight",
    "attention.output.bias": "attn.c_proj.bias",
    "feed_forward_norm.gamma": "ln_2.weight",
    "feed_forward_norm.beta": "ln_2.bias",
    "feed_forward.up.kernel": "mlp.c_fc.weight",
    "feed_forward.up.bias": "mlp.c_fc.bias",
    "feed_forward.down.kernel": "mlp.c_proj.weight",
    "feed_forward.down.bias": "mlp.c_proj.bias",
}


def their_name(name: str) -> str:
    name = name.removeprefix("backbone.")
    outside = {
        "token_embedding.table": "wte.weight",
        "position_embedding.table": "wpe.weight",
        "final_norm.gamma": "ln_f.weight",
        "final_norm.beta": "ln_f.bias",
    }
    if name in outside:
        return f"transformer.{outside[name]}"
    _, block, rest = name.split(".", 2)
    return f"transformer.h.{block.removeprefix('block_')}.{BLOCK[rest]}"


@pytest.fixture(scope="module", params=range(4), ids=lambda seed: f"seed{seed}")
def pair(request):
    """Our model and theirs with the same weights, of a configuration drawn at random."""
    import torch
    import transformers

    random = np.random.default_rng(request.param)
    heads = int(random.integers(1, 6))
    config = {
        "vocabulary_size": int(random.integers(50, 300)),
        "max_length": int(random.integers(20, 60)),
        "width": heads * int(random.choice([4, 6, 10])),
        "depth": int(random.integers(1, 5)),
        "num_heads": heads,
        "mlp_width": int(random.integers(16, 100)),
        "epsilon": float(random.choice([1e-5, 1e-3])),
    }
    print(f"seed {request.param}: {config}")
    ours = zoo.create("gpt-nano", **config, dropout=0.0, attention_dropout=0.0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config["vocabulary_size"],
            n_positions=config["max_length"],
            n_embd=config["width"],
            n_layer=config["depth"],
            n_head=config["num_heads"],
            n_inner=config["mlp_width"],
            layer_norm_epsilon=config["epsilon"],
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
    )
    parameters = dict(theirs.named_parameters())
    for name, weight in ours.named_weights().items():
        value = random.normal(scale=0.2, size=weight.shape).astype("float32")
        weight.assign(value)
        with torch.no_grad():
            parameters.pop(their_name(name)).copy_(torch.from_numpy(value))
    assert not parameters  # every one of theirs has one of ours
    return ours, theirs, random


def draw(ours, random, length):
    ids = random.integers(0, ours.config.vocabulary_size, size=(3, length))
    real = np.array([length, length - length // 3, 1])
    return ids, (np.arange(length) < real[:, None]).astype("int32")


@pytest.mark.parametrize("part", [0.4, 1.0], ids=["short", "longest"])
def test_logits_with_padding(pair, part):
    import torch

    ours, theirs, random = pair
    ids, mask = draw(ours, random, int(ours.config.max_length * part))
    got = ours({"token_ids": ids.astype("int32"), "padding_mask": mask})["logits"].numpy()
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


def test_gradients_of_the_loss(pair):
    import tensorflow as tf
    import torch

    ours, theirs, random = pair
    ids, _ = draw(ours, random, ours.config.max_length)
    with tf.GradientTape() as tape:
        logits = ours({"token_ids": ids[:, :-1].astype("int32")})["logits"]
        loss = tf.reduce_mean(keras.ops.sparse_categorical_crossentropy(ids[:, 1:], logits, from_logits=True))
    named = ours.named_weights()
    gradients = tape.gradient(loss, [weight.value for weight in named.values()])

    theirs.zero_grad()
    reference = theirs(torch.from_numpy(ids), labels=torch.from_numpy(ids)).loss
    reference.backward()
    assert float(loss) == pytest.approx(float(reference.detach()), rel=1e-5)
    parameters = dict(theirs.named_parameters())
    for name, gradient in zip(named, gradients, strict=True):
        expected = parameters[their_name(name)].grad.numpy()
        got = tf.convert_to_tensor(gradient).numpy()
        # Measured against the tensor's norm: single entries may be zero, as the key bias is throughout.
        assert np.linalg.norm(got - expected) <= 1e-4 * np.linalg.norm(expected), name
