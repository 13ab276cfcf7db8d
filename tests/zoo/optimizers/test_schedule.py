"""The learning rate of every update, against formulas in Python."""

import json
import math

import keras
import numpy as np
import pytest

from zoo.optimizers import Schedule

PEAK, STEPS, WARMUP, FINAL = 0.02, 50, 8, 0.1


def rates(schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int = STEPS) -> np.ndarray:
    return np.asarray([float(schedule(np.int64(step))) for step in range(steps)])


def expected(shape: str, step: int) -> float:
    """The fraction of the peak."""
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    done = (step - WARMUP) / (STEPS - WARMUP)
    if shape == "cosine":
        return FINAL + (1 - FINAL) * (1 + math.cos(math.pi * done)) / 2
    if shape == "linear":
        return FINAL + (1 - FINAL) * (1 - done)
    if shape == "wsd" and step > 40:
        return FINAL + (1 - FINAL) * (50 - step) / 10
    return 1.0


@pytest.mark.parametrize("shape", ["cosine", "linear", "constant", "wsd"])
def test_every_update_has_the_rate_of_the_formula(shape: str) -> None:
    schedule = Schedule(PEAK, STEPS, WARMUP, shape, FINAL, decay_fraction=0.2)
    wanted = [PEAK * expected(shape, step) for step in range(STEPS)]
    np.testing.assert_allclose(rates(schedule), wanted, rtol=2e-6)
    after = [float(schedule(step)) for step in (STEPS, 10 * STEPS)]
    np.testing.assert_allclose(after, PEAK if shape == "constant" else PEAK * FINAL, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 1, 8, 49])
def test_cosine_is_that_of_keras(warmup: int) -> None:
    stock = keras.optimizers.schedules.CosineDecay(
        PEAK / (warmup + 1), STEPS - warmup, alpha=FINAL, warmup_target=PEAK, warmup_steps=warmup
    )
    np.testing.assert_allclose(rates(Schedule(PEAK, STEPS, warmup)), rates(stock), rtol=2e-6)


def test_a_decay_that_does_not_fit_begins_after_the_warmup() -> None:
    found = rates(Schedule(PEAK, 10, 4, "wsd", 0.0, decay_fraction=1.0), 10)
    np.testing.assert_allclose(found / PEAK, [0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6], rtol=1e-5)


def test_a_schedule_comes_back_from_its_config() -> None:
    schedule = Schedule(PEAK, STEPS, WARMUP, "wsd", 0.2, 0.3)
    config = json.loads(json.dumps(keras.optimizers.schedules.serialize(schedule)))
    again = keras.optimizers.schedules.deserialize(config)
    np.testing.assert_array_equal(rates(again), rates(schedule))
    assert again.get_config() == schedule.get_config()


@pytest.mark.parametrize(("given", "told"), [({"shape": "sine"}, "wsd"), ({"warmup_steps": 50}, "below steps")])
def test_what_is_impossible_is_refused(given: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Schedule(**{"peak": PEAK, "steps": STEPS, **given})
