"""GPT: trained on Python's documentation, exported, and a prompt continued by the model and by every artefact alike."""

from typing import Any

from recipes.data.samples import python_documentation_folder
from recipes.data.text import first_text
from recipes.demos.journey import ARTEFACTS, Arrival, Journey, artefact_figures
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.engine.start import start_tensorflow
from recipes.gpt_pretrain import GPTOrigin, GPTPretrain, train_gpt
from zoo.errors import UserError
from zoo.files import require_free
from zoo.registry import find_preset

NEW_TOKENS = 64
# About 1.2 million tokens: a minute and a half on two cores that have nothing else to do.
TRAINING = Training(
    steps=600,
    batch_size=16,
    evaluate_every=100,
    optimization=Optimization(optimizer="muon", learning_rate=1e-2, warmup_steps=50),
)


def travel(journey: Journey) -> Arrival:
    """Leaves `run/` and `bundle/`."""
    run_directory, bundle = journey.out / "run", journey.out / "bundle"
    require_free(bundle, journey.force, marker="bundle.json")
    room = find_preset(GPTOrigin.preset)[1].to_dict()["max_length"] - NEW_TOKENS
    if not 0 < len(journey.prompt.encode("utf-8", "replace")) <= room:  # a token has at least one byte
        raise UserError(f"--prompt has {len(journey.prompt)} characters: 1 to {room} bytes are possible")
    documentation = python_documentation_folder()
    trained = train_gpt(
        GPTPretrain(
            data=(documentation,),
            out=run_directory,
            training=journey.training(TRAINING),
            sample_prompt=journey.prompt,
            restart=journey.force,
        )
    )

    start_tensorflow()
    import zoo
    from export.bundle import export_bundle
    from recipes.command.reporting import report_table, tell

    model = zoo.load(run_directory)
    report = export_bundle(model, bundle, texts=[first_text(documentation)], force=journey.force, progress=tell)
    tell(f"continuing {journey.prompt!r} by {NEW_TOKENS} tokens with the Keras model and each artefact")
    texts, smallest_gap = _continue_everywhere(model, bundle, journey.prompt)
    identical = len(set(texts.values())) == 1
    ratio = trained["validation_loss"] / trained["unigram_entropy"]
    result = {
        "validation_loss": trained["validation_loss"],
        "unigram_entropy": trained["unigram_entropy"],
        "loss_over_entropy": ratio,
        "prompt": journey.prompt,
        "continuations": texts,
        "identical": identical,
        "smallest_gap": smallest_gap,
        "artefacts": artefact_figures(report),
        "paths": {"run": str(run_directory), "model": str(run_directory / "model"), "bundle": str(bundle)},
    }
    shown: list[Any] = [
        f"validation loss {trained['validation_loss']:.3f} nats a token, {ratio:.2f} of the text's unigram entropy "
        f"{trained['unigram_entropy']:.3f}",
        report_table(report),
    ]
    by_text: dict[str, list[str]] = {}
    for name, text in texts.items():
        by_text.setdefault(text, []).append(name)
    for text, names in by_text.items():
        shown += [f"{', '.join(names)} continue by {NEW_TOKENS} tokens, greedy:", journey.prompt + text]
    shown.append(
        f"\n{'identical' if identical else 'DIFFERENT'} continuations; "
        f"smallest gap between the two best tokens: {smallest_gap:.4f}\n"
    )
    return Arrival(report.passed and identical, result, shown)


def _continue_everywhere(model: Any, bundle: Any, prompt: str) -> tuple[dict[str, str], float]:
    """The greedy continuation of `prompt` by the Keras model and by every artefact, each with its cache; and the
    smallest distance between the two best logits that any artefact met."""
    from export.verify import continue_prompts
    from zoo.generation import Generator

    prompt_ids = model.tokenizer.encode(prompt)
    texts = {"keras": model.tokenizer.decode(Generator(model).generate([prompt_ids], NEW_TOKENS)[0])}
    gaps = []
    for artefact in ARTEFACTS:
        (continuation,) = continue_prompts(bundle, artefact, [prompt_ids], NEW_TOKENS)
        texts[artefact] = model.tokenizer.decode(continuation["ids"])
        gaps.append(continuation["smallest_gap"])
    return texts, min(gaps)
