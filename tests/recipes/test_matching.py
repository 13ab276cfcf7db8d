"""Ranks of images by captions and of captions by images, and the pictures of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.reports.matching import Matches, match_ranks, matching_figures, write_matching
from zoo.image import read_image


def draw_vectors(rows: int, images: int, captions: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vectors of pairs in which images and captions are repeated, each with a vector of its own."""
    draw = np.random.default_rng(seed)
    pairs = np.stack([draw.integers(images, size=rows), draw.integers(captions, size=rows)], axis=1)
    tables = (draw.normal(size=(count, 5)).astype("float32") for count in (images, captions))
    of_images, of_captions = (table / np.linalg.norm(table, axis=1, keepdims=True) for table in tables)
    return of_images[pairs[:, 0]], of_captions[pairs[:, 1]], pairs


def rank_by_hand(queries: np.ndarray, candidates: np.ndarray, pairs: np.ndarray, query: int) -> list[int]:
    """Column `query` of the pairs looks for the other one."""
    ranks = []
    for row, vector in enumerate(queries):
        wanted = {tuple(pair)[1 - query] for pair in pairs.tolist() if pair[query] == pairs[row, query]}
        nearest = {pair[1 - query]: float(vector @ candidates[place]) for place, pair in enumerate(pairs.tolist())}
        best = max(nearest[number] for number in wanted)
        ranks.append(1 + sum(cosine >= best for number, cosine in nearest.items() if number not in wanted))
    return ranks


@pytest.mark.parametrize(("images", "captions"), [(400, 400), (12, 400), (400, 12), (15, 15)])
def test_figures_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, images: int, captions: int) -> None:
    monkeypatch.setattr("recipes.reports.matching.ROWS_AT_ONCE", 7)
    of_images, of_captions, pairs = draw_vectors(40, images, captions)
    found = matching_figures(of_images, of_captions, Matches(pairs))
    for name, ranks in (
        ("text_to_image", rank_by_hand(of_captions, of_images, pairs, 1)),
        ("image_to_text", rank_by_hand(of_images, of_captions, pairs, 0)),
    ):
        assert found[f"{name}_recall_at_1"] == pytest.approx(np.mean([rank <= 1 for rank in ranks]))
        assert found[f"{name}_recall_at_10"] == pytest.approx(np.mean([rank <= 10 for rank in ranks]))
        assert found[f"{name}_mean_reciprocal_rank"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
        assert found[f"{name}_median_rank"] == np.median(ranks)


def test_any_image_of_a_caption_is_right_and_each_is_there_once() -> None:
    matches = Matches(np.array([[7, 1], [3, 1], [3, 2], [5, 2], [7, 1]]))
    assert matches.images.tolist() == [1, 3, 0] and matches.captions.tolist() == [0, 2]
    assert [matches.right_images(row).tolist() for row in range(5)] == [[0, 2], [0, 2], [0, 1], [0, 1], [0, 2]]
    assert [matches.right_captions(row).tolist() for row in range(5)] == [[0], [0, 1], [0, 1], [1], [0]]


def test_vectors_that_are_all_alike_find_nothing() -> None:
    same = np.full((20, 4), 0.5, "float32")
    matches = Matches(np.arange(20)[:, None].repeat(2, axis=1))
    for vectors in (same, same * np.nan):
        assert match_ranks(vectors, vectors, matches.right_images).tolist() == [20] * 20


@pytest.mark.parametrize("rows", [2, 30])
def test_pictures_show_the_nearest_images(tmp_path: Path, rows: int, recwarn: Any) -> None:
    of_images, of_captions, pairs = draw_vectors(rows, rows, rows)
    matches = Matches(pairs)
    read: list[int] = []

    def picture(row: int) -> np.ndarray:
        read.append(row)
        return np.full((8, 6, 3), row, np.uint8)

    names = [
        "$x_1$ a very long caption that goes on and on and has no end at all, it seems, and none of it is here",
        "猫",
    ]
    lines = write_matching(tmp_path, of_images, of_captions, matches, picture, lambda row: names[row % 2])
    ranks = match_ranks(of_captions, of_images[matches.images], matches.right_images)
    assert lines[0].startswith(f"Of {rows} held-out captions {(ranks == 1).sum()} find their image first of ")
    assert "![captions, their images, and the nearest images](retrieved.png)" in lines
    for name in ("retrieved.png", "similarity.png"):
        assert read_image(tmp_path / name).shape[2] == 3
    nearest = min(5, len(matches.images))
    assert len(read) == min(rows, 8) * (1 + nearest)
    first = matches.images[np.argsort(-(of_images[matches.images] @ of_captions[0]), kind="stable")[:nearest]]
    assert read[: 1 + nearest] == [0, *first]
    assert not recwarn.list
