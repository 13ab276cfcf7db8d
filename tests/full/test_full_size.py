"""The published size of GPT-2: made, run, saved, loaded, generated with."""

import numpy as np
import pytest

import zoo
from zoo.generation import Generator

pytestmark = pytest.mark.full


def test_gpt2_is_saved_and_loaded_whole(tmp_path):
    model = zoo.create("gpt2")
    assert model.count_params() == 124_439_808
    ids = np.arange(0, 50257, 1571, dtype="int32")[None]
    logits = model({"token_ids": ids})["logits"].numpy()

    zoo.save(model, tmp_path / "gpt2")
    loaded = zoo.load(tmp_path / "gpt2")

    np.testing.assert_array_equal(loaded({"token_ids": ids})["logits"].numpy(), logits)
    cached = Generator(loaded).generate([ids[0].tolist()], 8)[0]
    tokens = ids[0].tolist()
    for _ in range(8):
        tokens.append(int(np.argmax(loaded({"token_ids": np.array([tokens], "int32")})["logits"][0, -1])))
    assert cached == tokens[len(ids[0]) :]
