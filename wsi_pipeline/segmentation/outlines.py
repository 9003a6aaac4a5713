"""Outlines of masks: pixel edges followed once around, their midpoints joined.

A midpoint belongs to one edge, so a ring never touches itself; its area differs from the pixel count only at
corners. Foreground is 4-connected, so pixels that meet at a corner are apart.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import shapely

SIMPLIFY_PX = 0.35
"""Tolerance of the Douglas-Peucker simplification, pixels: below the half pixel that an outline is known to."""


@numba.njit(cache=True, nogil=True)
def _trace(mask: np.ndarray, start_y: int, start_x: int, visited: np.ndarray) -> np.ndarray:
    """Follow the boundary from the top edge of a pixel, foreground to the right; return ``(n, 2)`` x, y."""
    height, width = mask.shape
    # Corner position and direction; directions are right, down, left, up.
    step_y = (0, 1, 0, -1)
    step_x = (1, 0, -1, 0)
    # The pixels ahead of a corner, to the right and to the left of each direction.
    right_y, right_x = (0, 0, -1, -1), (0, -1, -1, 0)
    left_y, left_x = (-1, 0, 0, -1), (0, 0, -1, -1)
    y, x, direction = start_y, start_x, 0
    points = []
    while True:
        if direction == 0:
            if visited[y, x]:
                break
            visited[y, x] = True
        points.append((x + 0.5 * step_x[direction], y + 0.5 * step_y[direction]))
        y += step_y[direction]
        x += step_x[direction]
        ry, rx = y + right_y[direction], x + right_x[direction]
        ly, lx = y + left_y[direction], x + left_x[direction]
        right = 0 <= ry < height and 0 <= rx < width and mask[ry, rx]
        left = 0 <= ly < height and 0 <= lx < width and mask[ly, lx]
        if not right:
            direction = (direction + 1) % 4
        elif left:
            direction = (direction + 3) % 4
    ring = np.empty((len(points), 2), np.float64)
    for i, (px, py) in enumerate(points):
        ring[i, 0] = px
        ring[i, 1] = py
    return ring


@numba.njit(cache=True, nogil=True)
def trace_rings(mask: np.ndarray) -> list[np.ndarray]:
    """Return the closed boundaries of an ``(h, w)`` boolean mask, outer ones clockwise on screen, holes counter.

    Coordinates are x, y in pixel edges: pixel ``(row, col)`` covers ``[col, col + 1) x [row, row + 1)``.
    """
    height, width = mask.shape
    visited = np.zeros((height + 1, width + 1), np.bool_)
    rings = [np.empty((0, 2), np.float64)]
    for y in range(height):
        for x in range(width):
            if mask[y, x] and (y == 0 or not mask[y - 1, x]) and not visited[y, x]:
                rings.append(_trace(mask, y, x, visited))
    return rings[1:]


def _signed_area(ring: npt.NDArray[np.float64]) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


def mask_polygon(mask: npt.NDArray[np.bool_], offset: tuple[float, float] = (0.0, 0.0)) -> shapely.Geometry:
    """Return the outline of a mask as Polygon, or MultiPolygon when it has several parts, simplified.

    Parameters
    ----------
    mask
        ``(h, w)`` booleans with at least one true pixel.
    offset
        x, y added to the coordinates.
    """
    outer: list[npt.NDArray[np.float64]] = []
    holes: list[npt.NDArray[np.float64]] = []
    for ring in trace_rings(mask):
        (outer if _signed_area(ring) > 0 else holes).append(ring + offset)
    if len(outer) == 1:
        polygon: shapely.Geometry = shapely.Polygon(outer[0], holes)
    else:
        shells = [shapely.Polygon(ring) for ring in outer]
        inside: list[list[npt.NDArray[np.float64]]] = [[] for _ in outer]
        for hole in holes:
            around = [i for i, shell in enumerate(shells) if shell.contains(shapely.Point(hole[0]))]
            inside[min(around, key=lambda i: shells[i].area)].append(hole)
        polygon = shapely.MultiPolygon([shapely.Polygon(r, h) for r, h in zip(outer, inside, strict=True)])
    simple = shapely.simplify(polygon, SIMPLIFY_PX, preserve_topology=True)
    return simple if simple.is_valid and not simple.is_empty else polygon
