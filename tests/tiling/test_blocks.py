"""Blocks: cores that partition the slide, windows wide enough to decide everything in the core."""

from __future__ import annotations

import math

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsi_pipeline.tiling import halo_px, plan_blocks

sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))


@given(sizes, st.integers(7, 400), st.integers(0, 80))
def test_cores_partition_the_slide(size: tuple[int, int], core_px: int, halo: int) -> None:
    width, height = size
    owners = np.zeros((height, width), int)
    blocks = plan_blocks(size, shapely.box(0, 0, width, height), core_px=core_px, halo=halo)
    for block in blocks:
        assert not block.core.is_empty
        owners[block.core.y0 : block.core.y1, block.core.x0 : block.core.x1] += 1
    assert (owners == 1).all()
    assert [(b.row, b.col) for b in blocks] == sorted({(b.row, b.col) for b in blocks})
    assert len({b.name for b in blocks}) == len(blocks)


@given(
    sizes,
    st.integers(7, 150),
    st.lists(
        st.tuples(st.floats(-20, 320), st.floats(-20, 320), st.floats(0.5, 120), st.floats(0.5, 120)),
        min_size=1,
        max_size=4,
    ),
)
def test_every_place_of_the_region_has_one_owner(
    size: tuple[int, int], core_px: int, rectangles: list[tuple[float, float, float, float]]
) -> None:
    width, height = size
    region = shapely.union_all([shapely.box(x, y, x + w, y + h) for x, y, w, h in rectangles])
    blocks = plan_blocks(size, region, core_px=core_px, halo=0)
    owners = np.zeros((height, width), int)
    for block in blocks:
        owners[block.core.y0 : block.core.y1, block.core.x0 : block.core.x1] += 1
        core = shapely.box(block.core.x0, block.core.y0, block.core.x1, block.core.y1)
        assert region.intersects(core), "a block nobody asked for"
    y, x = np.mgrid[:height, :width]
    wanted = shapely.intersects_xy(region, x + 0.5, y + 0.5)
    assert (owners <= 1).all()
    assert (owners[wanted] == 1).all()


@given(sizes, st.integers(7, 150), st.integers(0, 90))
def test_the_window_is_core_and_halo_clipped_to_the_slide(size: tuple[int, int], core_px: int, halo: int) -> None:
    width, height = size
    for block in plan_blocks(size, shapely.box(0, 0, width, height), core_px=core_px, halo=halo):
        assert block.window.x0 == max(0, block.core.x0 - halo)
        assert block.window.y0 == max(0, block.core.y0 - halo)
        assert block.window.x1 == min(width, block.core.x1 + halo)
        assert block.window.y1 == min(height, block.core.y1 + halo)


@given(st.floats(1, 500), st.floats(0.05, 5), st.none() | st.floats(0.1, 2000))
def test_the_halo_is_at_least_the_largest_cell_and_16_px(diameter: float, mpp: float, asked: float | None) -> None:
    halo = halo_px(diameter, mpp, asked)
    assert halo >= math.ceil(diameter / mpp) + 16
    if asked is not None:
        assert halo * mpp >= asked - 1e-9 * asked
    else:
        assert halo == math.ceil(diameter / mpp) + 16


def test_an_empty_region_needs_no_work() -> None:
    assert plan_blocks((1000, 1000), shapely.Polygon(), core_px=256, halo=10) == []


def test_a_region_off_the_slide_needs_no_work() -> None:
    assert plan_blocks((100, 100), shapely.box(200, 200, 300, 300), core_px=64, halo=10) == []
    assert plan_blocks((100, 100), shapely.box(-50, -50, -10, -10), core_px=64, halo=10) == []
