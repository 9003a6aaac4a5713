"""How the work is cut: the network-tile lattice and blocks with halo."""

from wsi_pipeline.tiling.blocks import Block, halo_px, plan_blocks
from wsi_pipeline.tiling.lattice import ORDER_CELL_PX, TileLattice, taper

__all__ = ["ORDER_CELL_PX", "Block", "TileLattice", "halo_px", "plan_blocks", "taper"]
