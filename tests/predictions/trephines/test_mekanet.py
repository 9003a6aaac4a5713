"""MekaNet's 19 features on boxes whose figures are known."""

from __future__ import annotations

import numpy as np
import pytest

from wsi_pipeline.predictions.trephines.mekanet import UNITS, mekanet_features


def boxes(middles: list[tuple[float, float]], width: float = 20, height: float = 10) -> np.ndarray:
    m = np.array(middles, float)
    return np.concatenate([m - (width / 2, height / 2), m + (width / 2, height / 2)], axis=1)


def test_the_names_are_mekanets_in_its_order() -> None:
    assert len(UNITS) == 19
    assert list(mekanet_features(np.empty((0, 4)))) == list(UNITS)
    assert set(mekanet_features(np.empty((0, 4))).values()) == {0.0}


def test_sizes_and_shapes_are_of_bounding_boxes() -> None:
    found = mekanet_features(np.array([[0, 0, 20, 10], [100, 0, 110, 40.0]]))
    assert found["Avg_Size"] == 300
    assert (found["Max_Size"], found["Min_Size"], found["Median_Size"], found["Size_Range"]) == (400, 200, 300, 200)
    assert found["Std_Size"] == 100
    assert found["Avg_Ellipticity"] == pytest.approx((2 + 0.25) / 2)
    assert (found["Max_Ellipticity"], found["Min_Ellipticity"]) == (2, 0.25)
    assert found["Num_Megakaryocytes"] == 2
    # Two cells have a neighbour, and no clusters.
    assert found["Avg_NND"] == pytest.approx(np.hypot(95, 15))
    assert found["Num_Clusters"] == 0


def test_neighbours_and_local_density_on_a_line() -> None:
    found = mekanet_features(boxes([(100.0 * i, 0.0) for i in range(7)]))
    assert (found["Avg_NND"], found["Std_NND"], found["Median_NND"]) == pytest.approx((100, 0, 100))
    # The middle one: 100, 100, 200, 200, 300; the end: 100 to 500.
    density = 1 / np.array([300, 220, 180, 180, 180, 220, 300])
    assert found["Avg_Local_Density"] == pytest.approx(density.mean(), rel=1e-6)
    assert found["Std_Local_Density"] == pytest.approx(density.std(), rel=1e-4)


def test_two_heaps_are_two_clusters() -> None:
    near = [(0.0, 0.0), (20.0, 0.0), (0.0, 20.0), (20.0, 20.0)]
    found = mekanet_features(boxes([*near, *((x + 2000, y) for x, y in near)]))
    assert found["Num_Clusters"] == 2
    assert (found["Avg_Cluster_Size"], found["Std_Cluster_Size"]) == (4, 0)
    assert mekanet_features(boxes([(0.0, 0.0)] * 4))["Num_Clusters"] == 0
