"""Points in instances, and the trivial baselines."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation import evaluate_points, majority_labels, match_points, otsu_baseline


def two_cells() -> np.ndarray:
    labels = np.zeros((30, 50), np.int32)
    labels[5:15, 5:15] = 7
    labels[5:15, 30:40] = 2
    return labels


def test_each_instance_finds_one_point() -> None:
    result = match_points("a", two_cells(), [(6, 6), (14.9, 14.9), (35, 6), (25, 25)])
    assert (result.n_points, result.n_pred, result.found) == (4, 2, 2)


def test_x_is_to_the_right() -> None:
    assert match_points("a", two_cells(), [(35, 10)]).found == 1
    assert match_points("a", two_cells(), [(10, 29)]).found == 0


def test_the_far_edge_belongs_to_the_last_pixel() -> None:
    labels = np.zeros((30, 50), np.int32)
    labels[29, 49] = 1
    assert match_points("a", labels, [(50, 30)]).found == 1


@pytest.mark.parametrize("point", [(-1, 5), (51, 5), (5, 31), (float("nan"), 5)])
def test_points_outside_the_image(point: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="field_7"):
        match_points("field_7", two_cells(), [point])


def test_figures_are_pooled() -> None:
    metrics = evaluate_points(
        [match_points("a", two_cells(), [(6, 6), (35, 6)]), match_points("b", two_cells(), [(25, 25), (6, 6)])]
    )
    assert (metrics.recall.value, metrics.precision.value, metrics.ratio.value) == (0.75, 0.75, 1.0)
    assert metrics.n_points == 4
    none = evaluate_points([match_points("a", two_cells(), [])] * 2)
    assert none.recall.value is None
    with pytest.raises(DataError, match="no image"):
        evaluate_points([])


def field() -> np.ndarray:
    image = np.full((60, 90, 3), (240, 235, 238), np.uint8)
    image[10:30, 10:30] = (220, 150, 160)
    image[10:30, 40:60] = (220, 150, 160)
    image[15:25, 45:55] = (230, 190, 200)
    image[35:55, 60:80] = (90, 40, 140)
    return image + np.random.default_rng(0).integers(0, 4, (60, 90, 1), dtype=np.uint8)


def test_otsu_finds_red_and_white_cells() -> None:
    red = otsu_baseline(field(), kind="red")
    assert red.max() >= 1
    assert red[45, 70]
    white = otsu_baseline(field(), kind="white")
    assert white.max() == 1
    assert (white > 0).sum() == 400
    assert white[45, 70] == 1


def test_otsu_on_flat_images_finds_nothing() -> None:
    assert otsu_baseline(np.full((9, 9, 3), 200, np.uint8)).max() == 0
    two = np.full((9, 9, 3), 200, np.uint8)
    two[2:8, 2:8] = 20
    assert otsu_baseline(two, kind="white").max() == 1
    assert otsu_baseline(two, kind="white", min_area_px=37).max() == 0
    with pytest.raises(DataError, match="h, w, 3"):
        otsu_baseline(np.zeros((9, 9), np.uint8))


def test_majority() -> None:
    assert majority_labels(["b", "a", "b"]) == ["b"] * 3
    assert majority_labels(["b", "a"]) == ["a"] * 2
    assert majority_labels([]) == []


def test_an_object_cut_by_the_border_counts_only_when_it_holds_a_point() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[0:8, 4:12] = 1  # cut, marked
    labels[0:8, 20:28] = 2  # cut, not marked
    labels[15:22, 15:22] = 3  # whole, not marked
    result = match_points("field", labels, [(8, 3)])
    assert (result.n_points, result.found, result.n_pred) == (1, 1, 2)


def test_centres_are_matched_one_to_one_within_the_radius() -> None:
    labels = two_cells()  # centres of mass (10, 10) and (35, 10)
    near = match_points("a", labels, [(12, 10), (9, 10), (38.5, 10)], radius_px=3)
    assert (near.n_centres, near.near) == (2, 1)
    assert (near.n_points, near.found) == (3, 2)
    wider = match_points("a", labels, [(12, 10), (9, 10), (38.5, 10)], radius_px=4)
    assert wider.near == 2
    assert match_points("a", labels, [], radius_px=3).near == 0
    assert match_points("a", np.zeros((9, 9), int), [(3, 3)], radius_px=3).near == 0


def test_as_many_centres_as_possible_are_matched() -> None:
    labels = np.zeros((30, 50), np.int32)
    labels[9:12, 9:12] = 1  # centre (10.5, 10.5)
    labels[9:12, 13:16] = 2  # centre (14.5, 10.5)
    # The first point is nearest to the second cell, which the other point needs.
    result = match_points("a", labels, [(13, 10.5), (17, 10.5)], radius_px=3)
    assert result.near == 2


def test_a_cut_cell_counts_among_centres_only_when_it_matches() -> None:
    labels = two_cells()
    labels[0:4, 20:30] = 9
    assert match_points("a", labels, [(10, 10)], radius_px=3).n_centres == 2
    assert match_points("a", labels, [(10, 10), (25, 2)], radius_px=3).n_centres == 3


def test_figures_of_centres() -> None:
    results = [
        match_points("a", two_cells(), [(10, 10), (25, 25)], radius_px=3),
        match_points("b", two_cells(), [(10, 10), (35, 10)], radius_px=3),
    ]
    metrics = evaluate_points(results)
    assert metrics.centre_recall.value == metrics.centre_precision.value == metrics.centre_f1.value == 0.75
    without = evaluate_points([match_points("a", two_cells(), [(10, 10)])])
    assert without.centre_f1.value is None
    assert without.recall.value == 1


def test_the_rim_is_as_wide_as_a_working_pixel() -> None:
    labels = two_cells()
    labels[1:4, 20:30] = 9
    assert match_points("a", labels, [(10, 10)]).n_pred == 3
    assert match_points("a", labels, [(10, 10)], rim_px=2).n_pred == 2
    assert match_points("a", labels, [(10, 10), (25, 2)], rim_px=2).n_pred == 3
