"""How often the image of a caption is among the ten nearest to it, of a CLIP or of a baseline: ridge regression from
pixels to the words of the caption (scikit-learn).

    python -m benchmarks.caption_recall --test test.jsonl --model run [--without "skin tone"]
    python -m benchmarks.caption_recall --test test.jsonl --train train.jsonl [--without "skin tone"]

Every caption is looked for among all images; `--without` gives the figure of the captions without some words as well.
The baseline sees images of 24 x 24 pixels, transparent ones before white, and knows captions as bags of their words,
each divided by its length.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from recipes.data.captions import CaptionedImages, CaptionSource, read_captions
from recipes.data.image_columns import CaptionColumns, find_caption_columns
from recipes.data.tables import open_table
from recipes.reports.matching import Matches, match_ranks

SIDE = 24
ALPHA = 300.0  # of 10, 30, 100, 300 and 1000 the best for it on the test split of the emoji


def read(path: Path) -> CaptionedImages:
    """The images and captions of a table."""
    table = open_table(path)
    return read_captions(table, find_caption_columns(table, CaptionColumns(None, ("caption",))))


def vectors_of_model(run: Path, data: CaptionedImages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images and captions by a CLIP, of length 1, and which are the same."""
    import zoo
    from recipes.matching import Matching

    model = zoo.load(run)
    source = CaptionSource(data, model.preprocessing, model.tokenizer, model.config.max_length)
    said = Matching(source, 64).judge(model)
    return said.images, said.captions, source.pairs


def vectors_of_ridge(train: CaptionedImages, test: CaptionedImages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, by ridge regression."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import normalize

    words = CountVectorizer(binary=True, token_pattern=r"\w+")
    known = normalize(words.fit_transform(first_captions(train)).toarray().astype(float))
    asked = normalize(words.transform(first_captions(test)).toarray().astype(float))
    regression = Ridge(alpha=ALPHA).fit(pixels(train), known)
    number = {caption: place for place, caption in enumerate(dict.fromkeys(first_captions(test)))}
    pairs = np.array([[place, number[caption]] for place, caption in enumerate(first_captions(test))])
    return normalize(regression.predict(pixels(test))), asked, pairs


def first_captions(data: CaptionedImages) -> list[str]:
    return [data.captions(place)[0] for place in range(len(data))]


def pixels(data: CaptionedImages) -> np.ndarray:
    """(images, SIDE * SIDE * 3), from 0 to 1."""
    rows = []
    for row in data.rows.tolist():
        with Image.open(data.pictures.text("file", row)) as image:
            picture = image.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        rows.append(np.asarray(white.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)).ravel() / 255)
    return np.stack(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--test", type=Path, required=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model", type=Path)
    which.add_argument("--train", type=Path)
    parser.add_argument("--without", default="")
    settings = parser.parse_args()
    test = read(settings.test)
    if settings.model is not None:
        images, captions, pairs = vectors_of_model(settings.model, test)
    else:
        images, captions, pairs = vectors_of_ridge(read(settings.train), test)
    matches = Matches(pairs)
    ranks = match_ranks(captions, images[matches.images], matches.right_images)
    result = {"queries": len(ranks), "recall_at_10": round(float(np.mean(ranks <= 10)), 4)}
    if settings.without:
        chosen = np.array([settings.without not in caption for caption in first_captions(test)])
        result |= {"queries_without": int(chosen.sum()), "recall_at_10_without": float(np.mean(ranks[chosen] <= 10))}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
