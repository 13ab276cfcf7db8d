"""The command line `zoo`. A verb's parser is built, and TensorFlow imported, only when that verb is called for."""

import gc
import importlib
import logging
import os
import sys

from recipes.command.parsing import complain
from zoo.config import nearest
from zoo.errors import UserError

VERBS = {
    "list": "families, their sizes with parameter counts, tasks, and recipes",
    "demo": "the whole journey on data that is already here: train, export, verify, use",
    "train": "train a model by a recipe, on your data; the same command goes on where it was stopped",
    "prepare": "tokenise text once, for many trainings",
    "launch": "start several workers on this machine, to try a distributed training",
    "eval": "measure a model on your data",
    "generate": "continue a prompt",
    "predict": "what a model says of texts or images",
    "embed": "one vector for each text or image",
    "retrieve": "search a folder of images, by a text or by an image",
    "zero-shot": "classify images by the names of classes alone",
    "explain": "draw what an answer rests on, and what the model attends to",
    "convert": "a model to or from Hugging Face's layout",
    "export": "write a model as SavedModel, TFLite and ONNX, with proof that they compute the same",
    "bench": "how fast every artefact of a bundle is beside the Keras model, and how large",
    "verify": "run every artefact of a bundle in its own runtime and compare",
}

OVERVIEW = f"""usage: zoo VERB ...      (zoo VERB --help tells more)

A TensorFlow / Keras model zoo: models that train right and export with proof.

{chr(10).join(f"  {verb:10}{what}" for verb, what in VERBS.items())}

  --debug   show the traceback of an error, anywhere on the line
  --version

Results go to standard output, progress and warnings to standard error. Exit codes: 0 done, 1 an artefact is out of
tolerance, 2 a mistake in what was given or an export that was interrupted, 75 a training that SIGTERM or a lost
worker stopped: the same command goes on; 130 anything else interrupted.
"""


def main() -> None:
    """Run `zoo` on the arguments of this process, and exit."""
    code = run(sys.argv[1:])
    # Keras leaves the iterators of a training in cycles. One that still fetches ahead when Python ends can wait for
    # Python for ever: 1 of about 60 processes did not end.
    gc.collect()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one verb; the exit code."""
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(OVERVIEW, end="")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"zoo {version('tf-model-zoo')}")
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        return complain(f"unknown verb {verb!r}{nearest(verb, VERBS)}")
    _configure(debug)
    try:
        return importlib.import_module(f"recipes.command.{verb.replace('-', '_')}_").run(rest)
    except UserError as error:
        if debug:
            raise
        return complain(str(error))
    except OSError as error:  # a full disk, a directory that may not be written, ...
        if debug:
            raise
        where = f": {error.filename}" if error.filename else ""
        return complain(f"{error.strerror or error}{where}")
    except KeyboardInterrupt:
        if debug:
            raise
        complain("interrupted")
        return 130


def _configure(debug: bool) -> None:
    """Our own warnings in one line each; TensorFlow's notes only when debugging."""
    if debug:
        os.environ["ZOO_DEBUG"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("zoo")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
