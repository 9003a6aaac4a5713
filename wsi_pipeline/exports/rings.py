"""Rings of many polygons at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_EXACT = 2.0**25
"""Products of two differences below this, in units of the grid, and sums of two such, are exact in float64."""


def corners(
    xy: npt.NDArray[np.float64], ring_starts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Leave out the points of closed rings that lie between their neighbours on a straight line, or repeat one.

    The set of points that a ring covers does not change, so valid polygons stay valid.

    Parameters
    ----------
    xy
        ``(n, 2)`` points on the grid of 0.01 px, the rings one after the other; the last of a ring is its first.
    ring_starts
        ``(rings + 1,)`` where each ring starts, and where the last ends.

    Returns
    -------
    xy, ring_starts
        Of the rings that are left, closed.
    """
    lengths = np.diff(ring_starts) - 1  # without the closing point
    starts = np.concatenate([[0], np.cumsum(lengths)])
    first, last = starts[:-1], starts[1:] - 1
    open_xy = np.delete(np.rint(xy * 100.0), ring_starts[1:] - 1, axis=0)
    fresh = _next(open_xy, first, last) != open_xy
    keep = fresh.any(axis=1)
    keep[last] |= ~np.logical_or.reduceat(keep, first)  # a ring of one point stays
    # Of repeated points the last is left, so every difference below has a direction.
    points, starts = open_xy[keep], np.concatenate([[0], np.cumsum(np.add.reduceat(keep.astype(np.int64), first))])
    first, last = starts[:-1], starts[1:] - 1
    ahead = _next(points, first, last) - points
    behind = points - _before(points, first, last)
    cross = ahead[:, 0] * behind[:, 1] - ahead[:, 1] * behind[:, 0]
    # Beyond this, products of differences are not exact.
    exact = np.maximum(np.abs(ahead), np.abs(behind)).max(axis=1) < _EXACT
    keep = ~(exact & (cross == 0) & ((ahead * behind).sum(axis=1) > 0))
    left = np.add.reduceat(keep.astype(np.int64), first)
    starts = np.concatenate([[0], np.cumsum(left)])
    kept = points[keep]
    closed = np.insert(kept, starts[1:], kept[starts[:-1]], axis=0)
    return closed / 100.0, starts + np.arange(len(starts))


def _next(
    xy: npt.NDArray[np.float64], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the point that follows each in its ring."""
    following = np.roll(xy, -1, axis=0)
    following[last] = xy[first]
    return following


def _before(
    xy: npt.NDArray[np.float64], first: npt.NDArray[np.int64], last: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the point before each in its ring."""
    preceding = np.roll(xy, 1, axis=0)
    preceding[first] = xy[last]
    return preceding
