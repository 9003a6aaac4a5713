"""Instances against points: each true cell is one point somewhere inside it.

A point is found when it lies on a predicted instance, one point an instance: an instance that covers several
points finds one of them and misses the others. A predicted object that the image border cuts counts only when it
holds a point: annotators mark some cut cells and leave others, and the masks' figures ignore them too. On fields
that are marked only in part, ``ratio`` and ``precision`` mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.bootstrap import Estimate, FloatArray, bootstrap_units, divide


@dataclass(frozen=True, kw_only=True)
class PointsResult:
    """One image: points, predicted instances, and points found."""

    name: str
    n_points: int
    n_pred: int
    found: int


@dataclass(frozen=True, kw_only=True)
class PointsMetrics:
    """Figures over a set of images, intervals by bootstrap over images.

    ``recall`` is found / points, ``precision`` found / predicted, ``ratio`` predicted / points.
    """

    n_images: int
    n_points: int
    n_pred: int
    found: int
    recall: Estimate
    precision: Estimate
    ratio: Estimate
    per_image: tuple[PointsResult, ...]


def match_points(name: str, labels: npt.NDArray[np.integer], xy: npt.ArrayLike) -> PointsResult:
    """Count the points of one image that its predicted instances find.

    Parameters
    ----------
    labels
        ``(h, w)`` integers, 0 for background.
    xy
        ``(n, 2)`` x (right) and y (down) in pixels; pixel ``i`` covers ``[i, i + 1)``. A point on the far edge
        belongs to the last pixel.

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
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    counted = np.setdiff1d(np.unique(labels), np.setdiff1d(rim, hit))
    return PointsResult(
        name=name,
        n_points=len(points),
        n_pred=int(np.count_nonzero(counted)),
        found=int(np.count_nonzero(hit)),
    )


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
    counts = np.array([(r.n_points, r.n_pred, r.found) for r in images])
    figures = bootstrap_units(counts, _figures, replicates=replicates, seed=seed)
    n_points, n_pred, found = (int(v) for v in counts.sum(axis=0))
    return PointsMetrics(
        n_images=len(images), n_points=n_points, n_pred=n_pred, found=found, per_image=images, **figures
    )


def _figures(c: FloatArray) -> dict[str, FloatArray]:
    points, predicted, found = c.T
    return {
        "recall": divide(found, points),
        "precision": divide(found, predicted),
        "ratio": divide(predicted, points),
    }
