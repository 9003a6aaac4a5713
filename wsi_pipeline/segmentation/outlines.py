"""Outlines of all instances of a label image at once: pixel edges followed once around, their midpoints joined.

A midpoint belongs to one edge, so a ring never touches itself; its area differs from the pixel count only at
corners. Foreground is 4-connected, so pixels that meet at a corner are apart. Tracing is compiled, and the geometries
are made from flat arrays of points: there is no Python loop over cells.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import shapely

SIMPLIFY_PX = 0.35
"""Tolerance of the Douglas-Peucker simplification, pixels: below the half pixel that an outline is known to."""

Labels = npt.NDArray[np.int32]
Boxes = npt.NDArray[np.int64]
Geometries = npt.NDArray[np.object_]


@numba.njit(cache=True, nogil=True)
def _count_edges(labels: np.ndarray, boxes: np.ndarray) -> tuple[int, int]:
    """Return the pixel edges of all instances, and how many of them are top edges, one of which starts each ring."""
    height, width = labels.shape
    edges = tops = 0
    for k in range(1, len(boxes) + 1):
        y0, x0, y1, x1 = boxes[k - 1]
        for y in range(y0, y1):
            for x in range(x0, x1):
                if labels[y, x] == k:
                    top = y == 0 or labels[y - 1, x] != k
                    tops += top
                    edges += top
                    edges += y == height - 1 or labels[y + 1, x] != k
                    edges += x == 0 or labels[y, x - 1] != k
                    edges += x == width - 1 or labels[y, x + 1] != k
    return edges, tops


@numba.njit(cache=True, nogil=True)
def _follow(labels: np.ndarray, y: int, x: int, visited: np.ndarray, points: np.ndarray, n: int) -> int:
    """Append the boundary that begins with the top edge of a pixel, foreground to the right; return the new count."""
    height, width = labels.shape
    k = labels[y, x]
    # Corner position and direction; directions are right, down, left, up.
    step_y = (0, 1, 0, -1)
    step_x = (1, 0, -1, 0)
    # The pixels ahead of a corner, to the right and to the left of each direction.
    right_y, right_x = (0, 0, -1, -1), (0, -1, -1, 0)
    left_y, left_x = (-1, 0, 0, -1), (0, 0, -1, -1)
    direction = 0
    while True:
        if direction == 0:
            if visited[y, x]:
                return n
            visited[y, x] = True
        points[n, 0] = x + 0.5 * step_x[direction]
        points[n, 1] = y + 0.5 * step_y[direction]
        n += 1
        y += step_y[direction]
        x += step_x[direction]
        ry, rx = y + right_y[direction], x + right_x[direction]
        ly, lx = y + left_y[direction], x + left_x[direction]
        right = 0 <= ry < height and 0 <= rx < width and labels[ry, rx] == k
        left = 0 <= ly < height and 0 <= lx < width and labels[ly, lx] == k
        if not right:
            direction = (direction + 1) % 4
        elif left:
            direction = (direction + 3) % 4


@numba.njit(cache=True, nogil=True)
def trace_rings(labels: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the closed boundaries of labels 1..n, outer ones clockwise on screen, holes counter-clockwise.

    Parameters
    ----------
    labels
        ``(h, w)`` int32.
    boxes
        ``(n, 4)`` int64 y0, x0, y1, x1, half-open: where each label lies.

    Returns
    -------
    points
        ``(p, 2)`` x, y of all rings one after the other, first points not repeated. Pixel ``(row, col)`` covers
        ``[col, col + 1) x [row, row + 1)``.
    ends
        ``(r,)`` index of the point after each ring.
    owners
        ``(r,)`` label less 1 of each ring. Of a label's rings the one with its first pixel comes first.
    """
    edges, tops = _count_edges(labels, boxes)
    points = np.empty((edges, 2), np.float64)
    ends = np.empty(tops, np.int64)
    owners = np.empty(tops, np.int64)
    visited = np.zeros((labels.shape[0] + 1, labels.shape[1] + 1), np.bool_)
    n = rings = 0
    for k in range(1, len(boxes) + 1):
        y0, x0, y1, x1 = boxes[k - 1]
        for y in range(y0, y1):
            for x in range(x0, x1):
                if labels[y, x] == k and (y == 0 or labels[y - 1, x] != k) and not visited[y, x]:
                    n = _follow(labels, y, x, visited, points, n)
                    ends[rings] = n
                    owners[rings] = k - 1
                    rings += 1
    return points, ends[:rings], owners[:rings]


@numba.njit(cache=True, nogil=True)
def _split(labels: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return 4-connected parts as labels 1..m, the boxes of the parts, and the instance each is of, in that order."""
    parts = np.zeros(labels.shape, np.int32)
    found: list[tuple[int, int, int, int]] = []
    owners: list[int] = []
    for k in range(1, len(boxes) + 1):
        y0, x0, y1, x1 = boxes[k - 1]
        for v in range(y0, y1):
            for u in range(x0, x1):
                if labels[v, u] != k or parts[v, u] > 0:
                    continue
                part = len(found) + 1
                a, b, c, d = v, u, v + 1, u + 1
                parts[v, u] = part
                stack = [(v, u)]
                while len(stack) > 0:
                    y, x = stack.pop()
                    a, b, c, d = min(a, y), min(b, x), max(c, y + 1), max(d, x + 1)
                    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
                        q, p = y + dy, x + dx
                        if y0 <= q < y1 and x0 <= p < x1 and labels[q, p] == k and parts[q, p] == 0:
                            parts[q, p] = part
                            stack.append((q, p))
                found.append((a, b, c, d))
                owners.append(k - 1)
    part_boxes = np.empty((len(found), 4), np.int64)
    of = np.empty(len(found), np.int64)
    for i in range(len(found)):
        part_boxes[i, 0], part_boxes[i, 1], part_boxes[i, 2], part_boxes[i, 3] = found[i]
        of[i] = owners[i]
    return parts, part_boxes, of


def region_polygons(labels: Labels, boxes: Boxes, offset: tuple[float, float] = (0.0, 0.0)) -> Geometries:
    """Return the outline of each of labels 1..n as a Polygon, simplified.

    Parameters
    ----------
    labels
        ``(h, w)`` int32; each label is one 4-connected region of at least one pixel. It may have holes.
    boxes
        As :func:`trace_rings`.
    offset
        x, y added to the coordinates.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` valid polygons.
    """
    return _simplified(_polygons(labels, boxes, offset))


def mask_polygons(labels: Labels, boxes: Boxes, offset: tuple[float, float] = (0.0, 0.0)) -> Geometries:
    """Return the outline of each of labels 1..n as Polygon, or MultiPolygon when it has several parts, simplified.

    Parameters
    ----------
    labels, boxes, offset
        As :func:`region_polygons`, but a label may lie in several parts, or be absent.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` valid geometries, None for labels without a pixel.
    """
    parts, part_boxes, owners = _split(labels, boxes)
    outlines = gather(_polygons(parts, part_boxes, offset), owners, len(boxes))
    present = np.unique(owners)
    outlines[present] = _simplified(outlines[present])
    return outlines


def gather(polygons: Geometries, owners: npt.NDArray[np.int64], n: int) -> Geometries:
    """Return ``(n,)`` geometries: the polygon of each owner, a MultiPolygon where it has several, None without one.

    Parameters
    ----------
    polygons, owners
        ``(m,)`` polygons and the owner, 0 to n - 1, of each; ascending.
    """
    gathered = np.full(n, None, object)
    present, first, counts = np.unique(owners, return_index=True, return_counts=True)
    gathered[present[counts == 1]] = polygons[first[counts == 1]]
    several = np.isin(owners, present[counts > 1])
    if several.any():
        shapely.multipolygons(polygons[several], indices=owners[several], out=gathered)
    return gathered


def _polygons(labels: Labels, boxes: Boxes, offset: tuple[float, float]) -> Geometries:
    if not len(boxes):
        return np.empty(0, object)
    points, ends, owners = trace_rings(labels, boxes)
    rings = shapely.linearrings(points + offset, indices=np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0)))
    return np.asarray(shapely.polygons(rings, indices=owners), object)


def _simplified(outlines: Geometries) -> Geometries:
    simple = shapely.simplify(outlines, SIMPLIFY_PX, preserve_topology=True)
    good = shapely.is_valid(simple) & ~shapely.is_empty(simple)
    return np.where(good, simple, outlines)
