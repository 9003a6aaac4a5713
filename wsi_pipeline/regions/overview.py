"""A small picture of the whole slide, read strip by strip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.slides import Slide
from wsi_pipeline.units import Box, FrameTransform

_STRIP_PX = 1024
_MAX_PX = 64 * 2**20
_GLASS_MPP = 1.0
_GLASS_WINDOW_PX = 128
_GLASS_GRID = 7
_BRIGHTEST = 90.0


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The scanned part of a slide at low resolution.

    ``pixels`` is uint8 RGB of shape (h, w, 3); ``frame`` maps its pixels to level-0 pixels; ``mpp`` is its resolution.
    """

    pixels: npt.NDArray[np.uint8]
    frame: FrameTransform
    mpp: float


def read_overview(slide: Slide, mpp: float) -> Overview:
    """Read the slide's bounds at ``mpp``, or at the finest resolution that keeps the picture under 64 Mpx.

    Only strips are decoded at a time, so memory is that of the overview however large the slide is, also when
    level 0 is its only level.
    """
    bounds = slide.bounds
    area_um2 = bounds.width * slide.mpp.x * bounds.height * slide.mpp.y
    mpp = max(mpp, float(np.ceil(np.sqrt(area_um2 / _MAX_PX))) if area_um2 / mpp**2 > _MAX_PX else 0.0)
    frame = slide.frame(mpp)
    box = frame.box_from_px0(bounds.x0, bounds.y0, bounds.x1, bounds.y1)
    pixels = np.empty((box.height, box.width, 3), dtype=np.uint8)
    for y in range(box.y0, box.y1, _STRIP_PX):
        strip = Box(x0=box.x0, y0=y, x1=box.x1, y1=min(y + _STRIP_PX, box.y1))
        pixels[y - box.y0 : strip.y1 - box.y0] = slide.read(strip, mpp)
    origin_x, origin_y = frame.to_px0([box.x0, box.y0])
    moved = FrameTransform(
        scale_x=frame.scale_x, scale_y=frame.scale_y, offset_x=float(origin_x), offset_y=float(origin_y)
    )
    return Overview(pixels=pixels, frame=moved, mpp=mpp)


def sample_glass(slide: Slide) -> tuple[int, int, int]:
    """Return the colour of the glass of a smear, also of one that is covered with cells from edge to edge.

    In an overview every pixel of a smear mixes cells and glass. At 1 um per pixel glass shows between the cells: of
    a fixed grid of windows the brightest tenth of the pixels is taken, and each channel's most frequent level there.
    White (255) counts only where there is nothing else, because scanners fill unscanned parts with it.
    """
    bounds, frame = slide.bounds, slide.frame(_GLASS_MPP)
    samples = []
    for row in range(_GLASS_GRID):
        for col in range(_GLASS_GRID):
            x, y = frame.from_px0(
                [
                    bounds.x0 + (col + 0.5) * bounds.width / _GLASS_GRID,
                    bounds.y0 + (row + 0.5) * bounds.height / _GLASS_GRID,
                ]
            )
            x0, y0 = int(x) - _GLASS_WINDOW_PX // 2, int(y) - _GLASS_WINDOW_PX // 2
            window = Box(x0=x0, y0=y0, x1=x0 + _GLASS_WINDOW_PX, y1=y0 + _GLASS_WINDOW_PX)
            samples.append(slide.read(window, _GLASS_MPP).reshape(-1, 3))
    pixels = np.concatenate(samples)
    scanned = pixels[(pixels < 255).any(axis=1)]
    if len(scanned) >= len(pixels) // 50:
        pixels = scanned
    brightness = pixels.astype(np.int32).sum(axis=1)
    bright = pixels[brightness >= np.percentile(brightness, _BRIGHTEST)]
    modes = [int(np.bincount(bright[:, c], minlength=256).argmax()) for c in range(3)]
    return modes[0], modes[1], modes[2]
