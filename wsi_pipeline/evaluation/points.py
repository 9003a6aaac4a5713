"""Instances against points: each true cell is one point somewhere inside it.

A point is found when it lies on a predicted instance, one point an instance: an instance that covers several
points finds one of them and misses the others. A predicted object that the image border cuts counts only when it
holds a point: annotators mark some cut cells and leave others, and the masks' figures ignore them too. On fields
that are marked only in part, ``ratio`` and ``precision`` mean nothing.

Where points mark centres, centres are matched as well: one to one, as many pairs as possible, no farther apart than a
radius (as the detection task of Sirinukunwattana et al., IEEE Trans Med Imaging 35:1196, 2016, is scored).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_units, divide


@dataclass(frozen=True, kw_only=True)
class PointsResult:
    """One image: points, predicted instances, and points found.

    ``n_centres`` and ``near`` are the instances that count, and the pairs, when centres are matched within a radius;
    None without one.
    """

    name: str
    n_points: int
    n_pred: int
    found: int
    n_centres: int | None = None
    near: int | None = None


@dataclass(frozen=True, kw_only=True)
class PointsMetrics:
    """Figures over a set of images, intervals by bootstrap over images.

    ``recall`` is found / points, ``precision`` found / predicted, ``ratio`` predicted / points. ``centre_recall``,
    ``centre_precision`` and ``centre_f1`` are those of centres within the radius; undefined without one.
    """

    n_images: int
    n_points: int
    n_pred: int
    found: int
    recall: Estimate
    precision: Estimate
    ratio: Estimate
    centre_recall: Estimate
    centre_precision: Estimate
    centre_f1: Estimate
    per_image: tuple[PointsResult, ...]


def match_points(
    name: str,
    labels: npt.NDArray[np.integer],
    xy: npt.ArrayLike,
    *,
    radius_px: float | None = None,
    rim_px: int = 1,
) -> PointsResult:
    """Count the points of one image that its predicted instances find.

    Parameters
    ----------
    labels
        ``(h, w)`` integers, 0 for background.
    xy
        ``(n, 2)`` x (right) and y (down) in pixels; pixel ``i`` covers ``[i, i + 1)``. A point on the far edge
        belongs to the last pixel.
    radius_px
        Match centres of mass with points up to this far apart, too.
    rim_px
        Width of the rim; an object on it is cut by the border. A model that works on coarser pixels than the image
        outlines to one of its own pixels only.

    Raises
    ------
    DataError
        A point lies outside the image.
    """
    height, width = labels.shape
    points = np.asarray(xy, dtype=np.float64).reshape(-1, 2)
    inside = (points >= 0).all(axis=1) & (points[:, 0] <= width) & (points[:, 1] <= height)
    if not inside.all():
        x, y = points[~inside][0]
        raise DataError(f"{name}: point ({x:g}, {y:g}) lies outside the image of {width} x {height} pixels")
    column = np.minimum(points[:, 0].astype(np.intp), width - 1)
    row = np.minimum(points[:, 1].astype(np.intp), height - 1)
    hit = np.unique(labels[row, column])
    edges = (labels[:rim_px], labels[-rim_px:], labels[:, :rim_px], labels[:, -rim_px:])
    rim = np.unique(np.concatenate([edge.ravel() for edge in edges]))
    counted = np.setdiff1d(np.unique(labels), np.setdiff1d(rim, hit))
    n_centres, near = (None, None) if radius_px is None else _match_centres(labels, points, rim, radius_px)
    return PointsResult(
        name=name,
        n_points=len(points),
        n_pred=int(np.count_nonzero(counted)),
        found=int(np.count_nonzero(hit)),
        n_centres=n_centres,
        near=near,
    )


def _match_centres(
    labels: npt.NDArray[np.integer], points: FloatArray, rim: npt.NDArray[np.integer], radius_px: float
) -> tuple[int, int]:
    """Return how many instances count (cut ones only when they match) and how many pairs there are."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_bipartite_matching
    from scipy.spatial import cKDTree

    rows, columns = np.nonzero(labels)
    names, index, area = np.unique(labels[rows, columns], return_inverse=True, return_counts=True)
    if not len(names) or not len(points):
        return int(np.count_nonzero(~np.isin(names, rim))), 0
    x = np.bincount(index, weights=columns + 0.5) / area
    y = np.bincount(index, weights=rows + 0.5) / area
    pairs = cKDTree(np.stack([x, y], axis=1)).query_ball_point(points, radius_px)
    i = np.repeat(np.arange(len(points)), [len(p) for p in pairs])
    j = np.concatenate([np.asarray(p, dtype=np.intp) for p in pairs])
    graph = coo_array((np.ones(len(i), dtype=np.int8), (i, j)), shape=(len(points), len(names))).tocsr()
    matched = maximum_bipartite_matching(graph, perm_type="column")
    of_pair = matched[matched >= 0]
    alone = np.setdiff1d(np.arange(len(names)), of_pair)
    return len(of_pair) + int(np.count_nonzero(~np.isin(names[alone], rim))), len(of_pair)


def evaluate_points(results: Iterable[PointsResult], *, replicates: int = 2000, seed: int = 0) -> PointsMetrics:
    """Pool all images and estimate each figure with its interval over images.

    Raises
    ------
    DataError
        There is no image.
    """
    images = tuple(results)
    if not images:
        raise DataError("nothing to evaluate: there is no image")
    counts = np.array(
        [
            (r.n_points, r.n_pred, r.found, *((np.nan, np.nan) if r.near is None else (r.n_centres, r.near)))
            for r in images
        ],
        dtype=np.float64,
    )
    figures = bootstrap_units(counts, _figures, replicates=replicates, seed=seed)
    n_points, n_pred, found = (int(v) for v in counts[:, :3].sum(axis=0))
    return PointsMetrics(
        n_images=len(images), n_points=n_points, n_pred=n_pred, found=found, per_image=images, **figures
    )


def _figures(c: FloatArray) -> dict[str, FloatArray]:
    points, predicted, found, centres, near = c.T
    return {
        "recall": divide(found, points),
        "precision": divide(found, predicted),
        "ratio": divide(predicted, points),
        "centre_recall": divide(near, points),
        "centre_precision": divide(near, centres),
        "centre_f1": divide(2 * near, points + centres),
    }
