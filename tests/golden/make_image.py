"""Make `tests/golden/image/`: small pictures, and what the reference's image processors make of them.

Run it with `python tests/golden/make_image.py`; it needs `transformers` (5.23 made what is there).
"""

import json
from pathlib import Path

import numpy as np
from transformers import CLIPImageProcessorPil, ViTImageProcessorPil

HERE = Path(__file__).parent / "image"
PROCESSORS = {
    "vit": ViTImageProcessorPil(size={"height": 16, "width": 24}),
    "vit_lanczos": ViTImageProcessorPil(size={"height": 12, "width": 12}, resample=1, image_mean=[0.2, 0.5, 0.7]),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
    "clip_padded": CLIPImageProcessorPil(size={"shortest_edge": 9}, crop_size={"height": 14, "width": 11}, resample=4),
    "clip_raw": CLIPImageProcessorPil(do_resize=False, do_normalize=False, crop_size={"height": 15, "width": 15}),
}


def main() -> None:
    random = np.random.default_rng(0)
    HERE.mkdir(exist_ok=True)
    pictures = [random.integers(0, 256, (*size, 3)).astype(np.uint8) for size in ((37, 20), (18, 31), (5, 9))]
    for name, processor in PROCESSORS.items():
        arrays = {}
        for i, picture in enumerate(pictures):
            (pixels,) = processor(picture, return_tensors="np")["pixel_values"]
            arrays[f"picture_{i}"] = picture
            arrays[f"pixel_values_{i}"] = np.moveaxis(pixels, 0, -1).astype(np.float32)
        np.savez_compressed(HERE / f"{name}.npz", **arrays)
        (HERE / f"{name}.json").write_text(json.dumps(json.loads(processor.to_json_string()), indent=2) + "\n")


if __name__ == "__main__":
    main()
