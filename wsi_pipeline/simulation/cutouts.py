"""Cut single cells out of real images: from pixels to transmittance and a soft mask.

Everything is done in optical density against the image's own glass, ``od = -log10(pixel / glass)``, so that
cells of images with different illumination can lie on one slide (Ruifrok & Johnston, Anal Quant Cytol Histol
23:291, 2001). A cutout keeps the transmittance ``pixel / glass`` and a feathered mask; on the slide it multiplies
what lies below, as an absorbing cell does, which leaves neither squares nor halos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import measure, morphology, segmentation

UInt8Image = npt.NDArray[np.uint8]
FloatImage = npt.NDArray[np.float32]
BoolImage = npt.NDArray[np.bool_]

_FEATHER_UM = 0.22
_RIM_UM = 1.3
_MIN_WHITE_SOLIDITY = 0.90
_MIN_RED_SOLIDITY = 0.95
_CENTRAL_DENSITIES = (0.16, 0.20)


@dataclass(frozen=True, kw_only=True, eq=False)
class Cutout:
    """One cell, alone.

    Attributes
    ----------
    transmittance
        ``(h, w, 3)`` float32, 1 for glass.
    alpha
        ``(h, w)`` float32 in [0, 1]; the cell is where it exceeds 0.5.
    kind
        ``white``, ``red``, ``platelet``, ``nucleus`` or ``megakaryocyte``.
    mpp
        Micrometres per pixel of the two arrays.
    """

    transmittance: FloatImage
    alpha: FloatImage
    kind: str
    mpp: float


def estimate_glass(rgb: UInt8Image) -> npt.NDArray[np.float64]:
    """Return the colour ``(3,)`` of empty glass: the mode of the bright part of each channel.

    Parameters
    ----------
    rgb
        ``(h, w, 3)``.
    """
    glass = np.empty(3)
    for c in range(3):
        counts = np.bincount(rgb[..., c].ravel(), minlength=256).astype(float)
        smooth = ndimage.gaussian_filter1d(counts, 2.0)
        bright = int(np.percentile(rgb[..., c], 50))
        peak = bright + int(np.argmax(smooth[bright:]))
        near = slice(max(0, peak - 4), min(256, peak + 5))
        glass[c] = np.average(np.arange(256)[near], weights=counts[near] + 1e-9)
    return glass


def optical_density(rgb: UInt8Image, glass: npt.ArrayLike) -> FloatImage:
    """Return ``-log10(rgb / glass)``, ``(h, w, 3)`` float32."""
    light = np.maximum(rgb.astype(np.float32), 1.0) / np.asarray(glass, dtype=np.float32)
    return -np.log10(light)


def foreground(od: FloatImage, threshold: float, mpp: float) -> BoolImage:
    """Return where something lies on the glass: density above ``threshold``, holes filled, specks removed."""
    smooth = ndimage.gaussian_filter(od.sum(axis=2), 0.12 / mpp)
    mask = ndimage.binary_fill_holes(smooth > threshold)
    return np.asarray(ndimage.binary_opening(mask, morphology.disk(max(1, round(0.3 / mpp)))), dtype=bool)


def nuclear(od: FloatImage) -> BoolImage:
    """Return where the stain is that of a nucleus: red light absorbed as no red cell absorbs it."""
    return np.asarray(ndimage.gaussian_filter(od[..., 0], 0.7) > 0.24, dtype=bool)


def find_cells(rgb: UInt8Image, mpp: float, threshold: float = 0.15) -> list[tuple[str, BoolImage]]:
    """Return the whole cells that lie alone in an image, as (kind, mask of the image's shape).

    A cell lies alone when its connected component of foreground does not touch the border and has the size
    and the convexity of one cell; clumps are left out rather than split, so that every mask can be trusted.

    Parameters
    ----------
    rgb
        ``(h, w, 3)``.
    mpp
        Micrometres per pixel.
    threshold
        Summed optical density above which a pixel is not glass.
    """
    od = optical_density(rgb, estimate_glass(rgb))
    nucleus = nuclear(od)
    found: list[tuple[str, BoolImage]] = []
    labels = measure.label(foreground(od, threshold, mpp))
    height, width = labels.shape
    for region in measure.regionprops(labels):
        y0, x0, y1, x1 = region.bbox
        if y0 < 2 or x0 < 2 or y1 > height - 2 or x1 > width - 2:
            continue
        mask = labels == region.label
        kind = _kind(region, float(nucleus[mask].mean()), od[mask].mean(axis=0), mpp)
        if kind is not None:
            found.append((kind, mask))
    return found


def _kind(region: Any, nuclear_part: float, od: npt.NDArray[np.floating], mpp: float) -> str | None:
    diameter = region.equivalent_diameter_area * mpp
    if nuclear_part > 0.12 and 6.0 <= diameter <= 22.0 and region.solidity >= _MIN_WHITE_SOLIDITY:
        return "white"
    if nuclear_part < 0.01 and 5.3 <= diameter <= 9.5 and region.solidity >= _MIN_RED_SOLIDITY:
        return "red"
    purple = od[0] > 0.6 * od[1] or nuclear_part > 0.05
    if purple and 1.3 <= diameter <= 4.6 and region.solidity >= 0.82:
        return "platelet"
    return None


def cut(
    rgb: UInt8Image,
    mask: BoolImage,
    *,
    kind: str,
    mpp: float,
    target_mpp: float,
    glass: npt.ArrayLike | None = None,
    others: BoolImage | None = None,
) -> Cutout:
    """Cut one cell out and bring it to ``target_mpp``.

    Parameters
    ----------
    rgb
        ``(h, w, 3)``.
    mask
        ``(h, w)``: the cell.
    kind
        Stored in the cutout.
    mpp, target_mpp
        Micrometres per pixel of the image and of the cutout.
    glass
        Colour of empty glass; estimated around the cell when None.
    others
        ``(h, w)``: neighbours in tissue. When given, the cell keeps a faint rim (alpha below 0.5) of what
        surrounds it, but nothing of the neighbours.
    """
    if glass is None:
        glass = estimate_glass(rgb)
    light = (rgb / np.asarray(glass, dtype=np.float32)).astype(np.float32)
    alpha: FloatImage = np.asarray(
        ndimage.gaussian_filter(mask.astype(np.float32), _FEATHER_UM / mpp), dtype=np.float32
    )
    reach_um = _FEATHER_UM
    if others is not None:
        rim = ndimage.binary_dilation(mask, morphology.disk(round(_RIM_UM / mpp)))
        rim &= ~ndimage.binary_dilation(others, morphology.disk(1))
        faint = 0.48 * ndimage.gaussian_filter(rim.astype(np.float32), _RIM_UM / 3 / mpp)
        alpha = np.maximum(alpha, faint).astype(np.float32)
        reach_um = _RIM_UM
    pad = int(np.ceil(3.5 * reach_um / mpp)) + 1
    ys, xs = np.nonzero(mask)
    box = (slice(max(0, ys.min() - pad), ys.max() + pad + 1), slice(max(0, xs.min() - pad), xs.max() + pad + 1))
    light, alpha = light[box], alpha[box]
    scale = mpp / target_mpp
    size = (max(3, round(alpha.shape[1] * scale)), max(3, round(alpha.shape[0] * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    light = np.asarray(cv2.resize(light, size, interpolation=how), dtype=np.float32)
    alpha = np.asarray(cv2.resize(alpha, size, interpolation=how), dtype=np.float32)
    # A neighbour or a speck beyond the mask must not shine through the feather.
    beyond = alpha < 0.02
    light[beyond] = 1.0
    alpha[beyond] = 0.0
    return Cutout(transmittance=light, alpha=np.clip(alpha, 0, 1), kind=kind, mpp=target_mpp)


def outline(alpha: FloatImage) -> FloatImage:
    """Return the longest contour ``(n, 2)`` of ``alpha`` at 0.5: x, y, the first point not repeated.

    Pixel ``i`` covers ``[i, i + 1)``.
    """
    padded = np.pad(alpha, 1)
    contours = measure.find_contours(padded, 0.5)
    longest = max(contours, key=len)
    ring = np.ascontiguousarray(longest[:-1, ::-1] - 0.5, dtype=np.float32)
    return np.asarray(cv2.approxPolyDP(ring[:, None], 0.25, True)[:, 0], dtype=np.float32)


def surest_central_cell(
    rgb: UInt8Image, mpp: float, red_densities: Sequence[float] = _CENTRAL_DENSITIES
) -> BoolImage | None:
    """Return :func:`central_cell` at the first of the densities at which a marrow image can be cut, or None."""
    masks = (central_cell(rgb, mpp, red_density=density) for density in red_densities)
    return next((mask for mask in masks if mask is not None), None)


def central_cell(rgb: UInt8Image, mpp: float, red_density: float = 0.13) -> BoolImage | None:
    """Return the mask of the nucleated cell in the middle of an image whose cells touch, or None.

    Nucleated cells are told from red cells by their absorption of red light; touching ones are split by a
    watershed on the distance from the edge (Beucher & Lantuejoul 1979). The mask still has to be looked at.

    Parameters
    ----------
    rgb
        ``(h, w, 3)``.
    mpp
        Micrometres per pixel.
    red_density
        Optical density in the red channel above which a pixel belongs to a nucleated cell.
    """
    od = optical_density(rgb, estimate_glass(rgb))
    mask = ndimage.binary_fill_holes(ndimage.gaussian_filter(od[..., 0], 0.15 / mpp) > red_density)
    mask = ndimage.binary_opening(mask, morphology.disk(max(1, round(0.7 / mpp))))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 0.6 / mpp)
    seeds = measure.label(morphology.h_maxima(distance, 0.8 / mpp))
    labels = segmentation.watershed(-distance, seeds, mask=mask)
    middle = (mask.shape[0] // 2, mask.shape[1] // 2)
    if labels[middle] == 0:
        return None
    cell = ndimage.binary_fill_holes(labels == labels[middle])
    (region,) = measure.regionprops(cell.astype(np.uint8))
    y0, x0, y1, x1 = region.bbox
    if y0 < 1 or x0 < 1 or y1 > mask.shape[0] - 1 or x1 > mask.shape[1] - 1 or region.solidity < _MIN_WHITE_SOLIDITY:
        return None
    return np.asarray(cell, dtype=bool)
