"""The network-tile lattice: where network tiles lie, whatever the block that asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.units import Box

ORDER_CELL_PX = 512
"""Side of the squares, working pixels, by which the cell table is ordered; order never follows blocks."""


@dataclass(frozen=True, kw_only=True)
class TileLattice:
    """Square tiles on one lattice anchored at the working frame's origin.

    Attributes
    ----------
    tile_px
        Side of a tile, working pixels.
    overlap_px
        Pixels that neighbouring tiles share.
    width, height
        Size of the slide, working pixels; tiles start inside it.
    """

    tile_px: int
    overlap_px: int
    width: int
    height: int

    @property
    def stride_px(self) -> int:
        return self.tile_px - self.overlap_px

    def tile(self, row: int, col: int) -> Box:
        """Return the box of a tile; the last ones reach beyond the slide."""
        x0, y0 = col * self.stride_px, row * self.stride_px
        return Box(x0=x0, y0=y0, x1=x0 + self.tile_px, y1=y0 + self.tile_px)

    def _range(self, low: int, high: int, size: int) -> range:
        """Return indices of tiles of one axis that meet ``[low, high)`` and start inside the slide."""
        low, high = max(0, low), min(size, high)
        if high <= low:
            return range(0)
        # A tile past the first that only repeats the end of the one before it adds nothing.
        last = max(0, -(-(size - self.overlap_px) // self.stride_px) - 1)
        first = max(0, -(-(low - self.tile_px + 1) // self.stride_px))
        return range(min(first, last), min((high - 1) // self.stride_px, last) + 1)

    def meeting(self, box: Box) -> list[tuple[int, int]]:
        """Return (row, col) of the tiles that meet ``box``, in raster order."""
        rows = self._range(box.y0, box.y1, self.height)
        cols = self._range(box.x0, box.x1, self.width)
        return [(row, col) for row in rows for col in cols]

    def bounds(self, tiles: Sequence[tuple[int, int]]) -> npt.NDArray[np.float64]:
        """Return ``(n, 4)`` x0, y0, x1, y1 of tiles, clipped to the slide."""
        index = np.asarray(tiles, dtype=np.int64).reshape(-1, 2)
        y0, x0 = index[:, 0] * self.stride_px, index[:, 1] * self.stride_px
        x1, y1 = np.minimum(x0 + self.tile_px, self.width), np.minimum(y0 + self.tile_px, self.height)
        return np.stack([x0, y0, x1, y1], axis=1).astype(np.float64)

    def computed(self, box: Box, dilated_region: BaseGeometry) -> list[tuple[int, int]]:
        """Return the tiles that meet ``box`` and the dilated region, in raster order.

        Whether a tile is computed depends on the region only, never on the block.
        """
        tiles = self.meeting(box)
        if not tiles:
            return []
        shapely.prepare(dilated_region)
        hit = shapely.intersects(dilated_region, shapely.box(*self.bounds(tiles).T))
        return [tile for tile, keep in zip(tiles, hit, strict=True) if keep]

    def sample(self, region: BaseGeometry, n: int) -> list[tuple[int, int]]:
        """Return at most ``n`` tiles that meet ``region``: a fixed pseudo-random choice, in raster order."""
        x0, y0, x1, y1 = (int(v) for v in region.bounds)
        tiles = self.computed(Box(x0=x0, y0=y0, x1=x1 + 1, y1=y1 + 1), region)
        chosen = sorted(tiles, key=lambda t: hashlib.sha1(repr(t).encode(), usedforsecurity=False).digest())[:n]
        return sorted(chosen)


def taper(tile_px: int) -> npt.NDArray[np.float32]:
    """Return the ``(t, t)`` weight with which a tile is blended: Cellpose's sigmoid of the distance to its edge."""
    distance = np.abs(np.arange(tile_px) - (tile_px - 1) / 2)
    side = 1 / (1 + np.exp((distance - (tile_px / 2 - 20)) / 7.5))
    return np.outer(side, side).astype(np.float32)
