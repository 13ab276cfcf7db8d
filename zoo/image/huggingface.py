"""Hugging Face's `preprocessor_config.json` to and from the fields of `Preprocessing`, as plain values."""

import re
from typing import Any

from zoo.errors import UserError

FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # in Pillow's numbering, 0 to 5
HALF = (0.5, 0.5, 0.5)
# The statistics of the data that OpenAI trained CLIP on (github.com/openai/CLIP, `clip/clip.py`).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# What the reference's classes do about a setting that their file does not mention.
_SHARED: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_center_crop": None,
    "crop_size": None,
}
_DEFAULTS = {
    "ViT": _SHARED
    | {"size": 224, "default_to_square": True, "resample": 2}
    | {"image_mean": list(HALF), "image_std": list(HALF)},
    "CLIP": _SHARED
    | {"size": 224, "default_to_square": False, "resample": 3, "do_center_crop": True, "crop_size": 224}
    | {"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)},
    "DeiT": _SHARED
    | {"size": 256, "default_to_square": True, "resample": 3, "do_center_crop": True, "crop_size": 224}
    | {"image_mean": list(HALF), "image_std": list(HALF)},
}
_CLASSES = {"vit": "ViT", "clip": "CLIP"}
# These name classes, or say where to compute and in which layout; and here every image is RGB.
_WITHOUT_EFFECT = {
    "data_format",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "use_fast",
}


def fields_of(record: dict[str, Any], family: str) -> dict[str, Any]:
    """The fields that a file's object stands for; see `Preprocessing.from_huggingface`."""
    if not isinstance(record, dict):
        raise UserError(f"expected an object with the settings of an image processor, got {record!r:.80}")
    kind = record.get("image_processor_type") or record.get("feature_extractor_type")
    name = f"{_CLASSES[family]}ImageProcessor" if kind is None else str(kind)
    match = re.fullmatch(r"(ViT|CLIP|DeiT)(FeatureExtractor|ImageProcessor(Fast|Pil)?)", name)
    if match is None:
        raise UserError(f"the image processor {name!r:.80} is not supported: it can be ViT's, CLIP's or DeiT's")
    values = dict(_DEFAULTS[match[1]])
    for key, value in record.items():
        if key in values:
            values[key] = value
        elif key not in _WITHOUT_EFFECT and value is not None and value is not False:  # a step that is off is no step
            raise UserError(f"{key!r:.80} is {value!r:.80}, and there is no such step here")
    fields: dict[str, Any] = {"height": None, "width": None}
    if values["do_resize"] or values["resample"] is not None:
        fields["resample"] = _filter_name(values["resample"])
    if values["do_resize"]:
        fields.update(_size(values["size"], "size", square=bool(values["default_to_square"])))
    if values["do_center_crop"]:
        crop = _size(values["crop_size"], "crop_size", square=True)
        fields.update({f"crop_{edge}": value for edge, value in crop.items()})
    fields["rescale_factor"] = values["rescale_factor"] if values["do_rescale"] else 1.0
    fields["mean"] = values["image_mean"] if values["do_normalize"] else 0.0
    fields["std"] = values["image_std"] if values["do_normalize"] else 1.0
    return fields


def record_of(fields: dict[str, Any], family: str) -> dict[str, Any]:
    """The file's object for some fields; see `Preprocessing.to_huggingface`."""
    has_crop, shortest_edge = fields["crop_height"] is not None, fields["shortest_edge"]
    # Before release 5 the reference ignores a crop in ViT's class, and refuses a shortest edge.
    name = "CLIP" if has_crop or shortest_edge is not None else _CLASSES[family]
    record: dict[str, Any] = {
        "image_processor_type": f"{name}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": fields["height"] is not None or shortest_edge is not None,
        "resample": FILTERS.index(fields["resample"]),
        "do_center_crop": has_crop,
        "do_rescale": True,
        "rescale_factor": fields["rescale_factor"],
        "do_normalize": True,
        "image_mean": fields["mean"],
        "image_std": fields["std"],
    }
    if shortest_edge is not None:
        record["size"] = {"shortest_edge": shortest_edge}
    elif fields["height"] is not None:
        record["size"] = {"height": fields["height"], "width": fields["width"]}
    if has_crop:
        record["crop_size"] = {"height": fields["crop_height"], "width": fields["crop_width"]}
    return record


def _size(value: Any, name: str, square: bool) -> dict[str, Any]:
    """The fields that one of the reference's sizes stands for: a number, two numbers, or an object."""
    if type(value) is int:
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    if isinstance(value, list) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    known = [{"height", "width"}] if name == "crop_size" else [{"height", "width"}, {"shortest_edge"}]
    if not isinstance(value, dict) or set(value) not in known or None in value.values():
        words = " or ".join(" and ".join(sorted(keys)) for keys in known)
        raise UserError(f"{name!r} is {value!r:.80}, and must be {words}")
    return value


def _filter_name(number: Any) -> str:
    if type(number) is not int or not 0 <= number < len(FILTERS):
        raise UserError(f"'resample' is {number!r:.80}, and must be one of Pillow's filters 0 to {len(FILTERS) - 1}")
    return FILTERS[number]
