"""Do the borders of blocks show in a slide's cells? Counts and straight edges at borders, against block interiors.

A *border* is where the cores of two blocks of the slide meet. Its *control* is the border moved half a core to the
left, or up: a line of the same length in the middle of the block before it, where nothing was cut. Lengths and areas
are those inside the searched region.

Count ratio
    A cell is near a line when its seed lies within ``d`` of it, where ``d`` is 10 um or a quarter of a core, whichever
    is less. With ``k_b`` cells near borders and ``k_c`` near controls, on ``A_b`` and ``A_c`` of strips of width 2d,

        ratio = (k_b / A_b) / (k_c / A_c)

    Given ``n = k_b + k_c``, ``k_b`` is binomial with ``p = ratio A_b / (ratio A_b + A_c)``. The Clopper-Pearson limits
    of p, carried over by ``ratio = p / (1 - p) A_c / A_b``, are the limits of the ratio. A cell near two lines counts
    at both, as its area does. Halved cells counted on both sides raise the ratio; cells lost at borders lower it.

Straight edges
    The edges of an outline whose two ends lie within half a working pixel of a line run along it. Of a cell, what runs
    along one line of one block counts when it adds up to 2 um or more, measured along the line:

        um of straight edge / mm of line

    for borders and for controls, and the ratio of the two. A round cell that touches a line runs along it for a
    little, on either kind of line; a cell that was cut does so for its whole width.

References
----------
Clopper C, Pearson E. Biometrika 1934;26:404-413. Przyborowski J, Wilenski H. Biometrika 1940;31:313-323.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.tiling import Block
from wsi_pipeline.units import FrameTransform

DISTANCE_UM = 10.0
"""Cells whose seed is closer to a line are near it."""

LEAST_RUN_UM = 2.0
"""Shorter straight edges are not counted."""

_TOLERANCE_PX = 0.5 + 1e-6
_COLUMNS = ("seed_x", "seed_y", "perimeter_um", "geometry")

Axis = Literal[0, 1]
FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CountRatio:
    """Density of cells near one kind of line over that near another.

    Attributes
    ----------
    border, control
        Cells near borders and near controls.
    border_mm2, control_mm2
        Area of the strips, inside the region.
    value, lower, upper
        The ratio and its 95 % interval; None where undefined or unbounded.
    """

    border: int
    control: int
    border_mm2: float
    control_mm2: float
    value: float | None
    lower: float | None
    upper: float | None


@dataclass(frozen=True, kw_only=True)
class StraightEdges:
    """Outlines that run along lines.

    Attributes
    ----------
    border_cells, control_cells
        Cells with a straight edge; one with edges along two lines counts twice.
    border_um_per_mm, control_um_per_mm
        Length of straight edges by length of line; None without a line inside the region.
    ratio
        The first over the second; None where undefined.
    """

    border_cells: int
    control_cells: int
    border_um_per_mm: float | None
    control_um_per_mm: float | None
    ratio: float | None


@dataclass(frozen=True, kw_only=True)
class SeamStatistic:
    """What the borders of blocks left in the cells of a slide.

    Attributes
    ----------
    reason
        ``no-inner-borders`` when the slide is one block, or none; the figures are then None.
    distance_um
        ``d`` of the module's formulas.
    border_mm, control_mm
        Length of the lines inside the region.
    count_ratio, straight_edges
        The two figures.
    """

    reason: str | None = None
    distance_um: float | None = None
    border_mm: float | None = None
    control_mm: float | None = None
    count_ratio: CountRatio | None = None
    straight_edges: StraightEdges | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``quality.seams`` in ``summary.json``."""
        return {
            **vars(self),
            "count_ratio": None if self.count_ratio is None else vars(self.count_ratio),
            "straight_edges": None if self.straight_edges is None else vars(self.straight_edges),
        }


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """Lines of one direction and one kind.

    Attributes
    ----------
    axis
        0 for vertical lines, which have an x; 1 for horizontal ones.
    at
        ``(n,)`` position of each line, working pixels.
    has
        ``(n, m)``: whether line i is there in the m-th row of blocks (column of blocks for horizontal lines).
    core_px
        Side of a core.
    """

    axis: Axis
    at: IntArray
    has: npt.NDArray[np.bool_]
    core_px: int

    def nearest(self, across: FloatArray, along: FloatArray) -> tuple[IntArray, IntArray, FloatArray]:
        """Return line, row of blocks and distance of points; infinitely far where no line is there."""
        place = np.clip(np.rint((across - self.at[0]) / self.core_px).astype(np.int64), 0, len(self.at) - 1)
        row = np.clip((along // self.core_px).astype(np.int64), 0, self.has.shape[1] - 1)
        return place, row, np.where(self.has[place, row], np.abs(across - self.at[place]), np.inf)

    def runs(self, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield position, start and end of unbroken pieces of the lines; none reaches beyond ``end``."""
        for at, present in zip(self.at, self.has, strict=True):
            changes = np.flatnonzero(np.diff(np.concatenate([[False], present, [False]]).astype(np.int8)))
            for first, last in changes.reshape(-1, 2):
                yield int(at), int(first) * self.core_px, min(int(last) * self.core_px, end)


def _lines(blocks: Sequence[Block], axis: Axis, core_px: int) -> tuple[_Lines, _Lines]:
    """Return borders and controls of one direction."""
    row, col = np.array([block.row for block in blocks]), np.array([block.col for block in blocks])
    across, along = (col, row) if axis == 0 else (row, col)
    there = np.zeros((across.max() + 1, along.max() + 1), bool)
    there[across, along] = True
    has = there[:-1] & there[1:]
    before = np.arange(len(has)) * core_px
    return (
        _Lines(axis=axis, at=before + core_px, has=has, core_px=core_px),
        _Lines(axis=axis, at=before + core_px // 2, has=has, core_px=core_px),
    )


@dataclass(kw_only=True)
class _Tally:
    """Sums over all lines of one kind; pixels are working pixels."""

    lines: list[_Lines] = field(default_factory=list)
    length_px: float = 0.0
    area_px: float = 0.0
    near: int = 0
    straight_px: float = 0.0
    straight: int = 0

    def measure(self, region: BaseGeometry, end: tuple[int, int], distance_px: int) -> None:
        """Add length and area of the lines inside the region."""
        pieces, strips = [], []
        for lines in self.lines:
            for at, start, stop in lines.runs(end[1 - lines.axis]):
                low, high = at - distance_px, at + distance_px
                if lines.axis == 0:
                    pieces.append(shapely.LineString([(at, start), (at, stop)]))
                    strips.append(shapely.box(low, start, high, stop))
                else:
                    pieces.append(shapely.LineString([(start, at), (stop, at)]))
                    strips.append(shapely.box(start, low, stop, high))
        self.length_px = float(shapely.length(shapely.intersection(pieces, region)).sum())
        self.area_px = float(shapely.area(shapely.intersection(strips, region)).sum())

    def count(self, seeds: FloatArray, distance_px: int) -> None:
        """Add the cells whose ``(n, 2)`` seed is near a line."""
        for lines in self.lines:
            _, _, away = lines.nearest(seeds[:, lines.axis], seeds[:, 1 - lines.axis])
            self.near += int(np.count_nonzero(away < distance_px))

    def follow(self, xy: FloatArray, ring: IntArray, least_px: float) -> None:
        """Add the edges that run along a line.

        Parameters
        ----------
        xy, ring
            ``(n, 2)`` vertices of closed rings, one after the other, and the ring of each.
        least_px
            Least length of a cell along one line.
        """
        inside = ring[1:] == ring[:-1]
        for lines in self.lines:
            across, along = xy[:, lines.axis], xy[:, 1 - lines.axis]
            middle = (along[1:] + along[:-1]) / 2
            place, row, away = lines.nearest(across[:-1], middle)
            end_away = np.abs(across[1:] - lines.at[place])
            edges = np.flatnonzero(inside & (away <= _TOLERANCE_PX) & (end_away <= _TOLERANCE_PX))
            if not len(edges):
                continue
            keys = np.stack([ring[edges], place[edges], row[edges]], axis=1)
            _, group = np.unique(keys, axis=0, return_inverse=True)
            runs = np.bincount(group.ravel(), weights=np.abs(along[edges + 1] - along[edges]))
            # The slack keeps a run of exactly the least length, whatever the rounding of the two frames.
            kept = runs[runs >= least_px - 1e-6]
            self.straight_px += float(kept.sum())
            self.straight += len(kept)

    def touched(self, seeds: FloatArray, reach_px: FloatArray) -> npt.NDArray[np.bool_]:
        """Return which cells may touch a line: no outline is farther from its seed than half its perimeter."""
        found = np.zeros(len(seeds), bool)
        for lines in self.lines:
            across = seeds[:, lines.axis]
            place = np.clip(np.rint((across - lines.at[0]) / lines.core_px).astype(np.int64), 0, len(lines.at) - 1)
            found |= np.abs(across - lines.at[place]) <= reach_px
        return found


def seam_statistic(
    cells: Path,
    blocks: Sequence[Block],
    *,
    core_px: int,
    mpp: float,
    frame: FrameTransform,
    region: BaseGeometry,
) -> SeamStatistic:
    """Measure whether the borders of blocks show in a slide's cells; see the module for the formulas.

    The table is read one row group at a time, and of it only the columns needed; outlines are parsed of cells that may
    touch a line.

    Parameters
    ----------
    cells
        ``cells.parquet``.
    blocks
        The blocks it was made of.
    core_px
        Side of a core, working pixels.
    mpp
        Microns per working pixel.
    frame
        The working frame.
    region
        What was searched, working pixels.
    """
    kinds = border, control = _Tally(), _Tally()
    for axis in (0, 1) if blocks else ():
        for tally, lines in zip(kinds, _lines(blocks, axis, core_px), strict=True):
            if lines.has.any():
                tally.lines.append(lines)
    if not border.lines:
        return SeamStatistic(reason="no-inner-borders")
    distance_px = max(1, min(round(DISTANCE_UM / mpp), core_px // 4))
    end = max(block.core.x1 for block in blocks), max(block.core.y1 for block in blocks)
    for tally in kinds:
        tally.measure(region, end, distance_px)
    source = pq.ParquetFile(cells)
    for group in range(source.num_row_groups):
        rows = source.read_row_group(group, columns=list(_COLUMNS))
        seeds = np.stack([rows.column(f"seed_{axis}").to_numpy() + 0.5 for axis in "xy"], axis=1)
        reach = rows.column("perimeter_um").to_numpy().astype(np.float64) / (2 * mpp) + 1
        for tally in kinds:
            tally.count(seeds, distance_px)
        some = np.flatnonzero(border.touched(seeds, reach) | control.touched(seeds, reach))
        outlines = shapely.from_wkb(rows.column("geometry").take(some).to_numpy())
        rings = shapely.get_exterior_ring(shapely.get_parts(outlines))
        corners, ring = shapely.get_coordinates(rings, return_index=True)
        for tally in kinds:
            tally.follow(frame.from_px0(corners), ring, LEAST_RUN_UM / mpp)
    return SeamStatistic(
        distance_um=distance_px * mpp,
        border_mm=border.length_px * mpp / 1000,
        control_mm=control.length_px * mpp / 1000,
        count_ratio=_count_ratio(border, control, mpp),
        straight_edges=_straight_edges(border, control),
    )


def _count_ratio(border: _Tally, control: _Tally, mpp: float) -> CountRatio:
    value, lower, upper = rate_ratio(border.near, control.near, border.area_px, control.area_px)
    px_mm2 = (mpp / 1000) ** 2
    return CountRatio(
        border=border.near,
        control=control.near,
        border_mm2=border.area_px * px_mm2,
        control_mm2=control.area_px * px_mm2,
        value=value,
        lower=lower,
        upper=upper,
    )


def _straight_edges(border: _Tally, control: _Tally) -> StraightEdges:
    found, expected = (
        1000 * tally.straight_px / tally.length_px if tally.length_px else None for tally in (border, control)
    )
    return StraightEdges(
        border_cells=border.straight,
        control_cells=control.straight,
        border_um_per_mm=found,
        control_um_per_mm=expected,
        ratio=found / expected if found is not None and expected else None,
    )


def rate_ratio(
    a: int, b: int, exposure_a: float, exposure_b: float, confidence: float = 0.95
) -> tuple[float | None, float | None, float | None]:
    """Return ``(a / exposure_a) / (b / exposure_b)`` of two Poisson counts, and its exact conditional interval.

    Parameters
    ----------
    a, b
        Counts.
    exposure_a, exposure_b
        What they were counted on, for example areas, in one unit.
    confidence
        Two-sided level.

    Returns
    -------
    value, lower, upper
        None stands for undefined or unbounded.
    """
    from scipy.stats import beta

    if exposure_a <= 0 or exposure_b <= 0 or a + b == 0:
        return None, None, None
    tail, scale = (1 - confidence) / 2, exposure_b / exposure_a
    low = float(beta.ppf(tail, a, b + 1)) if a else 0.0
    high = float(beta.ppf(1 - tail, a + 1, b)) if b else None
    return (
        a / b * scale if b else None,
        low / (1 - low) * scale,
        None if high is None else high / (1 - high) * scale,
    )
