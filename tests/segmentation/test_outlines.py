"""Outlines: every mask, however ragged, becomes a valid polygon that covers the same pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage as ndi

from wsi_pipeline.segmentation.diffusion import bounding_boxes
from wsi_pipeline.segmentation.outlines import SIMPLIFY_PX, mask_polygons, region_polygons, trace_rings

Mask = npt.NDArray[np.bool_]


def rings_of(mask: Mask) -> list[npt.NDArray[np.float64]]:
    points, ends, _ = trace_rings(mask.astype(np.int32), np.array([[0, 0, *mask.shape]]))
    return np.split(points, ends[:-1])


def polygon_of(mask: Mask, offset: tuple[float, float] = (0.0, 0.0)) -> shapely.Geometry:
    (polygon,) = mask_polygons(mask.astype(np.int32), np.array([[0, 0, *mask.shape]]), offset)
    return polygon


def picture(*rows: str) -> Mask:
    return np.array([[c == "#" for c in row] for row in rows])


def from_blobs(seed: int, shape: tuple[int, int], grain: float, share: float) -> Mask:
    """Smooth random blobs with holes, islands in holes, and diagonal contacts."""
    field = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=shape), grain)
    return field > np.quantile(field, 1 - share)


small = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)).filter(np.any)
large = st.builds(
    from_blobs,
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(4, 40), st.integers(4, 40)),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([0.2, 0.5, 0.8]),
).filter(np.any)
masks = small | large

ISLAND_IN_A_HOLE = picture(
    "#######",
    "#.....#",
    "#.###.#",
    "#.#.#.#",
    "#.###.#",
    "#.....#",
    "#######",
)
DIAGONAL = picture("#..", ".#.", "..#")
RING_CLOSED_BY_A_CORNER = picture("###.", "#.#.", "##.#", ".###")


def centres(mask: Mask) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return x + 0.5, y + 0.5


def n_holes(mask: Mask) -> int:
    """Background parts that do not reach the edge; the cell is 4-connected, so they are 8-connected."""
    return int(ndi.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1]) - 1


@settings(deadline=None)
@given(masks)
@example(ISLAND_IN_A_HOLE)
@example(DIAGONAL)
@example(RING_CLOSED_BY_A_CORNER)
def test_rings_rasterised_give_the_mask_back(mask: Mask) -> None:
    x, y = centres(mask)
    crossed = np.zeros(mask.shape, int)
    for ring in rings_of(mask):
        crossed += shapely.contains_xy(shapely.Polygon(ring), x, y)
    np.testing.assert_array_equal(crossed % 2 == 1, mask)


@settings(deadline=None)
@given(masks)
@example(ISLAND_IN_A_HOLE)
@example(RING_CLOSED_BY_A_CORNER)
def test_rings_are_simple_and_never_touch(mask: Mask) -> None:
    rings = [shapely.LinearRing(ring) for ring in rings_of(mask)]
    assert all(ring.is_simple for ring in rings)
    tree = shapely.STRtree(rings)
    touching = tree.query(rings, predicate="intersects")
    assert (touching[0] == touching[1]).all()


@settings(deadline=None)
@given(masks)
@example(ISLAND_IN_A_HOLE)
def test_there_is_one_ring_a_part_and_one_a_hole(mask: Mask) -> None:
    rings = rings_of(mask)
    outer = sum(shapely.LinearRing(ring).is_ccw for ring in rings)
    assert (outer, len(rings) - outer) == (ndi.label(mask)[1], n_holes(mask))


@settings(deadline=None)
@given(masks)
def test_area_is_the_pixel_count_less_half_a_pixel_a_part(mask: Mask) -> None:
    """Each corner is cut by an eighth of a pixel; four more turn right than left around a part."""
    area = sum((1 if shapely.LinearRing(r).is_ccw else -1) * shapely.Polygon(r).area for r in rings_of(mask))
    assert area == pytest.approx(mask.sum() - 0.5 * ndi.label(mask)[1] + 0.5 * n_holes(mask), abs=1e-9)


@settings(deadline=None)
@given(masks, st.tuples(st.integers(-5, 100_000), st.integers(-5, 100_000)))
@example(ISLAND_IN_A_HOLE, (0, 0))
@example(DIAGONAL, (3, 4))
@example(RING_CLOSED_BY_A_CORNER, (0, 0))
def test_the_polygon_is_valid_and_close_to_the_mask(mask: Mask, offset: tuple[int, int]) -> None:
    polygon = polygon_of(mask, offset)
    assert polygon.geom_type in ("Polygon", "MultiPolygon")
    assert polygon.is_valid, shapely.is_valid_reason(polygon)
    assert not polygon.is_empty
    x0, y0, x1, y1 = polygon.bounds
    assert x0 >= offset[0]
    assert y0 >= offset[1]
    assert x1 <= offset[0] + mask.shape[1]
    assert y1 <= offset[1] + mask.shape[0]
    # A pixel deep in the cell, or deep in the background, is on the right side whatever the simplification.
    x, y = centres(mask)
    inside = shapely.contains_xy(polygon, x + offset[0], y + offset[1])
    deep = ndi.binary_erosion(mask, np.ones((3, 3)))
    clear = ~ndi.binary_dilation(mask, np.ones((3, 3)))
    assert inside[deep].all()
    assert not inside[clear].any()
    assert abs(polygon.area - mask.sum()) <= SIMPLIFY_PX * polygon.length + 0.5 * ndi.label(mask)[1]


@settings(deadline=None)
@given(masks, st.integers(0, 60_000), st.integers(0, 60_000))
def test_the_outline_does_not_depend_on_the_place(mask: Mask, x: int, y: int) -> None:
    """What makes an outline the same in every block: translated pixels, translated coordinates, to the bit."""
    here, there = polygon_of(mask), polygon_of(mask, (x, y))
    np.testing.assert_array_equal(shapely.get_coordinates(here) + np.array([x, y]), shapely.get_coordinates(there))


@settings(deadline=None)
@given(masks, st.tuples(*[st.integers(0, 3)] * 4))
def test_the_outline_does_not_depend_on_the_margin(mask: Mask, pad: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = pad
    padded = np.pad(mask, ((top, bottom), (left, right)))
    assert polygon_of(padded, (-left, -top)).equals_exact(polygon_of(mask), 0)


def test_one_pixel() -> None:
    polygon = polygon_of(picture("#"), (10, 20))
    assert polygon.equals(shapely.Polygon([(10.5, 20), (11, 20.5), (10.5, 21), (10, 20.5)]))


def test_pixels_that_meet_at_a_corner_are_apart() -> None:
    polygon = polygon_of(DIAGONAL)
    assert polygon.geom_type == "MultiPolygon"
    assert len(polygon.geoms) == 3


def test_a_hole_stays_a_hole() -> None:
    mask = np.ones((12, 12), bool)
    mask[4:8, 4:8] = False
    polygon = polygon_of(mask)
    assert polygon.geom_type == "Polygon"
    assert len(polygon.interiors) == 1
    assert shapely.Polygon(polygon.interiors[0]).area == pytest.approx(15.5)


def test_an_island_in_a_hole_stays() -> None:
    polygon = polygon_of(ISLAND_IN_A_HOLE)
    assert len(polygon.geoms) == 2
    assert sorted(len(part.interiors) for part in polygon.geoms) == [1, 1]
    assert polygon.area == pytest.approx(ISLAND_IN_A_HOLE.sum(), abs=0.5)


@pytest.mark.parametrize("radius", [4, 10, 30])
def test_a_disc_is_measured_as_a_disc(radius: float) -> None:
    """Outlines along pixel edges would be 8 r long, which makes the circularity of a disc 0.62."""
    y, x = np.mgrid[-35:36, -35:36]
    polygon = polygon_of(np.hypot(y, x) <= radius)
    assert polygon.area == pytest.approx(np.pi * radius**2, rel=0.06 if radius < 10 else 0.02)
    assert 4 * np.pi * polygon.area / polygon.length**2 > 0.8
    assert len(polygon.exterior.coords) < 4 * radius + 4


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(5, 60), st.integers(5, 60)), st.sampled_from([0.7, 1.5, 3.0]))
def test_all_at_once_are_those_one_at_a_time(seed: int, shape: tuple[int, int], grain: float) -> None:
    """Touching labels, ragged, in several parts, with others in their holes."""
    rng = np.random.default_rng(seed)
    levels = ndi.gaussian_filter(rng.normal(size=shape), grain)
    labels = np.digitize(levels, np.quantile(levels, [0.2, 0.4, 0.7, 0.8])).astype(np.int32)
    boxes = bounding_boxes(labels, int(labels.max()))[1:]
    found = mask_polygons(labels, boxes, (7.0, 5.0))
    for k, polygon in enumerate(found, start=1):
        assert polygon.equals_exact(polygon_of(labels == k, (7.0, 5.0)), 0)
    regions, n = ndi.label(labels == 2)
    regions = regions.astype(np.int32)
    whole = region_polygons(regions, bounding_boxes(regions, n)[1:])
    assert all(polygon.geom_type == "Polygon" and polygon.is_valid for polygon in whole)
    for k, polygon in enumerate(whole, start=1):
        assert polygon.equals_exact(polygon_of(regions == k), 0)


def test_a_label_without_pixels_has_no_outline() -> None:
    labels = np.zeros((5, 5), np.int32)
    labels[1:3, 1:3] = 2
    found = mask_polygons(labels, bounding_boxes(labels, 3)[1:])
    assert found[0] is None
    assert found[2] is None
    assert found[1].contains(shapely.Point(2, 2))
    assert (
        len(mask_polygons(labels, np.empty((0, 4), np.int64)))
        == len(region_polygons(labels, np.empty((0, 4), np.int64)))
        == 0
    )
