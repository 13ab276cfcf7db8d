"""ViT: trained on scikit-learn's handwritten digits, exported, and held-out digits told by the model and by every
artefact alike."""

from pathlib import Path

from recipes.data.augmentation import Augmentation
from recipes.data.samples import digits_folder
from recipes.demos.journey import Arrival, Journey, artefact_figures, classify_everywhere
from recipes.engine.image_origin import ImageOrigin
from recipes.engine.optimizer import Optimization
from recipes.engine.settings import Training
from recipes.engine.start import start_tensorflow
from recipes.vit_pretrain import ViTPretrain, train_vit
from zoo.files import require_free

# A minute on two cores that have nothing else to do.
TRAINING = Training(
    steps=1000,
    batch_size=64,
    evaluate_every=100,
    optimization=Optimization(optimizer="muon", learning_rate=3e-3, warmup_steps=50, final_learning_rate=0.02),
)


def travel(journey: Journey) -> Arrival:
    """Leaves `run/` and `bundle/`."""
    run_directory, bundle = journey.out / "run", journey.out / "bundle"
    require_free(bundle, journey.force, marker="bundle.json")
    digits = digits_folder()
    trained = train_vit(
        ViTPretrain(
            data=digits / "train",
            out=run_directory,
            # Digits have a left and a right, and fill their image.
            augmentation=Augmentation(crop_area=0.7, flip=False, cutmix=1.0),
            origin=ImageOrigin(preset="vit-nano", width=64, depth=4, patch_size=2, image_size=8),
            training=journey.training(TRAINING),
            restart=journey.force,
        )
    )

    start_tensorflow()
    import zoo
    from export.bundle import export_bundle
    from recipes.command.reporting import report_table, tell
    from zoo.prediction import model_inputs

    model = zoo.load(run_directory)
    report = export_bundle(model, bundle, force=journey.force, progress=tell)
    files = sorted((digits / "test").glob("*/*.png"))
    tell(f"telling {len(files)} digits with the Keras model and each artefact")
    inputs = model_inputs(model, images=files)
    accuracies, agree = classify_everywhere(model, bundle, inputs, [file.parent.name for file in files])
    line, nearest = _baselines(digits)
    result = {
        "validation_accuracy": trained["validation_accuracy"],
        "accuracy": accuracies["keras"],
        "accuracies": accuracies,
        "agree": agree,
        "regression_accuracy": line,
        "neighbour_accuracy": nearest,
        "artefacts": artefact_figures(report),
        "paths": {"run": str(run_directory), "model": str(run_directory / "model"), "bundle": str(bundle)},
    }
    shown = [
        report_table(report),
        f"accuracy on {len(files)} held-out digits:",
        *(f"  {name:12}{accuracy:.4f}" for name, accuracy in accuracies.items()),
        f"  beside it, on the pixels: logistic regression {line:.4f}, the nearest neighbour {nearest:.4f}",
        f"\n{'the same answers from all' if agree else 'DIFFERENT answers'}",
        f"pictures of what it said: {run_directory / 'predictions.png'}, {run_directory / 'mistakes.png'}\n",
    ]
    return Arrival(report.passed and agree, result, shown)


def _baselines(digits: Path) -> tuple[float, float]:
    """The accuracy of logistic regression, and of the nearest neighbour, on the pixels."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    from zoo.image import read_image

    sides = []
    for name in ("train", "test"):
        files = sorted((digits / name).glob("*/*.png"))
        pixels = np.stack([read_image(file)[..., 0].ravel() / 255 for file in files])
        sides.append((pixels, [file.parent.name for file in files]))
    known, asked = sides
    return tuple(
        float(each.fit(*known).score(*asked)) for each in (LogisticRegression(max_iter=2000), KNeighborsClassifier(1))
    )  # type: ignore[return-value]
