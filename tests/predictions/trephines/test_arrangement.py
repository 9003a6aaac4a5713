"""Figures of constructed patterns against their closed forms, within 2 %."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from shapely.geometry import MultiPolygon

from wsi_pipeline.predictions.trephines import pair_correlation
from wsi_pipeline.predictions.trephines.arrangement import arrangement
from wsi_pipeline.predictions.trephines.bone import bone_distance
from wsi_pipeline.predictions.trephines.clusters import clusters_of
from wsi_pipeline.predictions.trephines.neighbours import eroded_areas_um2, nearest_neighbours
from wsi_pipeline.predictions.trephines.window import MarrowWindow

Points = npt.NDArray[np.float64]
CLOSE = 0.02


def window(width: float = 4000, height: float = 4000, bone: shapely.Geometry | None = None) -> MarrowWindow:
    return MarrowWindow(marrow=MultiPolygon([shapely.box(0, 0, width, height)]), bone=bone or MultiPolygon())


def with_holes() -> MarrowWindow:
    """Marrow between trabeculae: a square with strips of bone cut out."""
    bone = shapely.union_all([shapely.box(x, 300, x + 120, 3700) for x in range(500, 3700, 700)])
    return MarrowWindow(marrow=shapely.box(0, 0, 4000, 4000).difference(bone), bone=bone)


def poisson(window: MarrowWindow, per_mm2: float, seed: int) -> Points:
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = window.marrow.bounds
    points = rng.uniform((x0, y0), (x1, y1), (rng.poisson((x1 - x0) * (y1 - y0) * per_mm2 * 1e-6), 2))
    return points[shapely.contains_xy(window.marrow, points[:, 0], points[:, 1])]


def thomas(window: MarrowWindow, parents_per_mm2: float, mean: float, sigma: float, seed: int) -> Points:
    rng = np.random.default_rng(seed)
    x0, y0, x1, y1 = window.marrow.buffer(5 * sigma).bounds
    parents = rng.uniform((x0, y0), (x1, y1), (rng.poisson((x1 - x0) * (y1 - y0) * parents_per_mm2 * 1e-6), 2))
    points = np.repeat(parents, rng.poisson(mean, len(parents)), axis=0)
    points = points + rng.normal(0, sigma, points.shape)
    return points[shapely.contains_xy(window.marrow, points[:, 0], points[:, 1])]


def test_a_square_lattice_has_its_pitch_as_nearest_distance() -> None:
    grid = np.stack(np.meshgrid(np.arange(50, 4000, 100.0), np.arange(50, 4000, 100.0)), axis=-1).reshape(-1, 2)
    found = arrangement(grid, window())
    assert found.per_mm2 == pytest.approx(100)
    assert found.nearest.mean == pytest.approx(100)
    assert found.nearest.sd == pytest.approx(0, abs=1e-6)
    # Of random points it is 1 / (2 sqrt(density)) = 50 um.
    assert found.clark_evans == pytest.approx(2.0, rel=CLOSE)
    assert found.clusters.n_clustered == 0


@pytest.mark.parametrize("make", [window, with_holes])
def test_random_points_have_the_nearest_distance_of_the_formula_whatever_the_window(make: type) -> None:
    place = make()
    means, ratios = [], []
    for seed in range(3):
        points = poisson(place, 250, seed)
        near = nearest_neighbours(points, place)
        means.append(near.mean * 2 * np.sqrt(len(points) / place.area_um2))
        assert near.n_used < len(points)
    assert np.mean(means) == pytest.approx(1.0, rel=CLOSE)
    ratios = [arrangement(poisson(place, 100, seed), place).clark_evans for seed in range(2)]
    assert np.mean(ratios) == pytest.approx(1.0, rel=CLOSE)


def test_without_correction_random_points_in_strips_look_too_far_apart() -> None:
    strip = window(60_000, 150)
    points = poisson(strip, 250, 0)
    near = nearest_neighbours(points, strip)
    formula = 0.5 / np.sqrt(len(points) / strip.area_um2)
    assert near.raw_mean > 1.05 * formula
    assert near.mean == pytest.approx(formula, rel=3 * CLOSE)


def test_the_median_of_random_nearest_distances() -> None:
    place = window(8000, 8000)
    points = poisson(place, 250, 4)
    # F(d) = 1 - exp(-density pi d^2).
    density = len(points) / place.area_um2
    exact = np.sqrt(np.log(2) / np.pi / density)
    assert nearest_neighbours(points, place).quantiles[2] == pytest.approx(exact, rel=CLOSE)


def test_eroded_areas_of_a_rectangle() -> None:
    place = window(1000, 600)
    distances = np.array([0.0, 50.0, 200.0, 290.0])
    exact = (1000 - 2 * distances) * (600 - 2 * distances)
    assert eroded_areas_um2(place.raster, distances)[:3] == pytest.approx(exact[:3], rel=CLOSE)


def test_set_covariance_of_a_rectangle() -> None:
    place = window(1000, 600)
    found = pair_correlation.SetCovariance.of(place.raster, 250)
    shifts = np.array([[0.0, 0.0], [100.0, 0.0], [-31.0, 77.0], [200.0, -150.0]])
    exact = (1000 - np.abs(shifts[:, 0])) * (600 - np.abs(shifts[:, 1]))
    assert found.at(shifts) == pytest.approx(exact, rel=0.005)


@pytest.mark.parametrize("make", [window, with_holes])
def test_g_of_random_points_is_one(make: type) -> None:
    place = make()
    curves = []
    for seed in range(4):
        points = poisson(place, 400, 10 + seed)
        pairs = pair_correlation.pairs_of(points, place, pair_correlation.SetCovariance.of(place.raster, 250))
        curves.append(pairs.g(pair_correlation.distances_um(), 30.0))
        assert pairs.k_um2(100) == pytest.approx(np.pi * 100**2, rel=2 * CLOSE)
    mean = np.mean(curves, axis=0)
    assert mean[4:] == pytest.approx(1.0, abs=CLOSE)
    assert mean.mean() == pytest.approx(1.0, abs=CLOSE)


def test_g_of_thomas_clusters_is_that_of_the_formula() -> None:
    place = window(12_000, 12_000)
    sigma, parents = 40.0, 10.0
    r = pair_correlation.distances_um()
    covariance = pair_correlation.SetCovariance.of(place.raster, 250)
    curves = [
        pair_correlation.pairs_of(thomas(place, parents, 8, sigma, seed), place, covariance).g(r, 10.0)
        for seed in range(4)
    ]
    exact = 1 + np.exp(-(r**2) / (4 * sigma**2)) / (4 * np.pi * parents * 1e-6 * sigma**2)
    gap = np.abs(np.mean(curves, axis=0) / exact - 1)[2:]
    assert gap.mean() < CLOSE
    assert gap.max() < 3 * CLOSE


def test_clusters_are_what_lies_within_the_radius() -> None:
    triangle = np.array([[0.0, 0.0], [40.0, 0.0], [20.0, 30.0]])
    pair = np.array([[1000.0, 0.0], [1030.0, 0.0]])
    alone = np.array([[2000.0, 2000.0]])
    points = np.concatenate([alone, triangle, pair, triangle + 3000])
    found = clusters_of(points)
    assert found.label.tolist() == [-1, 0, 0, 0, -1, -1, 1, 1, 1]
    assert found.sizes.tolist() == [3, 3]
    back = clusters_of(points[::-1])
    assert back.n_clustered == found.n_clustered


def test_distances_from_bone_on_lines() -> None:
    bone = shapely.box(0, 0, 4000, 100)
    place = MarrowWindow(marrow=shapely.box(0, 100, 4000, 1100), bone=bone)
    points = np.array([[x, 100 + d] for x in range(200, 3800, 100) for d in (20.0, 300.0)])
    found = bone_distance(points, place)
    assert found is not None
    assert found.each == pytest.approx(np.tile([20.0, 300.0], 36))
    assert found.mean == pytest.approx(160)
    assert found.n_beside == 36
    assert found.expected_share == pytest.approx(0.05, rel=CLOSE)
    assert found.expected_mean == pytest.approx(500, rel=CLOSE)
    assert bone_distance(points, window()) is None


def test_paratrabecular_share_of_random_points_is_the_expected_one() -> None:
    place = with_holes()
    found = bone_distance(poisson(place, 2000, 3), place)
    assert found is not None
    beside = place.bone.buffer(50).intersection(place.marrow).area / place.area_um2
    assert found.expected_share == pytest.approx(beside, rel=CLOSE)
    assert found.n_beside / len(found.each) == pytest.approx(beside, rel=2 * CLOSE)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_points_have_no_figures_rather_than_wrong_ones(n: int) -> None:
    points = np.array([[100.0, 100.0], [200.0, 100.0], [300.0, 180.0]])[:n]
    told = arrangement(points, window()).to_dict(0.95)
    assert (told["pair_correlation"] is None) == (n < 2)
    assert (told["nearest_um"]["raw_mean"] is None) == (n < 2)
    assert told["bone"] is None
    assert told["clusters"]["n_clustered"] == 0


def test_the_order_of_points_changes_nothing() -> None:
    place = with_holes()
    points = thomas(place, 8, 5, 30, 1)
    back = arrangement(points[::-1], place).to_dict(0.95)
    there = arrangement(points, place).to_dict(0.95)
    assert back["clusters"] == there["clusters"]
    assert back["nearest_um"]["mean"] == pytest.approx(there["nearest_um"]["mean"])
    assert back["pair_correlation"]["g"] == pytest.approx(there["pair_correlation"]["g"])


def test_ten_thousand_points_take_seconds() -> None:
    place = window(15_000, 3000)
    points = np.random.default_rng(0).uniform(0, 1, (10_000, 2)) * (15_000, 3000)
    started = time.process_time()
    arrangement(points, place)
    assert time.process_time() - started < 30
