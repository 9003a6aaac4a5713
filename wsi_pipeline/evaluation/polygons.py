"""Outlines against outlines: the rules of :mod:`wsi_pipeline.evaluation.segmentation`, for polygons of a whole slide.

A true object is *ignored* when it is cut by the edge of what was searched; it is neither found nor missed. The others
are matched one to one with the predicted objects of any kind, the most pairs of at least the IoU first, then the
largest sum of IoU. A predicted object left over is *excused* when it is cut itself, when its IoU with an ignored true
object reaches the threshold, or when more than half of it lies on ignored true objects.

Polygons are made from their bytes a strip of the slide at a time, so that memory holds the bytes of one slide and the
polygons of a strip.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """The outlines of one slide, in level-0 pixels.

    Parameters
    ----------
    encoded
        ``(n,)`` objects: WKB bytes of a valid polygon each.
    bounds
        ``(n, 4)``: x0, y0, x1, y1.
    area
        ``(n,)``, square pixels.
    """

    encoded: npt.NDArray[np.object_]
    bounds: FloatArray
    area: FloatArray

    def __len__(self) -> int:
        return len(self.encoded)

    def take(self, rows: IntArray) -> Outlines:
        """Return some of the outlines."""
        return Outlines(encoded=self.encoded[rows], bounds=self.bounds[rows], area=self.area[rows])

    @classmethod
    def measure(cls, encoded: npt.NDArray[np.object_]) -> Outlines:
        """Return outlines with their bounds and areas.

        Parameters
        ----------
        encoded
            ``(n,)`` objects: WKB bytes or WKT text.

        Raises
        ------
        ValueError
            One of them is no polygon; the message gives its number, from 0.
        """
        bounds, area = np.empty((len(encoded), 4)), np.empty(len(encoded))
        kept = np.empty(len(encoded), object)
        for start in range(0, len(encoded), _AT_ONCE):
            rows = slice(start, start + _AT_ONCE)
            shapes = decode(encoded[rows])
            bad = ~np.isin(shapely.get_type_id(shapes), (3, 6)) | shapely.is_empty(shapes)
            if bad.any():
                raise ValueError(f"row {start + int(np.argmax(bad))} is no polygon")
            bounds[rows], area[rows] = shapely.bounds(shapes), shapely.area(shapes)
            kept[rows] = shapely.to_wkb(shapes)
        return cls(encoded=kept, bounds=bounds, area=area)


@dataclass(frozen=True, kw_only=True)
class PolygonMatch:
    """What became of every outline.

    Parameters
    ----------
    partner
        ``(true,)``: the predicted outline that each true one is matched with; -1 for none.
    ignored
        ``(true,)``: true outlines that count nowhere.
    excused
        ``(pred,)``: predicted outlines that are matched with none and count nowhere.
    """

    partner: IntArray
    ignored: BoolArray
    excused: BoolArray

    @property
    def missed(self) -> BoolArray:
        """Return which true outlines were not found."""
        return (self.partner < 0) & ~self.ignored

    @property
    def false(self) -> BoolArray:
        """Return which predicted outlines stand for nothing."""
        taken = np.zeros(len(self.excused), bool)
        taken[self.partner[self.partner >= 0]] = True
        return ~taken & ~self.excused


def decode(encoded: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Return valid polygons of WKB or WKT; an outline that crosses itself is mended.

    Raises
    ------
    ValueError
        One cannot be read.
    """
    if not len(encoded):
        return np.empty(0, object)
    read = shapely.from_wkt if isinstance(encoded[0], str) else shapely.from_wkb
    try:
        shapes = read(encoded)
    except (shapely.errors.GEOSException, TypeError) as error:
        raise ValueError(f"not an outline ({error})") from None
    if shapely.is_missing(shapes).any():
        raise ValueError("an outline is missing")
    crossed = ~shapely.is_valid(shapes)
    if crossed.any():
        shapes[crossed] = shapely.buffer(shapes[crossed], 0)
    return np.asarray(shapes, object)


def match_polygons(
    true: Outlines, pred: Outlines, *, ignored: BoolArray, cut: BoolArray, threshold: float = 0.5
) -> PolygonMatch:
    """Match outlines one to one by the rules of this module.

    Parameters
    ----------
    true, pred
        Outlines in one frame.
    ignored
        ``(true,)``: true outlines that count nowhere.
    cut
        ``(pred,)``: predicted outlines that are cut by the edge of what was searched.
    threshold
        Smallest IoU of a pair, inclusive.
    """
    t, p, common = _overlaps(true, pred, ignored, threshold)
    iou = common / (true.area[t] + pred.area[p] - common)
    good = iou >= threshold
    kept = good & ~ignored[t]
    partner = np.full(len(true), -1)
    rows, columns = assign(t[kept], p[kept], iou[kept])
    partner[rows] = columns
    excused = cut.copy()
    on_ignored = ignored[t]
    excused[p[good & on_ignored]] = True
    covered = np.bincount(p[on_ignored], weights=common[on_ignored], minlength=len(pred))
    excused |= 2 * covered > pred.area
    excused[columns] = False
    return PolygonMatch(partner=partner, ignored=ignored, excused=excused)


def assign(rows: IntArray, columns: IntArray, gain: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the one-to-one subset of candidate pairs with the most pairs, then the largest sum of gains (0 to 1).

    Conflicts are local, so each connected group of candidates is solved for itself.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(rows):
        return rows, columns
    r, i = np.unique(rows, return_inverse=True)
    c, j = np.unique(columns, return_inverse=True)
    size = len(r) + len(c)
    graph = coo_array((np.ones(len(i), np.int8), (i, j + len(r))), shape=(size, size))
    group = connected_components(graph, directed=False)[1][i]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    found_rows, found_columns = [], []
    for members in np.split(order, starts[1:]):
        if len(members) == 1:
            found_rows.append(i[members])
            found_columns.append(j[members])
            continue
        mine, at_row = np.unique(i[members], return_inverse=True)
        theirs, at_column = np.unique(j[members], return_inverse=True)
        table = np.zeros((len(mine), len(theirs)))
        # One more pair outweighs any sum of gains.
        table[at_row, at_column] = min(table.shape) + gain[members]
        a, b = linear_sum_assignment(table, maximize=True)
        real = table[a, b] > 0
        found_rows.append(mine[a[real]])
        found_columns.append(theirs[b[real]])
    return r[np.concatenate(found_rows)], c[np.concatenate(found_columns)]


def _overlaps(
    true: Outlines, pred: Outlines, ignored: BoolArray, threshold: float
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return pairs and the area they share: all of ignored true outlines, else those that may reach the threshold."""
    order = np.argsort(true.bounds[:, 1], kind="stable")
    parts: list[tuple[IntArray, IntArray, FloatArray]] = []
    for start in range(0, len(order), _AT_ONCE):
        mine = order[start : start + _AT_ONCE]
        top, bottom = true.bounds[mine, 1].min(), true.bounds[mine, 3].max()
        near = np.flatnonzero((pred.bounds[:, 3] >= top) & (pred.bounds[:, 1] <= bottom))
        shapes, others = shapely.from_wkb(true.encoded[mine]), shapely.from_wkb(pred.encoded[near])
        i, j = shapely.STRtree(others).query(shapes)
        # No pair shares more than its boxes do; of touching neighbours that is too little, and cheap to see.
        least = threshold / (1 + threshold) * (true.area[mine[i]] + pred.area[near[j]])
        hopeful = ignored[mine[i]] | (_shared_box(true.bounds[mine[i]], pred.bounds[near[j]]) >= 0.999 * least)
        i, j = i[hopeful], j[hopeful]
        common = shapely.area(shapely.intersection(shapes[i], others[j]))
        real = common > 0
        parts.append((mine[i[real]], near[j[real]], common[real]))
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    t, p, common = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return t, p, common


def _shared_box(a: FloatArray, b: FloatArray) -> FloatArray:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return np.maximum(sides, 0).prod(axis=1)
