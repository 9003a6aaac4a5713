"""Cells that two patients share are found, and only those."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import MadeSlide, make_run

from wsi_pipeline.predictions.bags import CellBag, cell_leakage, read_bags, shared_cells
from wsi_pipeline.predictions.bags import leakage as module


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[CellBag]:
    shared = [f"image {i}" for i in range(4)]
    own = {name: [f"{name} {i}" for i in range(20)] for name in "ABC"}
    slides = [
        MadeSlide(slide_id="A", subject="A", mix={"blast": 24}, gallery=True, images=own["A"] + shared),
        MadeSlide(slide_id="B", subject="B", mix={"blast": 23}, gallery=True, images=own["B"] + shared[:3]),
        MadeSlide(slide_id="C", subject="C", mix={"monocyte": 20}, gallery=True, images=own["C"]),
    ]
    return read_bags([make_run(tmp_path_factory.mktemp("runs") / "r", slides)])


def test_identical_images_of_two_patients(bags: list[CellBag]) -> None:
    (found,) = shared_cells(bags)
    assert (found.kind, found.first, found.second, found.count) == ("identical", "A", "B", 3)
    (finding,) = cell_leakage(bags)
    assert finding.kind == "identical-cells"
    assert finding.count == 1
    assert "A and B (3)" in finding.message
    (across,) = cell_leakage(bags, trained_on=["A"])
    assert across.message.endswith("Of 1 pairs the model was trained on one and is tested on the other.")
    assert cell_leakage(bags, trained_on=["A", "B"]) == ()
    # Of one patient under two names by the table, nothing is shared.
    assert shared_cells(bags, ["X", "X", "C"]) == ()


def test_near_identical_cells_of_one_class(bags: list[CellBag]) -> None:
    first, _, third = bags
    assert first.embedding is not None
    assert third.embedding is not None
    copied = third.embedding.copy()
    copied[:5] = first.embedding[:5] * 1.5 + 0.001
    other_class = replace(third, embedding=copied)
    assert shared_cells([first, other_class]) == ()
    same_class = replace(other_class, probabilities=first.probabilities[: len(third)])
    (found,) = shared_cells([first, same_class])
    assert (found.kind, found.count) == ("near-identical", 5)
    assert cell_leakage([first, same_class])[0].kind == "near-identical-cells"


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), block=st.sampled_from([1, 3, 7, 64]))
def test_blocks_count_what_all_pairs_count(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    n = 30
    owner, ids = rng.integers(0, 4, n), rng.integers(0, 25, n)
    vectors = rng.normal(size=(6, 5))[rng.integers(0, 6, n)].astype(np.float32)
    expected = np.zeros((4, 4), np.int64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for i, j in combinations(range(n), 2):
        if owner[i] != owner[j] and ids[i] != ids[j] and unit[i] @ unit[j] >= module.NEAR_COSINE:
            expected[min(owner[i], owner[j]), max(owner[i], owner[j])] += 1
    pairs = np.zeros((4, 4), np.int64)
    before = module._BLOCK
    try:
        module._BLOCK = block
        module._count_near(vectors, owner, ids, pairs)
    finally:
        module._BLOCK = before
    np.testing.assert_array_equal(pairs, expected)


def test_nothing_of_nobody() -> None:
    assert shared_cells([]) == ()
    assert cell_leakage([]) == ()


def test_one_slide_under_two_patients(tmp_path: Path) -> None:
    images = [f"cell {i}" for i in range(7)]
    slides = [MadeSlide(slide_id=name, subject=name, mix={"blast": 7}, images=images) for name in ("a", "b")]
    (found, *rest) = shared_cells(read_bags([make_run(tmp_path / "r", slides)]))
    assert (found.kind, found.count) == ("identical", 7)
    assert rest == []
