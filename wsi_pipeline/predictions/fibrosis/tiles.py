"""Tiles of a reticulin section: where they lie, which of their pixels are marrow, and what a network sees of them.

A tile's numbers depend on its own pixels and a margin alone, so no cut of the work can change them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.regions.morphology import opened
from wsi_pipeline.regions.rasterise import rasterise
from wsi_pipeline.units import Box

TILE_UM = 128.0
"""Side of a tile: wider than a fat cell, narrower than most intertrabecular spaces."""
MARGIN_UM = 8.0
POOL_PX = 16
"""Side of the squares over which the network's last map is pooled; the marrow's share is given for each."""

_PALE_OD, _PALE_UM, _SMOOTH_UM = 0.05, 4.0, 1.0
_FIBRE_OD = 0.35
_MOST_OD = 1.5

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TileGrid:
    """Squares of :data:`TILE_UM` on a lattice anchored at the working frame's origin.

    Attributes
    ----------
    mpp
        Microns per working pixel.
    width, height
        Of the slide, working pixels.
    """

    mpp: float
    width: int
    height: int

    @property
    def side(self) -> int:
        """Return the side of a tile in working pixels, a multiple of :data:`POOL_PX`."""
        return POOL_PX * max(1, round(TILE_UM / self.mpp / POOL_PX))

    @property
    def margin(self) -> int:
        """Return how far around a tile pixels are looked at."""
        return math.ceil(MARGIN_UM / self.mpp)

    def box(self, column: int, row: int) -> Box:
        """Return a tile in working pixels."""
        side = self.side
        return Box(x0=column * side, y0=row * side, x1=(column + 1) * side, y1=(row + 1) * side)

    def tiles(self, region: BaseGeometry, least_share: float) -> list[tuple[int, int]]:
        """Return the tiles (column, row), in raster order, of which a region takes at least a share.

        Parameters
        ----------
        region
            Working pixels.
        least_share
            0 to 1; marrow cannot be more than what of the tile lies in the region.
        """
        if region.is_empty:
            return []
        x0, y0, x1, y1 = region.bounds
        side = self.side
        rows = np.arange(max(0, math.floor(y0 / side)), min(math.ceil(y1 / side), math.ceil(self.height / side)))
        columns = np.arange(max(0, math.floor(x0 / side)), min(math.ceil(x1 / side), math.ceil(self.width / side)))
        found = []
        for row in rows.tolist():
            strip = shapely.clip_by_rect(region, x0, row * side, x1, (row + 1) * side)
            if strip.is_empty:
                continue
            squares = shapely.box(columns * side, row * side, (columns + 1) * side, (row + 1) * side)
            inside = shapely.area(shapely.intersection(squares, shapely.make_valid(strip)))
            found += [(int(c), row) for c in columns[inside >= least_share * side * side]]
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class FibreTile:
    """What is seen of a tile.

    Attributes
    ----------
    density
        Optical density over glass, float32 of shape (3, side, side), 0 to 1.5.
    marrow
        Share of marrow in squares of :data:`POOL_PX` pixels, float32 of shape (side / 16, side / 16).
    marrow_share
        Of the whole tile.
    fibre_share
        Share of the marrow's pixels that are dark: mean density of the colours of at least 0.35. NaN without marrow.
    """

    density: Floats
    marrow: Floats
    marrow_share: float
    fibre_share: float


def see_tile(
    pixels: npt.NDArray[np.uint8],
    inside: npt.NDArray[np.bool_],
    *,
    glass: tuple[int, int, int],
    mpp: float,
    margin: int,
) -> FibreTile:
    """Return what is seen of a tile.

    Parameters
    ----------
    pixels
        The tile and ``margin`` pixels around, uint8 RGB of shape (side + 2 margin, side + 2 margin, 3).
    inside
        Which of the tile's pixels belong to the region (no bone), bool of shape (side, side).
    glass
        Colour of empty glass.
    mpp
        Microns per pixel.

    Notes
    -----
    Pale gaps wider than 8 um (fat, sinusoids, tears) are no marrow.
    """
    level = np.arange(256, dtype=np.float64) + 1.0
    table = np.stack([np.clip(np.log10((g + 1.0) / level), 0, _MOST_OD) for g in glass], axis=1).astype(np.float32)
    density = np.asarray(cv2.LUT(pixels, table[:, None, :]))
    smooth = cv2.GaussianBlur(density.max(axis=2), (0, 0), max(_SMOOTH_UM / mpp, 0.3))
    pale = opened(smooth < _PALE_OD, _PALE_UM / mpp)
    core = slice(margin, -margin) if margin else slice(None)
    marrow = inside & ~pale[core, core]
    dark = density[core, core].mean(axis=2) >= _FIBRE_OD
    n = int(marrow.sum())
    side = len(marrow)
    pooled = marrow.reshape(side // POOL_PX, POOL_PX, side // POOL_PX, POOL_PX).mean(axis=(1, 3))
    return FibreTile(
        density=np.ascontiguousarray(density[core, core].transpose(2, 0, 1)),
        marrow=pooled.astype(np.float32),
        marrow_share=n / marrow.size,
        fibre_share=float((dark & marrow).sum()) / n if n else math.nan,
    )


def pixels_inside(region: BaseGeometry, box: Box) -> npt.NDArray[np.bool_]:
    """Return which pixels of a box have their centre in a region (working pixels), bool of shape (height, width)."""
    near = shapely.make_valid(shapely.clip_by_rect(region, box.x0 - 1, box.y0 - 1, box.x1 + 1, box.y1 + 1))
    polygons = shapely.get_parts(shapely.get_parts(near))
    polygons = polygons[shapely.get_type_id(polygons) == 3]
    tile = np.zeros((box.height, box.width), np.uint8)
    rasterise(polygons, np.ones(len(polygons), np.uint8), tile, box)
    return np.asarray(tile > 0)
