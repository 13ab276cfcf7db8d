"""A trained language model writes the same text from every artefact, by its cache."""

from pathlib import Path

import numpy as np
import pytest

from export.artefacts import Plan
from export.bundle import export_bundle
from export.verify import continue_prompts, run_artefact
from tests.full.trained import make
from zoo.generation import Generator

pytestmark = pytest.mark.full

PROMPTS, COUNT = 10, 64


def test_ten_prompts_are_continued_by_64_tokens_alike(tmp_path: Path) -> None:
    trained = make("gpt", "generate", max_length=128)
    model, bundle = trained.model, tmp_path / "bundle"
    report = export_bundle(model, bundle, plan=Plan(), texts=trained.texts, examples=trained.examples)
    assert report.passed, report.failure_lines()
    words = trained.texts[0].split()
    texts = [" ".join(words[place : place + 1 + place % 7]) for place in range(PROMPTS)]
    prompts = [model.tokenizer.encode(text) for text in texts]
    end = model.tokenizer.end_of_text
    expected = [Generator(model).generate([prompt], COUNT)[0] for prompt in prompts]
    assert all(end not in tokens for tokens in expected)  # which would end a text, and not the tokens
    assert len({tuple(tokens) for tokens in expected}) == PROMPTS

    gaps = []
    for artefact in ("saved_model", "tflite", "onnx"):
        found = continue_prompts(bundle, artefact, prompts, COUNT)
        assert [each["ids"] for each in found] == expected, artefact
        gaps.append(min(each["smallest_gap"] for each in found))
    print(f"smallest gap between the two best logits: {min(gaps):.6f}")

    inputs = {
        "text": np.array([text.encode() for text in texts], "S"),
        "max_new_tokens": np.array(COUNT, "int32"),
        "temperature": np.array(0.0, "float32"),
        "top_k": np.array(0, "int32"),
        "top_p": np.array(1.0, "float32"),
        "seed": np.array(0, "int64"),
    }
    outputs = run_artefact(bundle, "saved_model_text", "text.serving_default", inputs)
    assert outputs["token_ids"].tolist() == expected
    assert [text.decode() for text in outputs["text"]] == [model.tokenizer.decode(tokens) for tokens in expected]
