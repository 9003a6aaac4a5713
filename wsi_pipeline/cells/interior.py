"""What the distance from the outline tells: the lobes of a nucleus and the central pallor of a red cell, compiled."""

from __future__ import annotations

import math

import numba
import numpy as np

PALLOR_BINS = 8
"""Rings of equal depth that a cell is divided into to find its rim."""
PALLOR_LEAST = 0.05
"""A centre less pale than this share of the rim is no pallor."""


@numba.njit(cache=True, nogil=True)
def distance(mask: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of each pixel of a mask to the nearest pixel outside; beyond the array is outside.

    Felzenszwalb and Huttenlocher, Theory Comput. 8:415, 2012: lower envelope of parabolas, linear time.
    """
    height, width = mask.shape
    down = np.zeros((height, width + 2), np.float64)
    for x in range(width):
        run = 0
        for y in range(height):
            run = run + 1 if mask[y, x] else 0
            down[y, x + 1] = run
        run = 0
        for y in range(height - 1, -1, -1):
            run = run + 1 if mask[y, x] else 0
            down[y, x + 1] = min(down[y, x + 1], run)
    out = np.zeros((height, width), np.float64)
    at = np.empty(width + 2, np.int64)
    start = np.empty(width + 3, np.float64)
    for y in range(height):
        row = down[y]
        k = 0
        at[0] = 0
        start[0], start[1] = -np.inf, np.inf
        for q in range(1, width + 2):
            while True:
                v = at[k]
                s = (row[q] ** 2 + q * q - row[v] ** 2 - v * v) / (2.0 * (q - v))
                if s > start[k]:
                    break
                k -= 1
            k += 1
            at[k] = q
            start[k], start[k + 1] = s, np.inf
        k = 0
        for q in range(1, width + 1):
            while start[k + 1] < q:
                k += 1
            if mask[y, q - 1]:
                out[y, q - 1] = math.sqrt(row[at[k]] ** 2 + (q - at[k]) ** 2)
    return out


@numba.njit(cache=True, nogil=True)
def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def count_peaks(depth: np.ndarray, least: float) -> int:
    """Return how many maxima rise at least ``least`` above the pass to a higher one; zero is the ground.

    The h-maxima (Soille, Morphological Image Analysis, 2003, ch. 6), 8-connected, by joining pixels from the top down:
    of two peaks that meet the lower ends.

    Parameters
    ----------
    depth
        ``(h, w)`` float64 as from :func:`distance`, zero outside.
    """
    height, width = depth.shape
    flat = depth.ravel()
    order = np.argsort(-flat)
    parent = np.full(len(flat), -1, np.int64)
    peaks = 0
    for rank in range(len(order)):
        i = order[rank]
        if flat[i] <= 0:
            break
        parent[i] = i
        y, x = i // width, i % width
        for v in range(max(0, y - 1), min(height, y + 2)):
            for u in range(max(0, x - 1), min(width, x + 2)):
                if parent[v * width + u] < 0:
                    continue
                # Roots are the tops of their peaks.
                a, b = _root(parent, i), _root(parent, v * width + u)
                if a == b:
                    continue
                if flat[a] < flat[b]:
                    a, b = b, a
                peaks += flat[b] - flat[i] >= least and flat[b] > flat[i]
                parent[b] = a
    for i in range(len(flat)):
        peaks += parent[i] == i and flat[i] >= least
    return peaks


@numba.njit(cache=True, nogil=True)
def pallor(density: np.ndarray, depth: np.ndarray) -> tuple[float, float]:
    """Return the share of the cell's area that is pale, and by what share its centre is paler than its rim.

    The relative depth of a pixel is its distance from the outline over the largest in the cell. The rim is the ring,
    of eight but the outermost (blurred) and the two innermost, with the highest mean density; the centre are the two
    innermost. The depth of the pallor is ``1 - centre / rim``; pale are the pixels deeper than the rim whose density
    lies below the middle of the two. Both are 0 where the depth is below 0.05.

    Parameters
    ----------
    density
        ``(h, w)`` optical density.
    depth
        As :func:`count_peaks`.
    """
    height, width = depth.shape
    top = depth.max()
    sums = np.zeros(PALLOR_BINS)
    counts = np.zeros(PALLOR_BINS)
    for y in range(height):
        for x in range(width):
            if depth[y, x] > 0:
                ring = min(int(depth[y, x] / top * PALLOR_BINS), PALLOR_BINS - 1)
                sums[ring] += density[y, x]
                counts[ring] += 1
    rim, rim_ring = 0.0, -1
    for ring in range(1, PALLOR_BINS - 2):
        if counts[ring] > 0 and sums[ring] / counts[ring] > rim:
            rim, rim_ring = sums[ring] / counts[ring], ring
    if rim_ring < 0:
        return 0.0, 0.0
    centre = sums[-2:].sum() / counts[-2:].sum()
    paler = 1 - centre / rim
    if paler < PALLOR_LEAST:
        return 0.0, 0.0
    pale = 0
    for y in range(height):
        for x in range(width):
            if (
                depth[y, x] > 0
                and min(int(depth[y, x] / top * PALLOR_BINS), PALLOR_BINS - 1) > rim_ring
                and density[y, x] < (rim + centre) / 2
            ):
                pale += 1
    return pale / counts.sum(), paler


@numba.njit(cache=True, nogil=True)
def ring_densities(density: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the mean density of the eight rings of equal depth, outermost first, over that of the cell.

    NaN for a ring without a pixel, and where the cell absorbs nothing.

    Parameters
    ----------
    density, depth
        As :func:`pallor`.
    """
    top = depth.max()
    sums = np.zeros(PALLOR_BINS)
    counts = np.zeros(PALLOR_BINS)
    for y in range(depth.shape[0]):
        for x in range(depth.shape[1]):
            if depth[y, x] > 0:
                ring = min(int(depth[y, x] / top * PALLOR_BINS), PALLOR_BINS - 1)
                sums[ring] += density[y, x]
                counts[ring] += 1
    mean = sums.sum() / counts.sum()
    out = np.full(PALLOR_BINS, np.nan)
    for ring in range(PALLOR_BINS):
        if counts[ring] > 0 and mean > 0:
            out[ring] = sums[ring] / counts[ring] / mean
    return out


@numba.njit(cache=True, nogil=True)
def pale_part(density: np.ndarray, depth: np.ndarray) -> tuple[float, float]:
    """Return the axis ratio of the palest quarter of a cell's inner half, and how far from the cell's middle it lies.

    The inner half are the pixels deeper than half of the largest depth. The distance is that of the two centres of
    mass, over the radius of the disc of the cell's area. Both are NaN where the quarter has fewer than three pixels.

    Parameters
    ----------
    density, depth
        As :func:`pallor`.
    """
    height, width = depth.shape
    top = depth.max()
    values = np.empty(height * width, np.float32)
    n = total = 0
    cy = cx = 0.0
    for y in range(height):
        for x in range(width):
            if depth[y, x] > 0:
                total += 1
                cy += y
                cx += x
                if depth[y, x] > top / 2:
                    values[n] = density[y, x]
                    n += 1
    cy /= total
    cx /= total
    if n < 12:
        return np.nan, np.nan
    limit = np.sort(values[:n])[n // 4]
    m = 0
    sy = sx = syy = sxx = sxy = 0.0
    for y in range(height):
        for x in range(width):
            if depth[y, x] > top / 2 and density[y, x] <= limit:
                m += 1
                sy += y
                sx += x
                syy += y * y
                sxx += x * x
                sxy += x * y
    my, mx = sy / m, sx / m
    cyy, cxx, cxy = syy / m - my * my + 1 / 12, sxx / m - mx * mx + 1 / 12, sxy / m - mx * my
    spread = math.sqrt((cyy - cxx) ** 2 + 4 * cxy * cxy)
    ratio = math.sqrt(max(cyy + cxx - spread, 0.0) / (cyy + cxx + spread))
    return ratio, math.sqrt((my - cy) ** 2 + (mx - cx) ** 2) / math.sqrt(total / math.pi)
