"""Masks to polygons in level-0 pixels."""

from __future__ import annotations

import numpy as np
import shapely
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.regions.morphology import Mask
from wsi_pipeline.regions.regions import only_areas
from wsi_pipeline.units import FrameTransform

# The steps of a slanted pixel edge deviate from the line by up to 0.71 pixel.
_SIMPLIFY_PX = 0.75


def mask_to_polygons(mask: Mask, frame: FrameTransform) -> list[Polygon]:
    """Return the pieces of a mask with their holes, as valid polygons in level-0 pixels, top to bottom.

    The mask is the union of its rows' runs, so outlines follow the pixels' edges exactly and are valid however
    the mask touches itself (contour tracing gives invalid rings at diagonal contacts). They are then simplified
    by three quarters of a pixel.
    """
    union = shapely.unary_union(_runs(mask))
    pieces: list[Polygon] = []
    for part in _parts(union):
        pieces += _parts(shapely.transform(part.simplify(_SIMPLIFY_PX), frame.to_px0))
    return sorted(pieces, key=lambda piece: (piece.bounds[1], piece.bounds[0], piece.area))


def _runs(mask: Mask) -> np.ndarray:
    """Return one box for every horizontal run of set pixels."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    _, stops = np.nonzero(edges == -1)
    boxes: np.ndarray = shapely.box(starts, rows, stops, rows + 1)
    return boxes


def _parts(geometry: BaseGeometry) -> list[Polygon]:
    areas = only_areas(geometry)
    return [areas] if isinstance(areas, Polygon) else list(areas.geoms)
