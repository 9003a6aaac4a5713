"""The network-tile lattice: every pixel covered, and the same tiles whatever the box that asks."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.tiling import TileLattice, taper
from wsi_pipeline.units import Box


@st.composite
def lattices(draw: st.DrawFn) -> TileLattice:
    tile = draw(st.integers(8, 64))
    return TileLattice(
        tile_px=tile,
        overlap_px=draw(st.integers(0, tile // 2)),
        width=draw(st.integers(1, 200)),
        height=draw(st.integers(1, 200)),
    )


@st.composite
def boxes(draw: st.DrawFn, low: int = -60, high: int = 260) -> Box:
    x0, y0 = draw(st.integers(low, high)), draw(st.integers(low, high))
    return Box(x0=x0, y0=y0, x1=x0 + draw(st.integers(1, 120)), y1=y0 + draw(st.integers(1, 120)))


@st.composite
def regions(draw: st.DrawFn) -> shapely.Geometry:
    """A few rectangles and a triangle, partly off the slide; sometimes with a hole."""
    parts = [shapely.box(b.x0, b.y0, b.x1, b.y1) for b in draw(st.lists(boxes(), min_size=1, max_size=3))]
    corner = st.floats(-40, 240, allow_nan=False)
    parts.append(shapely.Polygon([(draw(corner), draw(corner)) for _ in range(3)]).buffer(1))
    region = shapely.union_all(parts)
    hole = draw(boxes())
    return region.difference(shapely.box(hole.x0, hole.y0, hole.x1, hole.y1)) if draw(st.booleans()) else region


def whole(lattice: TileLattice) -> Box:
    return Box(x0=0, y0=0, x1=lattice.width, y1=lattice.height)


@given(lattices(), boxes())
def test_tiles_cover_every_pixel_of_a_box_inside_the_slide(lattice: TileLattice, box: Box) -> None:
    covered = np.zeros((lattice.height, lattice.width), bool)
    for tile in (lattice.tile(*t) for t in lattice.meeting(box)):
        covered[max(0, tile.y0) : tile.y1, max(0, tile.x0) : tile.x1] = True
    inside = box.clip(whole(lattice))
    assert covered[inside.y0 : inside.y1, inside.x0 : inside.x1].all()


@given(lattices(), boxes())
def test_meeting_is_the_whole_slides_tiles_that_meet_the_box_in_raster_order(lattice: TileLattice, box: Box) -> None:
    everything = lattice.meeting(whole(lattice))
    inside = box.clip(whole(lattice))
    assert everything == sorted(set(everything))
    assert lattice.meeting(box) == [
        t for t in everything if not inside.is_empty and lattice.tile(*t).intersects(inside)
    ]


@given(lattices(), boxes(), regions())
def test_which_tiles_are_computed_depends_on_the_region_and_never_on_the_box(
    lattice: TileLattice, box: Box, region: shapely.Geometry
) -> None:
    inside = box.clip(whole(lattice))
    expected = [
        t
        for t in lattice.computed(whole(lattice), region)
        if not inside.is_empty and lattice.tile(*t).intersects(inside)
    ]
    assert lattice.computed(box, region) == expected


@given(lattices(), regions())
def test_computed_tiles_are_those_that_meet_the_region(lattice: TileLattice, region: shapely.Geometry) -> None:
    computed = set(lattice.computed(whole(lattice), region))
    for tile in lattice.meeting(whole(lattice)):
        box = lattice.tile(*tile).clip(whole(lattice))
        assert (tile in computed) == region.intersects(shapely.box(box.x0, box.y0, box.x1, box.y1))


@given(lattices())
def test_no_tile_only_repeats_the_ones_before_it(lattice: TileLattice) -> None:
    for row, col in lattice.meeting(whole(lattice)):
        tile = lattice.tile(row, col)
        assert row == 0 or tile.y0 + lattice.overlap_px < lattice.height
        assert col == 0 or tile.x0 + lattice.overlap_px < lattice.width


@given(lattices(), regions(), st.integers(1, 20))
def test_sample_is_a_fixed_choice_that_grows_with_n(lattice: TileLattice, region: shapely.Geometry, n: int) -> None:
    if region.is_empty:
        return
    chosen = lattice.sample(region, n)
    possible = lattice.computed(whole(lattice), region)
    assert chosen == lattice.sample(shapely.from_wkb(shapely.to_wkb(region)), n)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(possible)
    # Tiles that share no more than an edge with the region may be left out.
    bounds = lattice.bounds(possible)
    overlapping = sum(shapely.area(shapely.intersection(region, shapely.box(*bounds.T))) > 0) if possible else 0
    assert min(n, overlapping) <= len(chosen) <= min(n, len(possible))
    assert set(chosen) <= set(lattice.sample(region, n + 1))


def test_sample_is_spread_over_the_slide() -> None:
    lattice = TileLattice(tile_px=256, overlap_px=32, width=20_000, height=20_000)
    chosen = np.array(lattice.sample(shapely.box(0, 0, 20_000, 20_000), 64))
    assert len(chosen) == 64
    last = 20_000 // 224
    quadrants = {(bool(r > last / 2), bool(c > last / 2)) for r, c in chosen}
    assert len(quadrants) == 4


@pytest.mark.parametrize("side", [224, 256, 384])
def test_taper_is_cellposes(side: int) -> None:
    from cellpose.transforms import _taper_mask

    ours = taper(side)
    assert ours.dtype == np.float32
    assert (ours > 0).all()
    np.testing.assert_allclose(ours, _taper_mask(ly=side, lx=side), rtol=1e-6)
