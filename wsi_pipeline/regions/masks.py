"""From an overview picture to masks: tissue or stain, pen, no-data. Pure functions on arrays.

Stain is measured as optical density against the slide's own glass, the largest of the three channels: haematoxylin,
eosin, Giemsa and red cells all absorb in at least one. Thresholds are Otsu's within fixed limits, so that an empty
slide gives nothing rather than its noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.artefacts import find_pen
from wsi_pipeline.regions.morphology import Mask, Rgb, fill_holes, grow, large, morphology, px

_OD_SCALE = 400.0
"""Grey levels of the density picture per unit of optical density (255 is a density of 0.64)."""
_TISSUE_OD = (0.045, 0.09)
_STAIN_OD = (0.02, 0.02)
"""One value: a smear may be covered evenly, and Otsu would then split the cells themselves."""
_DEFAULT_GLASS = 243
_MAX_HOLE_MM2 = 0.5
_NO_DATA_LEVEL = 8
_NO_DATA_MIN_MM2 = 0.02


@dataclass(frozen=True, kw_only=True)
class Masks:
    """What each overview pixel is; the masks do not overlap.

    ``threshold_od`` is the optical density above which a pixel counts as stained.
    """

    stained: Mask
    pen: Mask
    no_data: Mask
    threshold_od: float


def glass_colour(pixels: Rgb) -> tuple[int, int, int]:
    """Return the colour of empty glass: per channel the mode of bright, colourless pixels.

    Pure white is left out where there is other glass, because scanners fill unscanned parts with it. A slide
    without glass in view gets a light grey.
    """
    low, high = pixels.min(axis=2), pixels.max(axis=2)
    glass = (low >= 200) & (high - low <= 25)
    scanned = glass & (low < 255)
    enough = max(64, glass.size // 500)
    chosen = scanned if scanned.sum() >= enough else glass
    if chosen.sum() < enough:
        return (_DEFAULT_GLASS, _DEFAULT_GLASS, _DEFAULT_GLASS)
    modes = [int(np.bincount(pixels[..., c][chosen], minlength=256).argmax()) for c in range(3)]
    return (modes[0], modes[1], modes[2])


def optical_density(pixels: Rgb, glass: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """Return the largest optical density of the channels, times 400, as uint8 of shape (h, w)."""
    table = np.empty((256, 1, 3), dtype=np.uint8)
    values = np.arange(256) + 1.0
    for c in range(3):
        density = np.log10((glass[c] + 1.0) / values)
        table[:, 0, c] = np.clip(np.rint(density * _OD_SCALE), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, table)).max(axis=2)


def find_masks(pixels: Rgb, *, mpp: float, stain: bool, glass: tuple[int, int, int] | None = None) -> Masks:
    """Find what is stained.

    Parameters
    ----------
    pixels
        Overview, uint8 RGB of shape (h, w, 3).
    mpp
        Its microns per pixel.
    stain
        True for smears (the area covered by cells, however thin), False for tissue.
    glass
        Colour of empty glass; taken from the overview when None.
    """
    pixel_mm2 = mpp * mpp * 1e-6
    no_data = large(pixels.max(axis=2) <= _NO_DATA_LEVEL, _NO_DATA_MIN_MM2 / pixel_mm2)
    if no_data.any():
        no_data = grow(no_data, px(16, mpp))
    density = optical_density(pixels, glass or glass_colour(pixels))
    low, high = _STAIN_OD if stain else _TISSUE_OD
    density[no_data] = 0
    pen = find_pen(pixels, density > low * _OD_SCALE, mpp) & ~no_data
    density[pen] = 0
    valid = ~(no_data | pen)
    # A smear is judged by how densely cells cover it, over the width of a few cells.
    density = np.asarray(cv2.GaussianBlur(density, (0, 0), max(0.8, (24.0 if stain else 8.0) / mpp)))
    threshold = float(np.clip(_otsu(density[valid]) / _OD_SCALE, low, high)) if valid.any() else high
    stained = (density > threshold * _OD_SCALE) & valid
    # Closing comes first: the walls between fat cells are thin, and opening would remove them.
    stained = morphology(stained, cv2.MORPH_CLOSE, px(40.0, mpp))
    stained = fill_holes(stained, max_px=_MAX_HOLE_MM2 / pixel_mm2)
    stained = morphology(stained, cv2.MORPH_OPEN, px(8.0, mpp)) & valid
    return Masks(stained=stained, pen=pen, no_data=no_data, threshold_od=threshold)


def _otsu(values: npt.NDArray[np.uint8]) -> float:
    """Return Otsu's threshold of grey levels (IEEE Trans. SMC 9:62, 1979)."""
    counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
    level = np.arange(256.0)
    below = np.cumsum(counts)
    above = below[-1] - below
    mean_below = np.cumsum(counts * level)
    total = mean_below[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mean_below / below - (total - mean_below) / above) ** 2
    return float(np.nanargmax(np.where(np.isfinite(between), between, -1.0)))
