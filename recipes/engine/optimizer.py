"""The optimizer of a run: which one, its learning rate over the steps, which weights it trains, and how each."""

import dataclasses
from typing import Any, Literal

from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Which weights are trained, and how they follow their gradients."""

    optimizer: Literal["adamw", "lamb", "muon", "sgd"] = "adamw"
    """AdamW; LAMB, for batches of thousands; Muon, for the matrices of the blocks, with AdamW for the rest; or SGD."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """After a linear warm-up; wsd stays at the peak and decays linearly at the end."""
    warmup_steps: int = 100
    """Updates before the peak."""
    final_learning_rate: float = 0.1
    """Where the decay ends, as a fraction of the peak."""
    decay_fraction: float = 0.1
    """The part of the run at its end in which wsd decays."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices and embeddings; biases and norms have none."""
    beta_1: float = 0.9
    """Decay of the first moment; the momentum of SGD."""
    beta_2: float = 0.99
    """Decay of AdamW's second moment."""
    epsilon: float = 1e-8
    """Added to the root of the second moment, which divides an update."""
    clip_norm: float = 1.0
    """Longest global gradient; 0 does not clip."""
    layer_decay: float = 1.0
    """What the learning rate is multiplied by for each layer below the head; 0.65 to 0.9 is usual in fine-tuning."""
    adapt: Literal["full", "lora", "frozen"] = "full"
    """What is trained of a model given with --from: all of it, low-rank adapters and the head, or the head alone."""
    freeze: tuple[str, ...] = ()
    """Weights to leave as they are, by name or pattern: backbone.token_embedding.* or *.block_[01].*"""
    lora_rank: int = 8
    """Rank of the adapters that --adapt lora trains."""
    lora_alpha: float = 16.0
    """What an adapter adds is scaled by this over the rank."""
    lora_dropout: float = 0.0
    """Rate of dropout on the input of an adapter."""
    lora_layers: tuple[str, ...] = ("*.attention.*", "*.feed_forward.*")
    """The layers that get adapters, by name or pattern."""
    ema: float = 0.0
    """Decay of an average of the weights, such as 0.999: what is evaluated and kept in model/; 0 averages nothing."""

    def __post_init__(self) -> None:
        for name in ("warmup_steps", "weight_decay", "clip_norm"):
            self._require(name, 0 <= getattr(self, name) < float("inf"), "0 or more")
        for name in ("learning_rate", "epsilon", "lora_alpha"):
            self._require(name, 0 < getattr(self, name) < float("inf"), "above 0")
        for name in ("beta_1", "beta_2", "lora_dropout", "ema"):
            self._require(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        for name in ("decay_fraction", "layer_decay"):
            self._require(name, 0 < getattr(self, name) <= 1, "above 0, and 1 at most")
        self._require("final_learning_rate", 0 <= self.final_learning_rate <= 1, "from 0 to 1")
        self._require("lora_rank", self.lora_rank >= 1, "at least 1")
        self._require(
            "layer_decay",
            self.layer_decay == 1 or self.optimizer != "sgd",
            "1 with --optimizer sgd, which has one learning rate for all weights",
        )

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(self, name)}, and must be {allowed}")


def make_optimizer(model: Any, optimization: Optimization, steps: int) -> Any:
    """The Keras optimizer for `model`, to which it gives adapters and whose weights it freezes where asked to: call it
    before `compile`.

    Args:
        model: a `zoo.model.ZooModel`, built.
        optimization: the settings.
        steps: updates of the whole run.

    Raises:
        UserError: a pattern of `freeze` matches no weight, or nothing is left to train, or the learning rate is to
            decay by layer in a model without layers.
    """
    import keras

    import zoo.lora
    import zoo.optimizers

    o = optimization
    if o.adapt == "lora":
        zoo.lora.add_lora(model, o.lora_rank, o.lora_alpha, o.lora_dropout, o.lora_layers)
    frozen = [name for name in model.named_weights() if o.adapt == "frozen" and not model.is_head(name)]
    zoo.optimizers.freeze(model, [*o.freeze, *frozen])
    warmup = min(o.warmup_steps, steps - 1)
    rate = zoo.optimizers.Schedule(o.learning_rate, steps, warmup, o.schedule, o.final_learning_rate, o.decay_fraction)
    common: dict[str, Any] = {
        "learning_rate": rate,
        "weight_decay": o.weight_decay,
        "global_clipnorm": o.clip_norm or None,
        "use_ema": o.ema > 0,
        "ema_momentum": o.ema,
    }
    if o.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(momentum=o.beta_1, **common)
        optimizer.exclude_from_weight_decay([w for w in model.trainable_weights if not zoo.optimizers.is_decayed(w)])
        return optimizer
    kinds = {"adamw": zoo.optimizers.AdamW, "lamb": zoo.optimizers.LAMB, "muon": zoo.optimizers.Muon}
    factors = zoo.optimizers.layer_factors(model, o.layer_decay) if o.layer_decay != 1 else None
    return kinds[o.optimizer](beta_1=o.beta_1, beta_2=o.beta_2, epsilon=o.epsilon, factors=factors, **common)
