"""Texture within a mask: grey-level co-occurrence and the energy of a difference of Gaussians, compiled.

Only pairs and neighbours inside the mask count, so the texture of a cell does not depend on what lies beside it.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

GREY_LEVELS = 32
"""Levels of the co-occurrence matrix: 8-bit luminance in steps of 8, whatever the image's own range."""

_TRUNCATE = 4.0


def pair_offsets(distance_px: float) -> npt.NDArray[np.int64]:
    """Return the four ``(row, column)`` offsets at 0, 45, 90 and 135 degrees, each at least one pixel long.

    Parameters
    ----------
    distance_px
        Along the line between the two pixels, so a diagonal offset has fewer rows and columns.
    """
    straight = max(1, round(distance_px))
    diagonal = max(1, round(distance_px / math.sqrt(2)))
    return np.array([[0, straight], [diagonal, diagonal], [straight, 0], [diagonal, -diagonal]], np.int64)


def gaussian_kernel(sigma: float) -> npt.NDArray[np.float64]:
    """Return the half of a Gaussian kernel from its centre outwards, cut at 4 sigma; the whole sums to 1."""
    reach = int(_TRUNCATE * sigma + 0.5)
    half = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    return np.asarray(half / (2 * half.sum() - half[0]))


@numba.njit(cache=True, nogil=True)
def cooccurrence(levels: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return contrast, homogeneity, energy, correlation and entropy (bits), the mean over the directions.

    Haralick et al., IEEE Trans. Syst. Man Cybern. 3:610, 1973. The matrix of a direction is symmetric and sums to 1.
    Directions without a pair are left out; NaN without any. A mask of one level has correlation 1.

    Parameters
    ----------
    levels
        ``(h, w)`` integers from 0 to ``GREY_LEVELS - 1``.
    mask
        ``(h, w)`` bool.
    offsets
        ``(d, 2)`` rows and columns from a pixel to its partner.
    """
    height, width = mask.shape
    found = np.zeros(5)
    directions = 0
    matrix = np.empty((GREY_LEVELS, GREY_LEVELS), np.int64)
    for o in range(len(offsets)):
        dy, dx = offsets[o, 0], offsets[o, 1]
        matrix[:] = 0
        pairs = 0
        for y in range(max(0, -dy), min(height, height - dy)):
            for x in range(max(0, -dx), min(width, width - dx)):
                if mask[y, x] and mask[y + dy, x + dx]:
                    i, j = levels[y, x], levels[y + dy, x + dx]
                    matrix[min(i, j), max(i, j)] += 1
                    pairs += 1
        if pairs == 0:
            continue
        directions += 1
        contrast = homogeneity = energy = entropy = mean = square = product = 0.0
        for i in range(GREY_LEVELS):
            for j in range(i, GREY_LEVELS):
                n = matrix[i, j]
                if n == 0:
                    continue
                # Off the diagonal both halves of the symmetric matrix hold half of the pairs.
                share = n / pairs
                copies = 1 if i == j else 2
                p = share / copies
                contrast += share * (i - j) ** 2
                homogeneity += share / (1 + (i - j) ** 2)
                energy += copies * p * p
                entropy -= share * math.log2(p)
                mean += share * (i + j) / 2
                square += share * (i * i + j * j) / 2
                product += share * i * j
        variance = square - mean * mean
        found[0] += contrast
        found[1] += homogeneity
        found[2] += math.sqrt(energy)
        found[3] += (product - mean * mean) / variance if variance > 1e-9 else 1.0
        found[4] += entropy
    if directions == 0:
        return np.full(5, np.nan)
    return found / directions


@numba.njit(cache=True, nogil=True)
def _smooth(source: np.ndarray, half: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """Convolve with a symmetric kernel both ways; zero beyond the edges."""
    height, width = source.shape
    reach = len(half) - 1
    rows[:] = 0
    for y in range(height):
        for v in range(max(0, y - reach), min(height, y + reach + 1)):
            weight = half[abs(v - y)]
            for x in range(width):
                rows[y, x] += weight * source[v, x]
    out[:] = 0
    for y in range(height):
        for u in range(-reach, reach + 1):
            weight = half[abs(u)]
            for x in range(max(0, -u), min(width, width - u)):
                out[y, x] += weight * rows[y, x + u]


@numba.njit(cache=True, nogil=True)
def spot_energy(values: np.ndarray, mask: np.ndarray, fine: np.ndarray, coarse: np.ndarray) -> float:
    """Return the root mean square of a difference of Gaussians within a mask, in the units of the values.

    Both Gaussians are normalised convolutions (Knutsson and Westin, CVPR 1993): ``G * (m v) / G * m``.

    Parameters
    ----------
    values
        ``(h, w)`` float32.
    mask
        ``(h, w)`` bool with at least one pixel.
    fine, coarse
        From :func:`gaussian_kernel`.
    """
    height, width = mask.shape
    weight = np.zeros((height, width), np.float32)
    inside = np.zeros((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                weight[y, x] = 1
                inside[y, x] = values[y, x]
    rows = np.empty((height, width), np.float32)
    a, b = np.empty_like(rows), np.empty_like(rows)
    c, d = np.empty_like(rows), np.empty_like(rows)
    _smooth(inside, fine, rows, a)
    _smooth(weight, fine, rows, b)
    _smooth(inside, coarse, rows, c)
    _smooth(weight, coarse, rows, d)
    total, n = 0.0, 0
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                n += 1
                total += (a[y, x] / b[y, x] - c[y, x] / d[y, x]) ** 2
    return math.sqrt(total / n)
