"""From flows to seeds and labels, in integer pixel + fraction, so that nothing knows where the block starts.

The method is Cellpose's (doi 10.1038/s41592-020-01018-x): every foreground pixel is followed along the flow;
where many end, a seed stands; a seed collects the pixels that end around it. The rules that make the result
independent of the cut are those of ``docs/architecture.md``: bounded windows, a total order of seeds, no
quantity taken over the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

MIN_SEED_PIXELS = 10
"""A seed needs more pixels than this ending on it (Cellpose's value)."""

MIN_EXTENSION_PIXELS = 2
"""A seed extends over pixels on which more than this many end (Cellpose's value)."""

EXTENSION_PX = 5
"""A seed extends at most this far (Cellpose's value)."""

_STILL = np.float32(1e-5)


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Seeds of a window in their total order, strongest first.

    Attributes
    ----------
    y, x
        ``(n,)`` int64 position in the window.
    count
        ``(n,)`` int64 pixels that end exactly there.
    """

    y: npt.NDArray[np.int64]
    x: npt.NDArray[np.int64]
    count: npt.NDArray[np.int64]


@numba.njit(cache=True, nogil=True)
def _follow(flow: np.ndarray, foreground: np.ndarray, niter: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = foreground.shape
    end_y = np.full((height, width), -1, np.int32)
    end_x = np.full((height, width), -1, np.int32)
    one = np.float32(1.0)
    zero = np.float32(0.0)
    for y in range(height):
        for x in range(width):
            if not foreground[y, x]:
                continue
            iy, ix = y, x
            fy, fx = zero, zero
            inside = True
            for _ in range(niter):
                jy, jx = min(iy + 1, height - 1), min(ix + 1, width - 1)
                a, b = (one - fy) * (one - fx), (one - fy) * fx
                c, d = fy * (one - fx), fy * fx
                dy = a * flow[0, iy, ix] + b * flow[0, iy, jx] + c * flow[0, jy, ix] + d * flow[0, jy, jx]
                dx = a * flow[1, iy, ix] + b * flow[1, iy, jx] + c * flow[1, jy, ix] + d * flow[1, jy, jx]
                if abs(dy) < _STILL and abs(dx) < _STILL:
                    break
                fy += dy
                fx += dx
                while fy < zero:
                    fy += one
                    iy -= 1
                while fy >= one:
                    fy -= one
                    iy += 1
                while fx < zero:
                    fx += one
                    ix -= 1
                while fx >= one:
                    fx -= one
                    ix += 1
                if iy < 0:
                    iy, fy = 0, zero
                elif iy >= height - 1:
                    iy, fy = height - 1, zero
                if ix < 0:
                    ix, fx = 0, zero
                elif ix >= width - 1:
                    ix, fx = width - 1, zero
                if abs(iy - y) > reach or abs(ix - x) > reach:
                    inside = False
                    break
            if inside:
                half = np.float32(0.5)
                end_y[y, x] = min(iy + (1 if fy >= half else 0), height - 1)
                end_x[y, x] = min(ix + (1 if fx >= half else 0), width - 1)
    return end_y, end_x


@numba.njit(cache=True, nogil=True)
def _histogram(end_y: np.ndarray, end_x: np.ndarray) -> np.ndarray:
    counts = np.zeros(end_y.shape, np.int32)
    for y in range(end_y.shape[0]):
        for x in range(end_y.shape[1]):
            if end_y[y, x] >= 0:
                counts[end_y[y, x], end_x[y, x]] += 1
    return counts


@numba.njit(cache=True, nogil=True)
def _find_seeds(counts: np.ndarray) -> np.ndarray:
    """Return (y, x) of pixels that come first, by (count, y, x), in their 5 x 5 neighbourhood."""
    height, width = counts.shape
    found = []
    for y in range(height):
        for x in range(width):
            n = counts[y, x]
            if n <= MIN_SEED_PIXELS:
                continue
            first = True
            for v in range(max(0, y - 2), min(height, y + 3)):
                for u in range(max(0, x - 2), min(width, x + 3)):
                    m = counts[v, u]
                    if m > n or (m == n and (v < y or (v == y and u < x))):
                        first = False
            if first:
                found.append((y, x))
    seeds = np.empty((len(found), 2), np.int64)
    for i, (y, x) in enumerate(found):
        seeds[i, 0] = y
        seeds[i, 1] = x
    return seeds


@numba.njit(cache=True, nogil=True)
def _paint_extensions(counts: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Return 1 + index of the seed that owns each end point; seeds come strongest first and are painted last."""
    height, width = counts.shape
    owner = np.zeros((height, width), np.int32)
    side = 2 * EXTENSION_PX + 1
    for index in range(len(seeds) - 1, -1, -1):
        sy, sx = seeds[index]
        reached = np.zeros((side, side), np.bool_)
        reached[EXTENSION_PX, EXTENSION_PX] = True
        for _ in range(EXTENSION_PX):
            grown = np.zeros((side, side), np.bool_)
            for v in range(side):
                for u in range(side):
                    y, x = sy + v - EXTENSION_PX, sx + u - EXTENSION_PX
                    if y < 0 or x < 0 or y >= height or x >= width or counts[y, x] <= MIN_EXTENSION_PIXELS:
                        continue
                    for q in range(max(0, v - 1), min(side, v + 2)):
                        for p in range(max(0, u - 1), min(side, u + 2)):
                            if reached[q, p]:
                                grown[v, u] = True
            reached = grown
        for v in range(side):
            for u in range(side):
                if reached[v, u]:
                    owner[sy + v - EXTENSION_PX, sx + u - EXTENSION_PX] = index + 1
    return owner


@numba.njit(cache=True, nogil=True)
def _assign(end_y: np.ndarray, end_x: np.ndarray, owner: np.ndarray) -> np.ndarray:
    labels = np.zeros(end_y.shape, np.int32)
    for y in range(end_y.shape[0]):
        for x in range(end_y.shape[1]):
            if end_y[y, x] >= 0:
                labels[y, x] = owner[end_y[y, x], end_x[y, x]]
    return labels


def flows_to_labels(
    flow: npt.NDArray[np.float32],
    foreground: npt.NDArray[np.bool_],
    *,
    niter: int,
    max_cell_diameter_px: int,
) -> tuple[npt.NDArray[np.int32], Seeds]:
    """Follow flows and collect pixels into labels.

    Parameters
    ----------
    flow
        ``(2, h, w)`` float32 step (y, x) per iteration, pixels: the unit flow on cells, zero on background.
    foreground
        ``(h, w)`` pixels to follow.
    niter
        Largest number of steps.
    max_cell_diameter_px
        A pixel that moves more than half of this from its start is background.

    Returns
    -------
    labels
        ``(h, w)`` int32; label ``k`` belongs to seed ``k - 1``.
    seeds
        The seeds, strongest first. Seeds nearer than the halo to a border of the window that is not a border of
        the slide are not reliable; the caller keeps those of its core.
    """
    end_y, end_x = _follow(flow, foreground, niter, max_cell_diameter_px // 2)
    counts = _histogram(end_y, end_x)
    places = _find_seeds(counts)
    strength = counts[places[:, 0], places[:, 1]].astype(np.int64)
    order = np.lexsort((places[:, 1], places[:, 0], -strength))
    places, strength = places[order], strength[order]
    owner = _paint_extensions(counts, places)
    return _assign(end_y, end_x, owner), Seeds(y=places[:, 0], x=places[:, 1], count=strength)
