"""What is neither cells nor glass: pen, air bubbles, stripes of the scanner, stain precipitate.

Pen, bubbles and stripes are looked for on the overview; specks of precipitate need about 1 um per pixel. Pure functions
on arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.morphology import Mask, Rgb, grow, px

_PEN_MIN_MM2 = 0.05
_PEN_MAX_SHARE = 0.5

_RIM_OD = 0.12
_RIM_TRANSPARENCY = 0.55
_RIM_GAP_UM = 12.0
_BUBBLE_MIN_UM = 60.0
_BUBBLE_ROUNDNESS = 0.7
_BUBBLE_HOLE = 0.4
_BUBBLE_MARGIN_UM = 16.0

_STRIPE_REACH_UM = 16.0
_STRIPE_AGREEMENT = 20.0
_STRIPE_GREY = 0.5
_STRIPE_PARTS = 24
_STRIPE_MIN_STEPS = 3
_STRIPE_JITTER = 0.12

_SPECK_WIDTH_PX = 5
_SPECK_OD, _SPECK_HAT_OD, _SPECK_TIMES_RED_CELL, _SPECK_RED_TO_GREEN = 0.2, 0.12, 4.0, 0.5


class Stripes(NamedTuple):
    """Stripes across the picture.

    Attributes
    ----------
    mask
        The stripes whose level differs from that of most of the slide.
    step_od
        Median height of the steps between them, optical density; 0 without stripes.
    period_um
        Least distance of two steps, um; 0 without stripes.
    """

    mask: Mask
    step_od: float
    period_um: float


def find_pen(pixels: Rgb, stained: Mask, mpp: float) -> Mask:
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
    return grow(pen, px(24.0, mpp))


def find_bubbles(pixels: Rgb, mpp: float, glass: tuple[int, int, int]) -> Mask:
    """Find air bubbles under the cover slip by their rims, filled, with a margin.

    Light that meets the curved border of a bubble is refracted out of the objective, whatever its colour: the rim is a
    dark ring, grey where cells and stain are coloured. A ring is a piece of dark grey whose outline is round
    (4 pi A / P^2 of its hull, and A over that of the hull) and which is mostly hole. Cells in the bubble are out of
    focus, or washed away.

    Parameters
    ----------
    pixels
        Overview, uint8 RGB ``(h, w, 3)``.
    mpp
        Its microns per pixel, 10 at most: a rim is 5 to 30 um wide.
    glass
        Colour of empty glass.
    """
    found = np.zeros(pixels.shape[:2], dtype=np.uint8)
    density = _density(pixels, glass)
    # Grey: the clearest channel is nearly as dark as the darkest, which no dye of a smear does.
    rim = (density.min(axis=2) > _RIM_OD) & (density.min(axis=2) > _RIM_TRANSPARENCY * density.max(axis=2))
    closed = cv2.morphologyEx(
        rim.astype(np.uint8),
        cv2.MORPH_CLOSE,
        cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px(_RIM_GAP_UM, mpp) + 1,) * 2),
    )
    outlines, tree = cv2.findContours(closed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for index, outline in enumerate(outlines):
        if tree[0][index][3] >= 0 or len(outline) < 5:
            continue
        area, hull = cv2.contourArea(outline), cv2.convexHull(outline)
        if area < np.pi * (_BUBBLE_MIN_UM / 2 / mpp) ** 2:
            continue
        hull_area, perimeter = cv2.contourArea(hull), cv2.arcLength(hull, True)
        holes, child = 0.0, tree[0][index][2]
        while child >= 0:
            holes += cv2.contourArea(outlines[child])
            child = tree[0][child][0]
        round_enough = 4 * np.pi * hull_area > _BUBBLE_ROUNDNESS * perimeter**2 and area > 0.85 * hull_area
        if round_enough and holes > _BUBBLE_HOLE * area:
            cv2.drawContours(found, [outline], 0, 1, cv2.FILLED)
    return grow(found.astype(bool), px(_BUBBLE_MARGIN_UM, mpp)) if found.any() else found.astype(bool)


def find_stripes(pixels: Rgb, mpp: float, glass: tuple[int, int, int], *, min_step_od: float) -> Stripes:
    """Find stripes that a line scanner leaves where one strip is lit or calibrated otherwise than the next.

    A strip multiplies intensity, so that its border is a step of the same optical density over glass and cells, in
    all channels alike, straight along a row or column, and the borders come at multiples of the strip's width. At
    every row (and column) the steps across it are averaged in 24 parts of the row. It is a border where at least
    four parts in five have one sign, and their median exceeds ``min_step_od``, in every channel. The edge of the film
    is coloured and comes once: at least three borders at one spacing are asked for.
    """
    density = _density(pixels, glass)
    down = _stripes_along(density, mpp, min_step_od)
    across = _stripes_along(np.ascontiguousarray(density.transpose(1, 0, 2)), mpp, min_step_od)
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    mask |= down.mask[:, None]
    mask |= across.mask[None, :]
    chosen = down if down.step_od >= across.step_od else across
    return Stripes(mask=mask, step_od=chosen.step_od, period_um=chosen.period_um)


def _density(pixels: Rgb, glass: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Return the optical density of every channel over glass, ``(h, w, 3)``."""
    return np.asarray(np.log10((np.asarray(glass, np.float32) + 1) / (pixels.astype(np.float32) + 1)))


def _stripes_along(density: npt.NDArray[np.float32], mpp: float, min_step_od: float) -> Stripes:
    """Find stripes that run along the rows; the mask is one value a row."""
    height = density.shape[0]
    reach = px(_STRIPE_REACH_UM, mpp)
    none = Stripes(mask=np.zeros(height, dtype=bool), step_od=0.0, period_um=0.0)
    if height < 8 * reach or density.shape[1] < 16:
        return none
    parts = min(_STRIPE_PARTS, density.shape[1] // 8)
    usable = density[:, : density.shape[1] // parts * parts]
    means = usable.reshape(height, parts, -1, 3).mean(axis=2)
    steps = np.zeros((height, 3))
    for y in range(reach + 1, height - reach):
        # A pixel on the border is a mix of both strips, hence the rows left out.
        step = means[y + reach - 1 : y + reach + 1].mean(axis=0) - means[y - reach - 1 : y - reach + 1].mean(axis=0)
        low, high = np.percentile(step, [_STRIPE_AGREEMENT, 100 - _STRIPE_AGREEMENT], axis=0)
        steps[y] = np.where((low > 0) | (high < 0), np.median(step, axis=0), 0)
    size = np.abs(steps).min(axis=1)
    one_sign = np.abs(np.sign(steps).sum(axis=1)) == 3
    strong = one_sign & (size >= min_step_od) & (size >= _STRIPE_GREY * np.abs(steps).max(axis=1))
    borders = _peaks(np.where(strong, size, 0), reach)
    if len(borders) < _STRIPE_MIN_STEPS:
        return none
    spacing = np.diff(borders)
    period = float(spacing.min())
    multiple = spacing / period
    if np.abs(multiple - np.rint(multiple)).max() > _STRIPE_JITTER * multiple.max():
        return none
    heights = steps[borders].mean(axis=1)
    usual = float(np.median(np.abs(heights)))
    if (np.sign(heights[1:]) == -np.sign(heights[:-1])).all():
        # Two levels by turns: errors of the single steps must not add up over the slide.
        heights = np.sign(heights) * usual
    level = np.zeros(height)
    for border, step in zip(borders, heights, strict=True):
        level[border:] += step
    # A level that occurs, not a mean of two; of two equally wide the brighter is taken to be right.
    off = level - np.quantile(level, 0.5, method="lower")
    return Stripes(mask=np.abs(off) >= usual / 2, step_od=usual, period_um=period * mpp)


def _peaks(values: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.intp]:
    """Return the middle of every run of positive values, runs nearer than ``reach`` taken as one."""
    places = np.flatnonzero(values > 0)
    if not len(places):
        return places
    runs = np.split(places, np.flatnonzero(np.diff(places) > reach) + 1)
    return np.array([round(float(run.mean())) for run in runs], dtype=np.intp)


def speck_maxima(
    red: npt.NDArray[np.float32], green: npt.NDArray[np.float32], ignored: Mask, *, red_cell: float
) -> Mask:
    """Return one pixel for every dark speck no wider than a platelet: precipitated dye.

    Precipitate is azure B with eosin, as dark in red light as a nucleus, in grains of 0.3 to 2 um that lie over cells
    and glass alike (Houwen, Lab Hematol 6:1, 2000). A grain is what a white top-hat of 5 um leaves; platelets are too,
    but even a million of them per microlitre is no more than 2,000 a mm2 of monolayer.

    Parameters
    ----------
    red, green
        Optical density of the channels at about 1 um per pixel, ``(h, w)``.
    ignored
        Nuclei and their surroundings, where chromatin would count as specks.
    red_cell
        Density of a red cell in the red channel: where three lie over one another their lenses look like specks.
    """
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_SPECK_WIDTH_PX, _SPECK_WIDTH_PX))
    hat = cv2.morphologyEx(red, cv2.MORPH_TOPHAT, kernel)
    peak = (hat > _SPECK_HAT_OD) & (hat >= cv2.dilate(hat, np.ones((3, 3), np.uint8)))
    dark = (red > max(_SPECK_OD, _SPECK_TIMES_RED_CELL * red_cell)) & (red > _SPECK_RED_TO_GREEN * green)
    return np.asarray(peak & dark & ~ignored)
