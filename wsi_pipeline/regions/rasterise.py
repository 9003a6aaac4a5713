"""Fill polygons into a label image: a pixel belongs to the polygon that holds its centre.

Even-odd scan conversion (Foley et al., Computer Graphics, 2nd ed., section 3.6) of all polygons of a tile
at once. Edges are half-open in y and spans half-open in x, so polygons that share an edge neither overlap
nor leave a gap, and the outline of a mask along pixel edges gives back exactly that mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.units import Box

_CROSSINGS_AT_ONCE = 4_000_000


def rasterise(
    polygons: npt.NDArray[np.object_], labels: npt.NDArray[np.integer], tile: npt.NDArray[np.unsignedinteger], box: Box
) -> None:
    """Write ``labels`` into ``tile`` where pixel centres lie inside ``polygons``.

    Parameters
    ----------
    polygons
        ``(n,)`` valid polygons (holes allowed) in the pixels of the frame of ``box``.
    labels
        ``(n,)`` values above 0. Where polygons overlap the later one stays.
    tile
        ``(h, w)`` image of ``box``; changed in place.
    box
        The pixels of ``tile``; what lies outside is cut off.
    """
    if not len(polygons):
        return
    coordinates, ring_of_point = shapely.get_coordinates(shapely.get_rings(polygons), return_index=True)
    _, polygon_of_ring = shapely.get_rings(polygons, return_index=True)
    inside = ring_of_point[1:] == ring_of_point[:-1]
    start, end = coordinates[:-1][inside], coordinates[1:][inside]
    # Always from the upper end: neighbours run along a shared edge in opposite directions and must round alike.
    upward = (start[:, 1] > end[:, 1])[:, None]
    start, end = np.where(upward, end, start), np.where(upward, start, end)
    owner = polygon_of_ring[ring_of_point[:-1][inside]]
    # Rows whose centre y = row + 0.5 lies in [lower end, upper end) of the edge.
    first = np.ceil(start[:, 1] - 0.5).astype(np.int64).clip(box.y0, box.y1)
    stop = np.ceil(end[:, 1] - 0.5).astype(np.int64).clip(box.y0, box.y1)
    crossed = stop - first
    # Polygons are cut into groups so that memory stays bounded however large they are.
    total = np.cumsum(np.bincount(owner, weights=crossed, minlength=len(polygons)))
    group = (total // _CROSSINGS_AT_ONCE).astype(np.int64)[owner]
    for number in np.unique(group):
        use = (group == number) & (crossed > 0)
        edges = _Edges(start=start[use], end=end[use], owner=owner[use], first=first[use], crossed=crossed[use])
        _fill(edges, labels, tile, box)


@dataclass(frozen=True, kw_only=True)
class _Edges:
    """Edges that cross rows: ends (x, y), polygon, first row crossed and number of rows."""

    start: npt.NDArray[np.float64]
    end: npt.NDArray[np.float64]
    owner: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    crossed: npt.NDArray[np.int64]


def _fill(edges: _Edges, labels: npt.NDArray[np.integer], tile: npt.NDArray[np.unsignedinteger], box: Box) -> None:
    edge = np.repeat(np.arange(len(edges.crossed)), edges.crossed)
    row = edges.first[edge] + _ramp(edges.crossed)
    (x0, y0), (x1, y1) = edges.start[edge].T, edges.end[edge].T
    x = x0 + (row + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    who = edges.owner[edge]
    order = np.lexsort((x, row, who))
    who, row = who[order], row[order]
    # Crossings of a row come in pairs; columns whose centre lies in [x of one, x of the next) are inside.
    column = np.ceil(x[order] - 0.5).astype(np.int64).clip(box.x0, box.x1)
    left, right = column[0::2], column[1::2]
    width = right - left
    span = np.repeat(np.arange(len(width)), width)
    rows = row[0::2][span] - box.y0
    columns = left[span] + _ramp(width) - box.x0
    tile[rows, columns] = labels[who[0::2][span]]


def _ramp(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return 0 .. n-1 for each n of ``counts``, one after the other."""
    total = int(counts.sum())
    return np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
