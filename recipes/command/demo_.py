"""`zoo demo`: the whole journey on text that is on every machine."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from recipes.command.parsing import parse
from recipes.data.samples import python_documentation_folder
from recipes.data.text import first_text
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.engine.start import start_tensorflow
from recipes.gpt_pretrain import GPTOrigin, GPTPretrain, train_gpt
from zoo.errors import UserError
from zoo.files import require_free
from zoo.registry import find_preset

NEW_TOKENS = 64
# About 2.5 million tokens: two and a half minutes on two cores that have nothing else to do.
TRAINING = Training(
    steps=1200, batch_size=16, evaluate_every=150, optimization=Optimization(learning_rate=4e-3, warmup_steps=50)
)


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train a small model on Python's own documentation, export it as SavedModel, TFLite and ONNX, verify each one in
    its own runtime, and continue a prompt with the Keras model and with each of them: the same text four times.

    Leaves in --out: run/ and bundle/. Exits with 1 if an artefact differs.
    """

    family: Literal["gpt"] = "gpt"
    """Which family of models."""
    out: Path = Path("demo")
    """Directory to make."""
    steps: int = TRAINING.steps
    """Updates of the training."""
    prompt: str = "Return a new"
    """What the continuation begins with."""
    force: bool = False
    """Replace a demo that is in --out already."""
    json: bool = False
    """Print the result as one JSON object."""


def run(arguments: list[str]) -> int:
    settings = parse(Demo, arguments, "zoo demo")
    run_directory, bundle = settings.out / "run", settings.out / "bundle"
    require_free(run_directory, settings.force, marker="recipe.json")
    require_free(bundle, settings.force, marker="bundle.json")
    room = find_preset(GPTOrigin.preset)[1].to_dict()["max_length"] - NEW_TOKENS
    if not 0 < len(settings.prompt.encode("utf-8", "replace")) <= room:  # a token has at least one byte
        raise UserError(f"--prompt has {len(settings.prompt)} characters: 1 to {room} bytes are possible")
    documentation = python_documentation_folder()
    every = max(1, min(TRAINING.interval, settings.steps))
    training = dataclasses.replace(TRAINING, steps=settings.steps, evaluate_every=every)
    trained = train_gpt(
        GPTPretrain(
            data=documentation,
            out=run_directory,
            training=training,
            sample_prompt=settings.prompt,
            restart=settings.force,
        )
    )

    start_tensorflow()
    import zoo
    from export.bundle import export_bundle
    from recipes.command.reporting import report_table, tell

    model = zoo.load(run_directory)
    report = export_bundle(model, bundle, texts=[first_text(documentation)], force=settings.force, progress=tell)
    tell(f"continuing {settings.prompt!r} by {NEW_TOKENS} tokens with the Keras model and each artefact")
    texts, smallest_gap = _continue_everywhere(model, bundle, settings.prompt)
    identical = len(set(texts.values())) == 1
    result = {
        "validation_loss": trained["validation_loss"],
        "unigram_entropy": trained["unigram_entropy"],
        "loss_over_entropy": trained["validation_loss"] / trained["unigram_entropy"],
        "prompt": settings.prompt,
        "continuations": texts,
        "identical": identical,
        "smallest_gap": smallest_gap,
        "passed": report.passed and identical,
        "artefacts": {
            a.name: {"bytes": a.bytes, "max_error": a.max_error, "p50_ms": a.latency_p50_ms} for a in report.artefacts
        },
        "paths": {"run": str(run_directory), "model": str(run_directory / "model"), "bundle": str(bundle)},
    }
    if settings.json:
        print(json.dumps(result))
    else:
        _print(result, report_table(report))
    return 0 if result["passed"] else 1


def _continue_everywhere(model: Any, bundle: Path, prompt: str) -> tuple[dict[str, str], float]:
    """The greedy continuation of `prompt` by the Keras model, with its cache, and by every artefact, by full passes;
    and the smallest distance between the two best logits that any artefact met."""
    from export.verify import greedy
    from zoo.generation import Generator

    prompt_ids = model.tokenizer.encode(prompt)
    texts = {"keras": model.tokenizer.decode(Generator(model).generate([prompt_ids], NEW_TOKENS)[0])}
    gaps = []
    for artefact in ("saved_model", "tflite", "onnx"):
        continuation = greedy(bundle, artefact, prompt_ids, NEW_TOKENS)
        texts[artefact] = model.tokenizer.decode(continuation.ids)
        gaps.append(continuation.smallest_gap)
    return texts, min(gaps)


def _print(result: dict[str, Any], table: Any) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(
        f"validation loss {result['validation_loss']:.3f} nats a token, {result['loss_over_entropy']:.2f} of the "
        f"text's unigram entropy {result['unigram_entropy']:.3f}"
    )
    console.print(table)
    shown: dict[str, list[str]] = {}
    for name, text in result["continuations"].items():
        shown.setdefault(text, []).append(name)
    for text, names in shown.items():
        console.print(f"[bold]{', '.join(names)}[/bold] continue by {NEW_TOKENS} tokens, greedy:")
        console.print(result["prompt"] + text, markup=False)
    console.print(
        f"\n{'identical' if result['identical'] else 'DIFFERENT'} continuations; "
        f"smallest gap between the two best tokens: {result['smallest_gap']:.4f}\n"
    )
    for name, path in result["paths"].items():
        console.print(f"{name:8}{path}", markup=False)
