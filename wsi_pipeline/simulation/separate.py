"""Cut white cells free that touch others, where their border can still be told from the picture.

The shipped cutouts need more cells than those that lie alone. A touching cell is taken only when little of its border
is shared, what is shared is a notch-free, convex course, and the picture shows an edge there; the others are left out
rather than guessed.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import measure, morphology, segmentation

from wsi_pipeline.simulation.cutouts import (
    BoolImage,
    FloatImage,
    UInt8Image,
    estimate_glass,
    foreground,
    optical_density,
)

_NUCLEAR_DENSITY = 0.24
_MOST_SHARED = 0.36
_LEAST_SOLIDITY = 0.955
_LEAST_EDGE = 0.45
_DIAMETER_UM = (6.0, 22.0)
_MARGIN_UM = 0.9
"""Least distance to the border of the image, so that the feather of the mask lies whole in it."""
_MARROW_DENSITIES = (0.10, 0.12, 0.14, 0.17, 0.20, 0.24)


def free_from_red_cells(rgb: UInt8Image, mpp: float) -> BoolImage | None:
    """Return the mask of the nucleated cell in the middle of an image in which it touches red cells, or None.

    Red cells absorb little red light, so nucleus and red cells are known; what lies between is shared out by a
    watershed whose seeds are the nucleus and the middles of the red cells (Beucher & Lantuejoul 1979).

    Parameters
    ----------
    rgb
        ``(h, w, 3)``.
    mpp
        Micrometres per pixel.
    """
    od = optical_density(rgb, estimate_glass(rgb))
    smooth = ndimage.gaussian_filter(od, (0.12 / mpp, 0.12 / mpp, 0))
    stained = foreground(od, 0.15, mpp)
    own, others = _nuclei(smooth[..., 0], mpp)
    if not own.any():
        return None
    hull = morphology.convex_hull_image(own) & stained
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(stained) * mpp, 0.4 / mpp)
    tops = measure.label(morphology.h_maxima(depth, 0.5))
    away = ndimage.distance_transform_edt(~hull) * mpp
    seeds = np.zeros(stained.shape, dtype=np.int32)
    for top in measure.regionprops(tops):
        if away[tuple(top.coords[0])] > 2.2:
            seeds[tops == top.label] = top.label + 1
    seeds[others & (away > 0.6)] = tops.max() + 2
    seeds[hull] = 1
    cell = segmentation.watershed(-depth, seeds, mask=stained) == 1
    cell = ndimage.binary_opening(ndimage.binary_fill_holes(cell), morphology.disk(max(1, round(0.7 / mpp))))
    labels = measure.label(cell)
    if not labels[own].any():
        return None
    cell = labels == 1 + int(np.argmax(np.bincount(labels[own])[1:]))
    if (own & ~cell).sum() > 0.03 * own.sum():
        return None
    return cell if _is_whole(cell, mpp) and _is_told_apart(cell, stained, smooth, mpp) else None


def of_marrow(rgb: UInt8Image, mpp: float) -> BoolImage | None:
    """Return the mask of the nucleated cell in the middle of a marrow image, or None.

    As :func:`~wsi_pipeline.simulation.cutouts.central_cell`, but granular cytoplasm, whose border a threshold frays,
    is closed first, and the lowest density at which the cell is told from its neighbours is taken, since a higher one
    leaves cytoplasm out.
    """
    od = optical_density(rgb, estimate_glass(rgb))
    red = ndimage.gaussian_filter(od[..., 0], 0.3 / mpp)
    for density in _MARROW_DENSITIES:
        mask = ndimage.binary_closing(np.pad(red > density, 30), morphology.disk(round(0.7 / mpp)))[30:-30, 30:-30]
        mask = ndimage.binary_opening(ndimage.binary_fill_holes(mask), morphology.disk(round(1.2 / mpp)))
        depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask) * mpp, 0.6 / mpp)
        seeds = measure.label(morphology.h_maxima(depth, 0.8))
        labels = segmentation.watershed(-depth, seeds, mask=mask)
        here = labels[mask.shape[0] // 2, mask.shape[1] // 2]
        if here == 0:
            continue
        cell = ndimage.binary_opening(ndimage.binary_fill_holes(labels == here), morphology.disk(round(1.2 / mpp)))
        if not cell.any() or not _is_whole(cell, mpp):
            continue
        rim = ndimage.binary_dilation(cell, morphology.disk(max(1, round(0.4 / mpp)))) & ~cell
        if (mask & rim).sum() < 0.2 * rim.sum():
            return np.asarray(cell, dtype=bool)
    return None


def _nuclei(red: FloatImage, mpp: float) -> tuple[BoolImage, BoolImage]:
    """Return the lobes of the nucleus in the middle and all other nuclear stain."""
    stained = ndimage.binary_opening(red > _NUCLEAR_DENSITY, morphology.disk(max(1, round(0.4 / mpp))))
    labels = measure.label(stained)
    yy, xx = np.ogrid[: red.shape[0], : red.shape[1]]
    from_middle = np.hypot(yy - red.shape[0] / 2, xx - red.shape[1] / 2) * mpp
    own = np.zeros(stained.shape, dtype=bool)
    for part in measure.regionprops(labels):
        y, x = part.centroid
        lobe = labels == part.label
        off = float(np.hypot(y - red.shape[0] / 2, x - red.shape[1] / 2)) * mpp
        if part.area * mpp**2 > 1.5 and (off < 4.5 or from_middle[lobe].min() < 1.5):
            own |= lobe
    return own, stained & ~own


def _is_whole(cell: npt.NDArray[np.bool_], mpp: float) -> bool:
    (region,) = measure.regionprops(cell.astype(np.uint8))
    y0, x0, y1, x1 = region.bbox
    margin = math.ceil(_MARGIN_UM / mpp)
    inside = min(y0, x0) > margin and y1 < cell.shape[0] - margin and x1 < cell.shape[1] - margin
    diameter = region.equivalent_diameter_area * mpp
    return bool(inside and region.solidity >= _LEAST_SOLIDITY and _DIAMETER_UM[0] <= diameter <= _DIAMETER_UM[1])


def _is_told_apart(cell: BoolImage, stained: BoolImage, smooth: FloatImage, mpp: float) -> bool:
    """Return whether little of the border is shared and the shared part lies on an edge of the picture."""
    rim = ndimage.binary_dilation(cell, morphology.disk(max(1, round(0.25 / mpp)))) & ~cell
    shared = rim & stained
    if shared.sum() > _MOST_SHARED * rim.sum():
        return False
    if not shared.any():
        return True
    slope = sum(ndimage.gaussian_gradient_magnitude(smooth[..., c], 0.15 / mpp) for c in range(3))
    band = ndimage.binary_dilation(shared, morphology.disk(max(1, round(0.3 / mpp))))
    ridge = ndimage.maximum_filter(slope, size=2 * max(1, round(0.3 / mpp)) + 1)
    inner = ndimage.binary_erosion(cell, morphology.disk(max(1, round(0.6 / mpp)))) & (
        smooth[..., 0] < _NUCLEAR_DENSITY
    )
    usual = float(np.median(slope[inner])) if inner.sum() > 30 else float(np.median(slope[cell]))
    return bool(np.median(ridge[band & shared]) > (1 + _LEAST_EDGE) * usual)
