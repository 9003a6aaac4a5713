"""Blocks: the unit of scheduling and of resume. Cutting differently changes no cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import shapely
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.units import Box

SEED_REACH_PX = 16
"""How far from a seed others can change its cell: 5 px of its own extension, 5 of a rival's, 2 of the rival's
neighbourhood, 1 of interpolation; rounded up."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A core, which owns the cells whose seed lies in it, and the window needed to compute them.

    Attributes
    ----------
    row, col
        Place among the cores.
    core
        Half-open box, working pixels, clipped to the slide.
    window
        Core and halo, clipped to the slide.
    """

    row: int
    col: int
    core: Box
    window: Box

    @property
    def name(self) -> str:
        return f"{self.row:05d}_{self.col:05d}"


def halo_px(max_cell_diameter_um: float, mpp: float, halo_um: float | None = None) -> int:
    """Return the halo of a block, working pixels: the largest cell + 16 px, or more when asked."""
    least = math.ceil(max_cell_diameter_um / mpp) + SEED_REACH_PX
    return max(least, math.ceil((halo_um or 0.0) / mpp))


def plan_blocks(size: tuple[int, int], region: BaseGeometry, *, core_px: int, halo: int) -> list[Block]:
    """Cut a slide into the blocks whose core meets the region, in raster order.

    Parameters
    ----------
    size
        Width and height of the slide, working pixels.
    region
        Where cells are wanted, working pixels.
    core_px, halo
        Side of a core and width of the halo, working pixels.
    """
    if region.is_empty:
        return []
    width, height = size
    slide = Box(x0=0, y0=0, x1=width, y1=height)
    x0, y0, x1, y1 = region.bounds
    shapely.prepare(region)
    blocks = []
    for row in range(max(0, int(y0) // core_px), min(math.ceil(height / core_px), int(y1) // core_px + 1)):
        for col in range(max(0, int(x0) // core_px), min(math.ceil(width / core_px), int(x1) // core_px + 1)):
            core = Box(x0=col * core_px, y0=row * core_px, x1=(col + 1) * core_px, y1=(row + 1) * core_px).clip(slide)
            if not core.is_empty and region.intersects(shapely.box(core.x0, core.y0, core.x1, core.y1)):
                blocks.append(Block(row=row, col=col, core=core, window=core.grow(halo).clip(slide)))
    return blocks
