"""AdamW with warm-up and cosine decay, as language models are trained with."""

from typing import Any

import keras

from recipes.engine.settings import Training


def make_optimizer(model: keras.Model, training: Training) -> Any:
    """AdamW (Loshchilov and Hutter 2019) for the weights of `model`, which decays matrices and embeddings only."""
    warmup = min(training.warmup_steps, training.steps - 1)
    schedule: Any = keras.optimizers.schedules.CosineDecay(
        # Keras counts steps from 0: the first update of a warm-up from 0 would be lost.
        initial_learning_rate=training.learning_rate / (warmup + 1),
        decay_steps=max(1, training.steps - warmup),
        alpha=training.final_learning_rate,
        warmup_target=training.learning_rate,
        warmup_steps=warmup,
    )
    optimizer = keras.optimizers.AdamW(
        learning_rate=schedule,
        weight_decay=training.weight_decay,
        beta_2=training.beta_2,
        epsilon=1e-8,
        global_clipnorm=training.clip_norm or None,
    )
    optimizer.exclude_from_weight_decay(var_list=[w for w in model.trainable_weights if len(w.shape) < 2])
    return optimizer
