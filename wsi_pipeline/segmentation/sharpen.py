"""The nucleus of a megakaryocyte, from the network's rough one to where the stain changes.

A network tells well which part of a cell is nucleus, and poorly where it ends: lobes run together. Within one cell the
two parts differ in colour, each cell in its own way. So the network's two parts teach a linear discriminant of the
cell's own pixels (Fisher, Ann. Eugenics 7:179, 1936, of the three optical densities, smoothed), and Otsu's threshold
(IEEE Trans. SMC 9:62, 1979) of the median of its values around each pixel parts the cell anew. A median evens out
chromatin and leaves the clefts between lobes, which a Gaussian mean fills. Nothing but the cell's own pixels is used,
so no cut of the slide can change the result.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SMOOTH_UM = 1.0
"""Smoothing of the densities that teach the discriminant."""
MEDIAN_UM = 2.5
"""Side of the square whose median parts the cell, so that chromatin does not part the nucleus."""
ROUND_UM = 0.5
"""Smoothing of the outline found."""
NETWORK_ROUND_UM = 0.75
"""Smoothing of the network's own nucleus, which is ragged, where it stays."""
BARE = 0.85
"""Nuclei that fill more of the cell than this have too little cytoplasm to learn from: they are rounded alone."""
LEAST_UM2 = 12.0
"""Least area of either part to learn from."""
AGREES = 0.5
"""Least Dice coefficient with the network's nucleus; another parting of the cell was found below it."""

_LEAST_PART_UM2 = 3.0
_BINS = 128
_DENSITY = -np.log10(np.maximum(np.arange(256), 1) / 255.0)

Mask = npt.NDArray[np.bool_]


def sharpen_nuclei(
    labels: npt.NDArray[np.int32],
    boxes: npt.NDArray[np.integer],
    rgb: npt.NDArray[np.uint8],
    nuclear: Mask,
    which: Mask,
    *,
    mpp: float,
) -> Mask:
    """Return nuclear pixels in which the nuclei of some cells end where the stain changes.

    Parameters
    ----------
    labels, boxes
        ``(h, w)`` cells 1..n, 0 outside, and ``(n, 4)`` y0, x0, y1, x1 of each.
    rgb, nuclear
        ``(h, w, 3)`` uint8 pixels, and ``(h, w)`` where the network sees nuclei.
    which
        ``(n,)``: cells to look at; all others keep what they have.
    mpp
        Microns per pixel.
    """
    found = nuclear.copy()
    for i in np.flatnonzero(which):
        y0, x0, y1, x1 = (int(v) for v in boxes[i])
        at = np.s_[y0:y1, x0:x1]
        cell = labels[at] == i + 1
        sharp = sharpen(rgb[at], cell, nuclear[at] & cell, mpp=mpp)
        found[at] = np.where(cell, sharp, found[at])
    return found


def sharpen(rgb: npt.NDArray[np.uint8], cell: Mask, nucleus: Mask, *, mpp: float) -> Mask:
    """Return the nucleus of one cell, of pixels of the cell alone.

    Parameters
    ----------
    rgb
        ``(h, w, 3)`` uint8.
    cell, nucleus
        ``(h, w)``: the cell, and the network's nucleus inside it.
    """
    n_cell, n_inner = int(cell.sum()), int(nucleus.sum())
    least = LEAST_UM2 / mpp**2
    if n_inner > BARE * n_cell or min(n_inner, n_cell - n_inner) < least:
        return _rounded(nucleus, cell, NETWORK_ROUND_UM / mpp, mpp)
    raw = [_DENSITY[rgb[..., c]] for c in range(3)]
    density = np.stack([_smooth(channel, cell, SMOOTH_UM / mpp) for channel in raw], axis=-1)
    weights = _discriminant(density[nucleus], density[cell & ~nucleus])
    values = _median(raw[0] * weights[0] + raw[1] * weights[1] + raw[2] * weights[2], cell, MEDIAN_UM / mpp)
    parted = _rounded(cell & (values > _otsu(values[cell])), cell, ROUND_UM / mpp, mpp)
    agreed = 2 * int((parted & nucleus).sum()) >= AGREES * (int(parted.sum()) + n_inner)
    return parted if agreed else _rounded(nucleus, cell, NETWORK_ROUND_UM / mpp, mpp)


def _discriminant(inner: npt.NDArray[np.float64], outer: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return Fisher's direction ``(3,)`` between two samples ``(n, 3)``; sums in one order, whatever the memory."""
    within = 1e-6 * np.eye(3)
    for sample in (inner, outer):
        off = sample - sample.mean(axis=0)
        for a in range(3):
            for b in range(3):
                within[a, b] += (off[:, a] * off[:, b]).sum() / (len(sample) - 1)
    return np.asarray(np.linalg.solve(within, inner.mean(axis=0) - outer.mean(axis=0)))


def _smooth(picture: npt.NDArray[np.float64], cell: Mask, sigma: float) -> npt.NDArray[np.float64]:
    """Return a Gaussian mean over the cell's own pixels (normalised convolution, Knutsson and Westin, CVPR 1993)."""
    weight = ndimage.gaussian_filter(cell.astype(np.float64), sigma, mode="constant", truncate=3.0)
    total = ndimage.gaussian_filter(picture * cell, sigma, mode="constant", truncate=3.0)
    return np.asarray(total / np.maximum(weight, 1e-9))


def _median(values: npt.NDArray[np.float64], cell: Mask, side: float) -> npt.NDArray[np.float64]:
    """Return the median of a square of an odd number of pixels; beyond the cell is its lowest value."""
    lowest = float(values[cell].min())
    size = 2 * round((side - 1) / 2) + 1
    return np.asarray(ndimage.median_filter(np.where(cell, values, lowest), size=size, mode="constant", cval=lowest))


def _rounded(nucleus: Mask, cell: Mask, sigma: float, mpp: float) -> Mask:
    """Smooth the outline of a mask, drop small parts and fill its holes."""
    share = ndimage.gaussian_filter(nucleus.astype(np.float64), sigma, mode="constant", truncate=3.0)
    smooth = (share > 0.5) & cell
    parts, n = ndimage.label(smooth)
    size = np.bincount(parts.ravel(), minlength=n + 1)
    size[0] = 0
    kept = (size >= _LEAST_PART_UM2 / mpp**2)[parts]
    if not kept.any():
        return nucleus
    return np.asarray(ndimage.binary_fill_holes(kept) & cell)


def _otsu(values: npt.NDArray[np.float64]) -> float:
    counts, edges = np.histogram(values, _BINS)
    middle = 0.5 * (edges[1:] + edges[:-1])
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(middle[int(np.nanargmax(between[:-1]))])
