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

Mask = npt.NDArray[np.bool_]
Rgb = npt.NDArray[np.uint8]

_OD_SCALE = 400.0
"""Grey levels of the density picture per unit of optical density (255 is a density of 0.64)."""
_TISSUE_OD = (0.045, 0.09)
_STAIN_OD = (0.02, 0.02)
"""One value: a smear may be covered evenly, and Otsu would then split the cells themselves."""
_DEFAULT_GLASS = 243
_MAX_HOLE_MM2 = 0.5
_NO_DATA_LEVEL = 8
_NO_DATA_MIN_MM2 = 0.02
_PEN_MIN_MM2 = 0.05
_PEN_MAX_SHARE = 0.5


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
    no_data = _large(pixels.max(axis=2) <= _NO_DATA_LEVEL, _NO_DATA_MIN_MM2 / pixel_mm2)
    if no_data.any():
        no_data = _grow(no_data, _px(16, mpp))
    density = optical_density(pixels, glass or glass_colour(pixels))
    low, high = _STAIN_OD if stain else _TISSUE_OD
    density[no_data] = 0
    pen = _find_pen(pixels, density > low * _OD_SCALE, mpp) & ~no_data
    density[pen] = 0
    valid = ~(no_data | pen)
    # A smear is judged by how densely cells cover it, over the width of a few cells.
    density = np.asarray(cv2.GaussianBlur(density, (0, 0), max(0.8, (24.0 if stain else 8.0) / mpp)))
    threshold = float(np.clip(_otsu(density[valid]) / _OD_SCALE, low, high)) if valid.any() else high
    stained = (density > threshold * _OD_SCALE) & valid
    # Closing comes first: the walls between fat cells are thin, and opening would remove them.
    stained = _morphology(stained, cv2.MORPH_CLOSE, _px(40.0, mpp))
    stained = _fill_holes(stained, max_px=_MAX_HOLE_MM2 / pixel_mm2)
    stained = _morphology(stained, cv2.MORPH_OPEN, _px(8.0, mpp)) & valid
    return Masks(stained=stained, pen=pen, no_data=no_data, threshold_od=threshold)


def _find_pen(pixels: Rgb, stained: Mask, mpp: float) -> Mask:
    """Find green, blue or black ink: seeds of strong colour, grown into paler ink that touches them.

    Where more than half of what is stained looks like ink, that is the stain (Giemsa, Masson), and nothing is pen.
    """
    pixel_mm2 = mpp * mpp * 1e-6
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV)
    hue, saturation, value = hsv[..., 0].astype(np.int16) * 2, hsv[..., 1], hsv[..., 2]
    green, blue = (hue >= 75) & (hue < 185), (hue >= 185) & (hue < 238)
    strong = (green & (saturation > 90)) | (blue & (saturation > 140)) | ((value < 70) & (saturation < 110))
    weak = (green & (saturation > 40)) | (blue & (saturation > 70)) | ((value < 110) & (saturation < 90))
    strong &= stained
    weak = (weak | strong) & stained
    count, labels, stats, _ = cv2.connectedComponentsWithStats(weak.astype(np.uint8), connectivity=8)
    seeds = np.bincount(labels[strong], minlength=count)
    areas = stats[:, cv2.CC_STAT_AREA]
    keep = (areas >= _PEN_MIN_MM2 / pixel_mm2) & (seeds >= 0.3 * areas)
    keep[0] = False
    pen = keep[labels]
    if not pen.any() or pen.sum() > _PEN_MAX_SHARE * stained.sum():
        return np.zeros_like(pen)
    return _grow(pen, _px(24.0, mpp))


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


def _px(length_um: float, mpp: float) -> int:
    return max(1, round(length_um / mpp))


def _morphology(mask: Mask, operation: int, radius: int) -> Mask:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    # Without padding, closing would erode what touches the picture's edge.
    padded = np.pad(mask, radius, mode="edge").astype(np.uint8)
    done = cv2.morphologyEx(padded, operation, kernel)
    return done[radius:-radius, radius:-radius].astype(bool)


def _grow(mask: Mask, radius: int) -> Mask:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel).astype(bool)


def _large(mask: Mask, min_px: float) -> Mask:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        return mask
    keep = stats[:, cv2.CC_STAT_AREA] >= min_px
    keep[0] = False
    return keep[labels]


def _fill_holes(mask: Mask, max_px: float) -> Mask:
    """Fill background that is enclosed and no larger than ``max_px``; what touches the edge is no hole."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    height, width = mask.shape
    x, y = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    enclosed = (
        (x > 0)
        & (y > 0)
        & (x + stats[:, cv2.CC_STAT_WIDTH] < width)
        & (y + stats[:, cv2.CC_STAT_HEIGHT] < height)
        & (stats[:, cv2.CC_STAT_AREA] <= max_px)
    )
    enclosed[0] = False
    return mask | enclosed[labels] if count > 1 else mask
