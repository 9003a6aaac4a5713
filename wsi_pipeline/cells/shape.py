"""Shape of a mask and of its outline, in pixels: compiled kernels for :mod:`wsi_pipeline.cells.morphology`."""

from __future__ import annotations

import math

import numba
import numpy as np

HARMONICS = 8
"""Highest harmonic of the elliptic Fourier descriptors."""

_STRAIGHT, _SLANT = math.pi / 4, math.pi / (4 * math.sqrt(2))
CROFTON_WEIGHTS = np.array(
    [
        *(0, _STRAIGHT + _SLANT, _SLANT, 2 * _SLANT),
        *(0, _STRAIGHT + _SLANT, 0, _SLANT),
        *(_STRAIGHT, 2 * _STRAIGHT, _SLANT, _SLANT),
        *(_STRAIGHT, 2 * _STRAIGHT, 0, 0),
    ]
)
"""Length of boundary that each pattern of 2 x 2 pixels stands for: 1 for the pixel, 2 for the one above, 4 for the
one to the left, 8 for the one above that."""


@numba.njit(cache=True, nogil=True)
def mask_shape(mask: np.ndarray, weights: np.ndarray) -> tuple[float, float, float, float, float, float]:
    """Return area, perimeter, major and minor axis, pixels of the convex hull and its perimeter.

    Parameters
    ----------
    mask
        ``(h, w)`` bool with at least one pixel; what lies beyond it is background.
    weights
        :data:`CROFTON_WEIGHTS`.

    Returns
    -------
    tuple of float
        Area in pixels. Perimeter by the Cauchy-Crofton formula in four directions (Legland et al., Image Anal.
        Stereol. 26:83, 2007): holes count, discs are unbiased, small squares along the axes read 5 to 7 % too
        short. Axes of the ellipse with the same second moments, of pixels as unit squares. Pixels whose centre lies
        in the convex hull of all pixel centres, by Pick's theorem, so that a digitally convex mask has solidity 1.
        Perimeter of that hull widened by half a pixel.
    """
    height, width = mask.shape
    area = 0
    sy = sx = syy = sxx = sxy = 0.0
    perimeter = 0.0
    left = np.full(height, width, np.int64)
    right = np.full(height, -1, np.int64)
    for y in range(height + 1):
        for x in range(width + 1):
            code = 0
            if y < height and x < width and mask[y, x]:
                code |= 1
                area += 1
                sy += y
                sx += x
                syy += y * y
                sxx += x * x
                sxy += x * y
                left[y] = min(left[y], x)
                right[y] = x
            if y > 0 and x < width and mask[y - 1, x]:
                code |= 2
            if x > 0 and y < height and mask[y, x - 1]:
                code |= 4
            if x > 0 and y > 0 and mask[y - 1, x - 1]:
                code |= 8
            perimeter += weights[code]
    my, mx = sy / area, sx / area
    # 1/12 is the second moment of a pixel about its own centre.
    cyy, cxx, cxy = syy / area - my * my + 1 / 12, sxx / area - mx * mx + 1 / 12, sxy / area - mx * my
    spread = math.sqrt((cyy - cxx) ** 2 + 4 * cxy * cxy)
    major = 4 * math.sqrt((cyy + cxx + spread) / 2)
    minor = 4 * math.sqrt(max(cyy + cxx - spread, 0.0) / 2)
    hull_pixels, hull_length = _hull_of_rows(left, right)
    return float(area), perimeter, major, minor, hull_pixels, hull_length + math.pi


@numba.njit(cache=True, nogil=True)
def _hull_of_rows(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Return lattice points in, and length of, the hull of the first and last pixel of each row."""
    n = len(left)
    ring = np.empty((2 * n + 2, 2), np.int64)
    m = 0
    for side in range(2):
        start = m
        for i in range(n):
            y = i if side == 0 else n - 1 - i
            x = right[y] if side == 0 else left[y]
            if right[y] < 0:
                continue
            while m - start >= 2 and _turn(ring, m, x, y) <= 0:
                m -= 1
            ring[m, 0], ring[m, 1] = x, y
            m += 1
    double = on_edge = 0
    length = 0.0
    for i in range(m):
        j = (i + 1) % m
        dx, dy = ring[j, 0] - ring[i, 0], ring[j, 1] - ring[i, 1]
        double += ring[i, 0] * ring[j, 1] - ring[j, 0] * ring[i, 1]
        a, b = abs(dx), abs(dy)
        while b:
            a, b = b, a % b
        on_edge += a
        length += math.sqrt(dx * dx + dy * dy)
    return (abs(double) + on_edge) / 2 + 1, length


@numba.njit(cache=True, nogil=True)
def _turn(ring: np.ndarray, m: int, x: int, y: int) -> int:
    ax, ay = ring[m - 2, 0], ring[m - 2, 1]
    return (ring[m - 1, 0] - ax) * (y - ay) - (ring[m - 1, 1] - ay) * (x - ax)


@numba.njit(cache=True, nogil=True)
def hull_defects(ring: np.ndarray, least: float) -> tuple[int, float]:
    """Return how many concavities are at least ``least`` deep, and the depth of the deepest.

    A concavity is the stretch of outline between two neighbouring corners of the convex hull; its depth is the
    largest distance from the line through them.

    Parameters
    ----------
    ring
        ``(p, 2)`` x, y of a simple closed outline, multiples of 0.5, first point not repeated.
    """
    n = len(ring)
    order = np.argsort(ring[:, 0] * (1 << 22) + ring[:, 1])
    corners = np.empty(2 * n + 2, np.int64)
    m = 0
    for side in range(2):  # Andrew's monotone chain, lower then upper
        start = m
        for i in range(n):
            p = order[i] if side == 0 else order[n - 1 - i]
            while m - start >= 2:
                a, b = corners[m - 2], corners[m - 1]
                if (ring[b, 0] - ring[a, 0]) * (ring[p, 1] - ring[a, 1]) > (ring[b, 1] - ring[a, 1]) * (
                    ring[p, 0] - ring[a, 0]
                ):
                    break
                m -= 1
            corners[m] = p
            m += 1
        m -= 1  # the last point begins the other chain
    # The hull's corners follow each other along the outline as they do along the hull.
    hull = np.sort(corners[:m])
    count, deepest = 0, 0.0
    for i in range(m):
        a, b = hull[i], hull[(i + 1) % m]
        dx, dy = ring[b, 0] - ring[a, 0], ring[b, 1] - ring[a, 1]
        length = math.sqrt(dx * dx + dy * dy)
        if length == 0:
            continue
        depth = 0.0
        p = (a + 1) % n
        while p != b:
            depth = max(depth, abs(dx * (ring[p, 1] - ring[a, 1]) - dy * (ring[p, 0] - ring[a, 0])))
            p = (p + 1) % n
        depth /= length
        deepest = max(deepest, depth)
        count += depth >= least
    return count, deepest


@numba.njit(cache=True, nogil=True)
def fourier_descriptors(ring: np.ndarray) -> np.ndarray:
    """Return the amplitudes of harmonics 2 to 8 of the elliptic Fourier series, relative to the first.

    The amplitude of a harmonic with coefficients a, b, c, d (Kuhl and Giardina, Comput. Graph. Image Process. 18:236,
    1982) is ``sqrt(a^2 + b^2 + c^2 + d^2)``. Turning the outline or starting elsewhere rotates the pairs and leaves
    it; dividing by the first removes the scale.

    Parameters
    ----------
    ring
        As :func:`hull_defects`.
    """
    n = len(ring)
    total = 0.0
    for p in range(n):
        q = (p + 1) % n
        total += math.sqrt((ring[q, 0] - ring[p, 0]) ** 2 + (ring[q, 1] - ring[p, 1]) ** 2)
    sums = np.zeros((HARMONICS, 4))
    # cos and sin of each harmonic at the last corner
    old = np.zeros((HARMONICS, 2))
    old[:, 0] = 1
    along = 0.0
    for p in range(n):
        q = (p + 1) % n
        dx, dy = ring[q, 0] - ring[p, 0], ring[q, 1] - ring[p, 1]
        step = math.sqrt(dx * dx + dy * dy)
        along += step
        dx /= step
        dy /= step
        c1, s1 = math.cos(2 * math.pi * along / total), math.sin(2 * math.pi * along / total)
        c, s = 1.0, 0.0
        for k in range(HARMONICS):
            c, s = c * c1 - s * s1, c * s1 + s * c1
            dc, ds = c - old[k, 0], s - old[k, 1]
            sums[k, 0] += dx * dc
            sums[k, 1] += dx * ds
            sums[k, 2] += dy * dc
            sums[k, 3] += dy * ds
            old[k, 0], old[k, 1] = c, s
    amplitudes = np.empty(HARMONICS)
    for k in range(HARMONICS):
        amplitudes[k] = math.sqrt((sums[k] ** 2).sum()) / (k + 1) ** 2
    return amplitudes[1:] / amplitudes[0]
