"""What a seed owns: one component, holes of background filled, thresholds, sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wsi_pipeline.segmentation.diffusion import labels_to_flows
from wsi_pipeline.segmentation.dynamics import Seeds
from wsi_pipeline.segmentation.instances import Instances, extract_instances
from wsi_pipeline.units import Box

Labels = npt.NDArray[np.int32]


def picture(*rows: str) -> Labels:
    """Read a label image: digits are labels, dots background."""
    return np.array([[0 if c in ".o" else int(c) for c in row] for row in rows], np.int32)


def extract(labels: Labels, seeds: list[tuple[int, int]], **changes: Any) -> Instances:
    options: dict[str, Any] = {
        "core": Box(x0=0, y0=0, x1=labels.shape[1], y1=labels.shape[0]),
        "flow": labels_to_flows(labels),
        "foreground": labels > 0,
        "layers": np.zeros((1, *labels.shape), np.uint8),
        "flow_threshold": 0.0,
        "min_area_px": 1,
        "max_cell_diameter_px": 100,
    }
    y, x = np.array(seeds, np.int64).reshape(-1, 2).T
    counts = np.arange(len(seeds), 0, -1)
    return extract_instances(labels, Seeds(y=y, x=x, count=counts), **{**options, **changes})


RING = picture(
    ".........",
    ".1111111.",
    ".1111111.",
    ".11...11.",
    ".11...11.",
    ".11...11.",
    ".1111111.",
    ".1111111.",
    ".........",
)


def test_a_hole_of_background_is_filled() -> None:
    found = extract(RING, [(1, 1)])
    assert found.area_px.tolist() == [49]
    assert (found.labels[1:8, 1:8] == 1).all()


def test_a_hole_with_a_pixel_of_foreground_stays() -> None:
    foreground = RING > 0
    foreground[4, 4] = True
    assert extract(RING, [(1, 1)], foreground=foreground).area_px.tolist() == [40]


def test_a_hole_with_another_cell_stays_and_both_live() -> None:
    labels = RING.copy()
    labels[4, 4] = 2
    found = extract(labels, [(1, 1), (4, 4)])
    assert found.area_px.tolist() == [40, 1]
    np.testing.assert_array_equal(found.labels, labels)


def test_holes_are_judged_one_by_one() -> None:
    labels = picture("1111111", "1..1..1", "1..1..1", "1111111")
    foreground = labels > 0
    foreground[1, 1] = True
    found = extract(labels, [(0, 0)], foreground=foreground)
    np.testing.assert_array_equal(found.labels, picture("1111111", "1..1111", "1..1111", "1111111"))


def test_a_hole_open_at_a_corner_is_not_filled_from_outside() -> None:
    """Cells are 4-connected; what is enclosed but for a corner counts as a hole."""
    labels = picture(".11.", "1..1", "1..1", "1111")
    # The mask at the seed is connected through the bottom row; the corners at the top touch diagonally.
    found = extract(labels, [(3, 0)])
    assert found.area_px.tolist() == [8]
    np.testing.assert_array_equal(found.labels > 0, picture("....", "1..1", "1..1", "1111") > 0)


def test_of_a_fragmented_mask_the_component_at_the_seed_stays() -> None:
    labels = picture("11.....", "11.1111", "...1111", ".1.....")
    found = extract(labels, [(0, 1)])
    np.testing.assert_array_equal(found.labels > 0, picture("11.....", "11.....", ".......", ".......") > 0)
    assert found.boxes.tolist() == [[0, 0, 2, 2]]


def test_when_the_seed_is_not_in_the_mask_the_nearest_pixel_decides() -> None:
    labels = picture("11...", ".....", "..11.", "..11.")
    found = extract(labels, [(1, 3)])
    assert found.boxes.tolist() == [[2, 2, 4, 4]]
    # Two pixels at one distance: the first in raster order.
    tied = picture(".1.", "...", ".1.")
    assert extract(tied, [(1, 1)]).boxes.tolist() == [[0, 1, 1, 2]]


def test_a_diagonal_contact_does_not_connect() -> None:
    assert extract(picture("11.", "11.", "..1"), [(0, 0)]).area_px.tolist() == [4]


def test_the_core_owns_by_seed_half_open() -> None:
    labels = picture("1111.2222", "1111.2222")
    core = Box(x0=0, y0=0, x1=5, y1=2)
    assert extract(labels, [(0, 4), (0, 5)], core=core).seed_x.tolist() == [4]
    core = Box(x0=5, y0=0, x1=9, y1=2)
    assert extract(labels, [(0, 4), (0, 5)], core=core).seed_x.tolist() == [5]
    # The owned cell keeps its pixels outside the core.
    assert extract(labels, [(0, 4), (0, 5)], core=Box(x0=4, y0=0, x1=5, y1=1)).area_px.tolist() == [8]


def test_labels_are_in_raster_order_of_seeds_whatever_their_strength() -> None:
    labels = picture("222.111", "222.111", ".......", "333....", "333....")
    found = extract(labels, [(0, 5), (1, 1), (3, 0)])
    assert list(zip(found.seed_y, found.seed_x, strict=True)) == [(0, 5), (1, 1), (3, 0)]
    assert [int(found.labels[y, x]) for y, x in ((0, 5), (1, 1), (3, 0))] == [1, 2, 3]


def test_cells_below_the_least_area_are_dropped_after_filling() -> None:
    assert len(extract(RING, [(1, 1)], min_area_px=49)) == 1
    found = extract(RING, [(1, 1)], min_area_px=50)
    assert len(found) == 0
    assert not found.labels.any()


def disc(radius: float, shape: tuple[int, int] = (60, 60), centre: tuple[float, float] = (30, 30)) -> Labels:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return (np.hypot(y - centre[0], x - centre[1]) <= radius).astype(np.int32)


def test_flow_error_is_the_mean_squared_difference_from_the_masks_own_flow() -> None:
    labels = disc(10)
    own = labels_to_flows(labels)
    assert extract(labels, [(30, 30)], flow=own).flow_error[0] == pytest.approx(0, abs=1e-10)
    moving = (np.hypot(*own) > 0).sum() / labels.sum()
    assert extract(labels, [(30, 30)], flow=-own).flow_error[0] == pytest.approx(4 * moving)
    assert extract(labels, [(30, 30)], flow=0 * own).flow_error[0] == pytest.approx(moving)


def test_flow_errors_are_cellposes() -> None:
    """``cellpose.metrics.flow_error`` on one cell, where its number of steps and ours agree."""
    import torch
    from cellpose.dynamics import flow_error

    labels = disc(12)
    rng = np.random.default_rng(0)
    flow = labels_to_flows(labels) + rng.normal(0, 0.3, (2, 60, 60)).astype(np.float32) * (labels > 0)
    theirs, _ = flow_error(labels, 5 * flow, device=torch.device("cpu"))
    assert extract(labels, [(30, 30)], flow=flow).flow_error[0] == pytest.approx(theirs[0], rel=1e-3)


@pytest.mark.parametrize(("threshold", "kept"), [(0.0, 2), (0.9, 1), (5.0, 2)])
def test_cells_above_the_flow_threshold_are_dropped(threshold: float, kept: int) -> None:
    labels = disc(10) + 2 * disc(6, centre=(10, 10))
    flow = labels_to_flows(labels)
    flow[:, labels == 1] *= -1
    found = extract(labels, [(30, 30), (10, 10)], flow=flow, flow_threshold=threshold)
    assert len(found) == kept
    assert (found.flow_error > 3).any() == (kept == 2)
    assert set(np.unique(found.labels)) == set(range(kept + 1)), "labels are without gaps"


@pytest.mark.parametrize(("radius", "large"), [(18, False), (19, True), (22, True)])
def test_a_cell_that_reaches_half_the_largest_diameter_is_too_large(radius: int, large: bool) -> None:
    found = extract(disc(radius), [(30, 30)], max_cell_diameter_px=40)
    assert found.too_large.tolist() == [large]


def test_sums_and_moments_are_exact_integers() -> None:
    labels = disc(9, centre=(20, 40)) + 2 * disc(7, centre=(45, 15))
    layers = np.random.default_rng(1).integers(0, 256, (3, 60, 60), dtype=np.uint8)
    found = extract(labels, [(20, 40), (45, 15)], layers=layers)
    for i, (sy, sx) in enumerate([(20, 40), (45, 15)]):
        y, x = np.nonzero(labels == i + 1)
        ry, rx = y - sy, x - sx
        assert found.moments[i].tolist() == [ry.sum(), rx.sum(), (ry**2).sum(), (rx**2).sum(), (ry * rx).sum()]
        assert found.sums[i].tolist() == layers[:, labels == i + 1].sum(axis=1, dtype=int).tolist()
    assert found.sums.dtype == found.moments.dtype == np.int64


def test_cells_at_the_edge_of_the_window_are_whole() -> None:
    labels = picture("11..", "11..", "....", "...2")
    found = extract(labels, [(0, 0), (3, 3)])
    assert found.area_px.tolist() == [4, 1]
    assert found.boxes.tolist() == [[0, 0, 2, 2], [3, 3, 4, 4]]


def test_no_seeds_no_cells() -> None:
    found = extract(np.zeros((10, 12), np.int32), [])
    assert len(found) == 0
    assert found.labels.shape == (10, 12)
    assert found.boxes.shape == (0, 4)
    assert found.sums.shape == (0, 1)
