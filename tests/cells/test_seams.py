"""Seams in the cells of a slide: seen where cells are cut at borders, not seen where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from scipy.stats import binom
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.cells.seams import SeamStatistic, rate_ratio, seam_statistic
from wsi_pipeline.segmentation.outlines import mask_polygons
from wsi_pipeline.tiling import plan_blocks
from wsi_pipeline.units import FrameTransform

SIDE, CORE_PX, MPP, RADIUS = 3000, 512, 0.25, 13
FRAME = FrameTransform(scale_x=1.37, scale_y=1.37)
WHOLE = shapely.box(0, 0, SIDE, SIDE)


def discs(seed: int, n: int = 6000) -> list[tuple[np.ndarray, int, int]]:
    """Return mask and offset of round cells at random places, their size and roundness varied."""
    rng = np.random.default_rng(seed)
    cells = []
    centres, radii, stretches = rng.uniform(30, SIDE - 30, (n, 2)), rng.normal(RADIUS, 1, n), rng.uniform(0.9, 1.1, n)
    for (x, y), radius, stretch in zip(centres, radii, stretches, strict=True):
        left, top, side = int(x) - 20, int(y) - 20, 41
        down, across = np.mgrid[top : top + side, left : left + side] + 0.5
        cells.append((np.hypot((across - x) * stretch, (down - y) / stretch) <= radius, left, top))
    return cells


def cut(mask: np.ndarray, x: int, y: int) -> list[tuple[np.ndarray, int, int]]:
    """Return a cell as blocks without halo would give it: a piece for each core."""
    down, across = np.mgrid[y : y + mask.shape[0], x : x + mask.shape[1]] // CORE_PX
    block = down * 1000 + across
    return [(piece, x, y) for b in np.unique(block[mask]) if (piece := mask & (block == b)).sum() > 12]


def write(path: Path, cells: list[tuple[np.ndarray, int, int]]) -> Path:
    polygons, seeds = [], []
    for mask, x, y in cells:
        polygons += mask_polygons(mask.astype(np.int32), np.array([[0, 0, *mask.shape]]), (x, y)).tolist()
        rows, columns = np.nonzero(mask)
        middle = np.argmin(np.hypot(rows - rows.mean(), columns - columns.mean()))
        seeds.append((columns[middle] + x, rows[middle] + y))
    table = pa.table(
        {
            "seed_x": pa.array([s[0] for s in seeds], pa.int32()),
            "seed_y": pa.array([s[1] for s in seeds], pa.int32()),
            "perimeter_um": pa.array(shapely.length(polygons) * MPP, pa.float32()),
            "geometry": pa.array(shapely.to_wkb(shapely.transform(polygons, FRAME.to_px0)), pa.binary()),
        }
    )
    pq.write_table(table, path, row_group_size=700)
    return path


def measure(path: Path, region: BaseGeometry = WHOLE, core_px: int = CORE_PX) -> SeamStatistic:
    blocks = plan_blocks((SIDE, SIDE), region, core_px=core_px, halo=80)
    return seam_statistic(path, blocks, core_px=core_px, mpp=MPP, frame=FRAME, region=region)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cells") / "cells.parquet", discs(1))


@pytest.fixture(scope="module")
def seamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pieces = [piece for cell in discs(1) for piece in cut(*cell)]
    return write(tmp_path_factory.mktemp("cells") / "cells.parquet", pieces)


def test_cells_that_were_not_cut_show_no_seam(whole: Path) -> None:
    found = measure(whole)
    assert found.reason is None
    counts, edges = found.count_ratio, found.straight_edges
    assert counts is not None
    assert edges is not None
    assert counts.border + counts.control > 1500
    assert counts.value is not None
    assert counts.lower is not None
    assert counts.upper is not None
    assert counts.lower < 1 < counts.upper
    assert 0.9 < counts.value < 1.1
    assert edges.ratio is not None
    assert 0.6 < edges.ratio < 1.6
    assert edges.border_cells > 10


def test_cells_cut_at_borders_show_as_too_many_with_straight_edges(seamed: Path, whole: Path) -> None:
    found, before = measure(seamed), measure(whole)
    assert found.count_ratio is not None
    assert before.count_ratio is not None
    assert found.count_ratio.lower is not None
    assert found.count_ratio.lower > 1.1
    # A cell at a control line that a border cuts across has its pieces' seeds elsewhere.
    assert found.count_ratio.control == pytest.approx(before.count_ratio.control, rel=0.1)
    edges, expected = found.straight_edges, before.straight_edges
    assert edges is not None
    assert expected is not None
    assert edges.ratio is not None
    assert edges.ratio > 10
    assert edges.control_um_per_mm == pytest.approx(expected.control_um_per_mm, abs=2)


def test_cells_lost_at_borders_show_as_too_few(tmp_path: Path) -> None:
    kept = [cell for cell in discs(1) if len(cut(*cell)) == 1]
    counts = measure(write(tmp_path / "cells.parquet", kept)).count_ratio
    assert counts is not None
    assert counts.upper is not None
    assert counts.upper < 0.9


def test_lengths_and_areas_are_those_inside_the_region(whole: Path) -> None:
    found = measure(whole)
    # Six blocks a side: five borders of either direction, each across the slide.
    assert found.border_mm == pytest.approx(10 * SIDE * MPP / 1000)
    assert found.control_mm == pytest.approx(found.border_mm)
    assert found.distance_um == 10
    assert found.count_ratio is not None
    assert found.count_ratio.border_mm2 == pytest.approx(found.border_mm * 0.02)
    part = measure(whole, shapely.box(100, 100, 900, 400))
    assert part.border_mm == pytest.approx(300 * MPP / 1000)
    assert part.control_mm == pytest.approx(part.border_mm)


def test_blocks_that_do_not_meet_have_no_border(whole: Path) -> None:
    apart = shapely.union(shapely.box(10, 10, 400, 400), shapely.box(1100, 1100, 1400, 1400))
    assert measure(whole, apart).reason == "no-inner-borders"


@pytest.mark.parametrize("region", [WHOLE, shapely.Polygon()], ids=["one block", "none"])
def test_without_inner_borders_it_is_null_with_a_reason(whole: Path, region: BaseGeometry) -> None:
    found = measure(whole, region, core_px=4096).to_dict()
    assert found.pop("reason") == "no-inner-borders"
    assert set(found.values()) == {None}


def test_a_table_without_cells(tmp_path: Path) -> None:
    found = measure(write(tmp_path / "cells.parquet", []))
    assert found.count_ratio is not None
    assert found.count_ratio.value is None
    assert found.straight_edges is not None
    assert found.straight_edges.border_um_per_mm == 0
    assert found.straight_edges.ratio is None


@pytest.mark.parametrize(("a", "b"), [(12, 7), (1, 40), (300, 280)])
def test_the_interval_is_where_the_exact_binomial_test_turns(a: int, b: int) -> None:
    value, lower, upper = rate_ratio(a, b, 2.0, 3.0)
    assert value == pytest.approx(a / 2 / (b / 3))
    assert lower is not None
    assert upper is not None

    def p(ratio: float) -> float:
        return 2 * ratio / (2 * ratio + 3)

    assert binom.sf(a - 1, a + b, p(lower)) == pytest.approx(0.025)
    assert binom.cdf(a, a + b, p(upper)) == pytest.approx(0.025)


def test_the_interval_of_nothing() -> None:
    assert rate_ratio(0, 0, 1.0, 1.0) == (None, None, None)
    assert rate_ratio(3, 4, 0.0, 1.0) == (None, None, None)
    value, lower, upper = rate_ratio(5, 0, 1.0, 1.0)
    assert (value, upper) == (None, None)
    assert lower is not None
    assert 0 < lower < 5
    assert rate_ratio(0, 5, 1.0, 1.0)[:2] == (0.0, 0.0)
