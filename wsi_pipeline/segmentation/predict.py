"""Run a network over a window: tiles of the lattice in fixed batches, blended in raster order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.segmentation.models import FlowModel
from wsi_pipeline.segmentation.normalise import Normalisation
from wsi_pipeline.tiling import TileLattice, taper
from wsi_pipeline.units import Box

Reader = Callable[[Box], npt.NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Network output over a window.

    Attributes
    ----------
    output
        ``(3 + k, h, w)`` float32: 5 x flow y, 5 x flow x, cell logit, kind logits; blended over tiles. Where no
        tile was computed the cell logit is -inf and the rest 0.
    rgb
        ``(h, w, 3)`` uint8 pixels of the window.
    """

    output: npt.NDArray[np.float32]
    rgb: npt.NDArray[np.uint8]


def predict_window(
    read: Reader,
    window: Box,
    *,
    lattice: TileLattice,
    dilated_region: BaseGeometry,
    normalisation: Normalisation,
    model: FlowModel,
    batch_size: int,
) -> Fields:
    """Predict all lattice tiles that meet the window and the dilated region, and blend them over the window.

    Parameters
    ----------
    read
        Returns ``(h, w, 3)`` uint8 of a box in working pixels, white outside the slide.
    window
        Where the output is wanted, working pixels.
    batch_size
        Tiles per batch; the last is padded with zeros, so every batch has one shape.
    """
    tiles = lattice.computed(window, dilated_region)
    side = lattice.tile_px
    channels = 3 + len(model.kinds)
    total = np.zeros((channels, window.height, window.width), np.float32)
    weight = np.zeros((window.height, window.width), np.float32)
    rgb = read(window) if not tiles else np.empty((0, 0, 3), np.uint8)
    if tiles:
        boxes = [lattice.tile(*tile) for tile in tiles]
        around = Box(
            x0=min(window.x0, *(b.x0 for b in boxes)), y0=min(window.y0, *(b.y0 for b in boxes)),
            x1=max(window.x1, *(b.x1 for b in boxes)), y1=max(window.y1, *(b.y1 for b in boxes)),
        )  # fmt: skip
        pixels = read(around)
        ramp = taper(side)
        for start in range(0, len(boxes), batch_size):
            part = boxes[start : start + batch_size]
            batch = np.zeros((batch_size, 3, side, side), np.float32)
            for slot, box in enumerate(part):
                tile = pixels[box.y0 - around.y0 : box.y1 - around.y0, box.x0 - around.x0 : box.x1 - around.x0]
                batch[slot] = normalisation.apply(tile).transpose(2, 0, 1)
            predicted = model.predict(batch)
            for slot, box in enumerate(part):
                _blend(total, weight, predicted[slot], ramp, box, window)
        rgb = pixels[
            window.y0 - around.y0 : window.y1 - around.y0, window.x0 - around.x0 : window.x1 - around.x0
        ].copy()
    covered = weight > 0
    np.divide(total, weight, out=total, where=covered)
    total[2][~covered] = -np.inf
    return Fields(output=total, rgb=rgb)


def _blend(
    total: npt.NDArray[np.float32],
    weight: npt.NDArray[np.float32],
    tile: npt.NDArray[np.float32],
    ramp: npt.NDArray[np.float32],
    box: Box,
    window: Box,
) -> None:
    """Add a tile's weighted output to the part of the window it covers."""
    shared = box.clip(window)
    inside = np.s_[shared.y0 - window.y0 : shared.y1 - window.y0, shared.x0 - window.x0 : shared.x1 - window.x0]
    source = np.s_[shared.y0 - box.y0 : shared.y1 - box.y0, shared.x0 - box.x0 : shared.x1 - box.x0]
    total[:, inside[0], inside[1]] += tile[:, source[0], source[1]] * ramp[source]
    weight[inside] += ramp[source]
