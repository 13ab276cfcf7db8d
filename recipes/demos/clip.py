"""CLIP: trained on pictures of two handwritten digits with captions, exported, and asked for what no caption of its
training said: which of 40 new statements a picture shows."""

import json
from pathlib import Path

from recipes.clip_pretrain import CLIPPretrain, train_clip
from recipes.data.samples import captioned_digits_folder
from recipes.demos.journey import ARTEFACTS, Arrival, Journey, artefact_figures, judge
from recipes.engine.clip_origin import CLIPOrigin
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.engine.start import start_tensorflow
from zoo.files import require_free

# Two minutes on two cores that have nothing else to do.
TRAINING = Training(
    steps=600,
    batch_size=128,
    evaluate_every=100,
    optimization=Optimization(optimizer="muon", learning_rate=3e-3, warmup_steps=50, final_learning_rate=0.02),
)


def travel(journey: Journey) -> Arrival:
    """Leaves `run/` and `bundle/`."""
    run_directory, bundle = journey.out / "run", journey.out / "bundle"
    require_free(bundle, journey.force, marker="bundle.json")
    data = captioned_digits_folder()
    trained = train_clip(
        CLIPPretrain(
            data=data / "train.jsonl",
            out=run_directory,
            crop_area=0.8,
            origin=CLIPOrigin(preset="clip-micro", image_size=16, max_length=16),
            training=journey.training(TRAINING),
            restart=journey.force,
        )
    )

    start_tensorflow()
    import numpy as np

    import zoo
    from export.bundle import export_bundle
    from export.verify import run_artefact
    from recipes.command.reporting import report_table, tell
    from zoo.prediction import model_inputs
    from zoo.zero_shot import class_embeddings

    model = zoo.load(run_directory)
    report = export_bundle(model, bundle, force=journey.force, progress=tell)
    files, right, statements = _read(data / "test.jsonl")
    tell(f"telling {len(files)} pictures with the Keras model and each artefact")
    pictures, texts = model_inputs(model, images=files), model_inputs(model, texts=statements)
    embeddings = {"keras": (model.encode_image(**pictures), class_embeddings(model, statements, ("{}",)))}
    for artefact in ARTEFACTS:
        embeddings[artefact] = (
            run_artefact(bundle, artefact, "encode_image", pictures)["image_embedding"],
            run_artefact(bundle, artefact, "encode_text", texts)["text_embedding"],
        )
    answers = {name: np.argmax(seen @ np.transpose(said), axis=1) for name, (seen, said) in embeddings.items()}
    accuracies, agree = judge(answers, np.array(right))
    recall = trained["validation_text_to_image_recall_at_10"]
    result = {
        "validation_recall_at_10": recall,
        "accuracy": accuracies["keras"],
        "accuracies": accuracies,
        "agree": agree,
        "chance": 1 / len(statements),
        "artefacts": artefact_figures(report),
        "paths": {"run": str(run_directory), "model": str(run_directory / "model"), "bundle": str(bundle)},
    }
    shown = [
        report_table(report),
        f"{len(files)} pictures of held-out digits, each by {len(statements)} statements that no caption made before:",
        *(f"  {name:12}{accuracy:.4f}" for name, accuracy in accuracies.items()),
        f"  by chance   {1 / len(statements):.4f}",
        f"\n{'the same answers from all' if agree else 'DIFFERENT answers'}",
        f"what held-out captions find: {run_directory / 'retrieved.png'}",
        f'to search: zoo retrieve {run_directory} --index {data / "images"} "{statements[0]}" --out found.png\n',
    ]
    return Arrival(report.passed and agree, result, shown)


def _read(table: Path) -> tuple[list[Path], list[int], list[str]]:
    """Pictures, which of the statements each shows, and the statements."""
    with table.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    statements = list(dict.fromkeys(row["caption"] for row in rows))
    numbers = [statements.index(row["caption"]) for row in rows]
    return [table.parent / row["image"] for row in rows], numbers, statements
