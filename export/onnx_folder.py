"""A folder as Hugging Face's hub has them for ONNX, with the files and names that Optimum and transformers.js look for.
Neither has been run on one."""

import json
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.processes import one_line, run_child
from zoo.errors import UserError

if TYPE_CHECKING:  # the process that renames has no need of Keras
    from zoo.model import ZooModel

FILES = {"encode_text": "text_model", "encode_image": "vision_model"}  # by function; any other's is "model"
SUFFIXES = {"float32": "", "float16": "_fp16", "int8": "_int8", "int4": "_q4"}
INPUTS = {
    "token_ids": "input_ids",
    "padding_mask": "attention_mask",
    "segment_ids": "token_type_ids",
    "positions": "position_ids",
    "images": "pixel_values",
}
OUTPUTS = {
    "logits": "logits",
    "start_logits": "start_logits",
    "end_logits": "end_logits",
    "sequence": "last_hidden_state",
    "pooled": "pooler_output",
    "embedding": "sentence_embedding",
    "text_embedding": "text_embeds",
    "image_embedding": "image_embeds",
}
AXES = {
    "batch": "batch_size",
    "tokens": "sequence_length",
    "past": "past_sequence_length",
    "past + tokens": "past_sequence_length + sequence_length",
}


def write_onnx_folder(
    model: "ZooModel", files: Mapping[str, Mapping[str, Path]], directory: Path, timeout: float
) -> None:
    """Write a folder from ONNX files of `model`, whole or not at all.

        config.json               and what else `zoo.save(layout="hf")` writes, but for the weights
        onnx/model.onnx           of two towers onnx/text_model.onnx and onnx/vision_model.onnx
        onnx/model_fp16.onnx      float16; likewise model_int8.onnx, and model_q4.onnx for int4
        onnx/model.onnx_data      the weights of model.onnx where they exceed 2 GB; likewise model_fp16.onnx_data, ...

    Inputs and outputs have the names that Optimum gives them: `input_ids`, `attention_mask`, `token_type_ids` and
    `position_ids`, int64; `pixel_values`, float32 (batch, channels, height, width); `past_key_values.0.key`, ... in and
    `present.0.key`, ... out; `logits`, `start_logits`, `end_logits`, `last_hidden_state`, `pooler_output`. What a model
    of ours concludes from these is left out. An embedding is `sentence_embedding`, a text tower's `text_embeds` and an
    image tower's, or an image model's, `image_embeds`; those of two towers have length 1, which theirs have not.

    Args:
        model: what the files are of.
        files: by the name of the function (`decode_with_past` of a model that generates, `encode_text` and
            `encode_image` of two towers, `serving_default` of others), then by precision, of `SUFFIXES`.
        directory: a new one.
        timeout: seconds for each file.

    Raises:
        UserError: `directory` is taken, or Hugging Face's layout has no place for the model, or Optimum none for an
            input of it.
        ChildFailure: a file cannot be rewritten.
        OSError: the disk is full.
    """
    from export.onnx import EXTERNAL_ABOVE
    from zoo.files import whole_directory, write_json
    from zoo.huggingface import reading_length, write_settings
    from zoo.presets import PREPROCESSOR

    check_folder(model)
    with whole_directory(directory) as partial:
        write_settings(partial, model)
        if model.preprocessing is not None:
            write_json(partial / PREPROCESSOR, model.preprocessing.to_huggingface(model.family))
        if model.tokenizer is not None:
            model.tokenizer.save(partial, layout="hf", max_length=reading_length(model.tokenizer, model.config))
        (partial / "onnx").mkdir()
        renamed = _outputs_of(model)
        with tempfile.TemporaryDirectory() as scratch:
            for function, by_precision in files.items():
                for precision, file in by_precision.items():
                    out = partial / "onnx" / folder_file(function, precision)
                    request = {
                        "file": str(file.resolve()),
                        "out": str(out),
                        "outputs": renamed,
                        "external_above": EXTERNAL_ABOVE,
                    }
                    Path(scratch, "request.json").write_text(json.dumps(request))
                    run_child(["-P", "-m", "export.onnx_folder", str(Path(scratch, "request.json"))], timeout)


def check_folder(model: "ZooModel") -> None:
    """Raise UserError where `write_onnx_folder` would, whatever the files are."""
    from zoo.huggingface import write_settings

    strange = [spec.name for spec in model.input_specs if spec.name not in INPUTS]
    if strange:
        raise UserError(
            f"Optimum knows no input like {strange[0]}, which a {model.family} model for {model.task!r} takes: load it "
            "for another task"
        )
    with tempfile.TemporaryDirectory() as scratch:
        write_settings(Path(scratch), model)


def folder_file(function: str, precision: str) -> str:
    """The name of a file in the folder `onnx`."""
    return f"{FILES.get(function, 'model')}{SUFFIXES[precision]}.onnx"


def folder_names(model: "ZooModel", names: Iterable[str]) -> dict[str, str]:
    """What inputs and outputs of ours are called there, of those that are there."""
    outputs = _outputs_of(model)
    theirs = {name: _theirs(name, INPUTS) or _theirs(name, outputs) for name in names}
    return {name: other for name, other in theirs.items() if other is not None}


def _outputs_of(model: "ZooModel") -> dict[str, str]:
    return OUTPUTS | ({"embedding": "image_embeds"} if model.family == "vit" else {})


def _rewrite(request: dict[str, Any]) -> None:
    import onnx

    from export.onnx_graph import Graph, every_node, save

    model = onnx.load(request["file"])
    graph, first = model.graph, []
    renamed: dict[str, Any] = {}
    for value in graph.input:
        ours = value.name
        value.name = _theirs(ours, INPUTS)
        dims = value.type.tensor_type.shape.dim
        for axis in dims:
            if axis.dim_param:
                axis.dim_param = AXES[axis.dim_param]
        if value.type.tensor_type.elem_type == onnx.TensorProto.INT32:
            value.type.tensor_type.elem_type = onnx.TensorProto.INT64
            first.append(onnx.helper.make_node("Cast", [value.name], [ours], to=onnx.TensorProto.INT32))
        elif ours == "images":
            height, width, channels = (axis.dim_value for axis in dims[1:])
            for axis, size in zip(dims[1:], (channels, height, width), strict=True):
                axis.dim_value = size
            first.append(onnx.helper.make_node("Transpose", [value.name], [ours], perm=[0, 2, 3, 1]))
        else:
            renamed[ours] = value.name
    for place in reversed(range(len(graph.output))):
        value = graph.output[place]
        theirs = _theirs(value.name, request["outputs"])
        if theirs is None:
            del graph.output[place]
        else:
            renamed[value.name] = theirs
            value.name = theirs
    for node in every_node(graph):
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    Graph(model).replace({}, first)
    save(model, Path(request["out"]), request["external_above"], "_data")


def _theirs(ours: str, names: dict[str, str]) -> str | None:
    """Their name of an input or an output; None where they have none."""
    if cached := re.fullmatch(r"(past|present)_(key|value)_([0-9]+)", ours):
        when, part, block = cached.groups()
        return f"{'past_key_values' if when == 'past' else 'present'}.{block}.{part}"
    return names.get(ours)


if __name__ == "__main__":
    try:
        _rewrite(json.loads(Path(sys.argv[1]).read_text()))
    except Exception as error:
        sys.exit(one_line(f"{type(error).__name__}: {error}"))
