"""AdamW and Muon beside PyTorch's own, over several updates."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.zoo.optimizers.weights import gradients, make_weights
from zoo.optimizers import AdamW, Muon

pytestmark = pytest.mark.peers

STEPS = 6
NAMES = ("backbone.transformer.block_0.attention.qkv.kernel", "backbone.transformer.block_0.feed_forward.down.kernel")


def assert_both_end_alike(optimizer: Any, peer: Any, parts: int) -> None:
    """Compare after `STEPS` updates, where the peer has the three parts of the fused kernel as weights of their own."""
    import torch

    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=gradients(1)[0][name].shape).astype("float32") for name in NAMES}
    weights = make_weights(values)
    split = [
        part for value, count in zip(values.values(), (parts, 1), strict=True) for part in np.split(value, count, 1)
    ]
    parameters = [torch.nn.Parameter(torch.tensor(np.ascontiguousarray(part))) for part in split]
    peer = peer(parameters)
    for found in gradients(STEPS):
        chosen = [found[name].astype("float32") for name in NAMES]
        optimizer.apply([tf.constant(gradient) for gradient in chosen], weights)
        pieces = [part for value, count in zip(chosen, (parts, 1), strict=True) for part in np.split(value, count, 1)]
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = torch.tensor(np.ascontiguousarray(piece))
        peer.step()
    results = [parameter.detach().numpy() for parameter in parameters]
    for weight, wanted in zip(weights, (np.concatenate(results[:parts], 1), results[parts]), strict=True):
        np.testing.assert_allclose(weight.numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_adamw() -> None:
    """PyTorch adds epsilon elsewhere: here it is too small to show."""
    import torch

    settings: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-12}
    ours = AdamW(0.02, 0.3, beta_1=0.8, beta_2=0.95, epsilon=1e-12)
    assert_both_end_alike(ours, lambda parameters: torch.optim.AdamW(parameters, **settings), parts=1)


def test_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch orthogonalises in bfloat16: here it is made to in float32, as we do."""
    import torch

    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    settings: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    ours = Muon(0.02, 0.3, momentum=0.9)
    assert_both_end_alike(ours, lambda parameters: torch.optim.Muon(parameters, **settings), parts=3)
