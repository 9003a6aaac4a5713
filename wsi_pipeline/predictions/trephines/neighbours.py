"""Nearest neighbours of points, with the edge of the window corrected.

A point near the edge may have its nearest neighbour outside, where nothing was seen, so raw distances are too long.

- Hanisch (Math. Operationsforsch. Statist. Ser. Statist. 15:409, 1984): only points whose neighbour at distance d lies
  nearer than the edge are used, each weighted by 1 over the area of the window eroded by d, the part in which such a
  point would have been used. Mean, deviation and quantiles are those of the weighted distances.
- Clark and Evans (Ecology 35:445, 1954): mean distance over that of random points, 1 / (2 sqrt(density)) without an
  edge. Here the divisor is the mean of as many points thrown at random into the same window, measured the same way,
  which corrects for the edge of any shape; Donnelly's formula holds for rectangles. Below 1 is clustered, above
  regular.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

from wsi_pipeline.predictions.trephines.window import FloatArray, MarrowWindow, Raster

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Distances to the nearest neighbour, um; NaN where fewer than two points, or none, can be used.

    Parameters
    ----------
    each
        ``(n,)`` raw distance of each point.
    n_used
        Points that the edge correction uses.
    mean, sd, quantiles
        Edge-corrected; quantiles at 10, 25, 50, 75 and 90 %.
    raw_mean
        Of all points, as they are.
    """

    each: FloatArray
    n_used: int
    mean: float
    sd: float
    quantiles: tuple[float, ...]
    raw_mean: float


def nearest_distances(points_um: FloatArray) -> FloatArray:
    """Return the distance of each point ``(n, 2)`` to the nearest other one; NaN of a single point."""
    if len(points_um) < 2:
        return np.full(len(points_um), np.nan)
    found: FloatArray = cKDTree(points_um).query(points_um, k=2)[0][:, 1]
    return found


def nearest_neighbours(points_um: FloatArray, window: MarrowWindow) -> Nearest:
    """Return the distances of points ``(n, 2)`` observed in a window, with Hanisch's correction."""
    each = nearest_distances(points_um)
    nothing = (np.nan,) * len(QUANTILES)
    if len(points_um) < 2:
        return Nearest(each=each, n_used=0, mean=np.nan, sd=np.nan, quantiles=nothing, raw_mean=np.nan)
    raw = float(each.mean())
    used = each <= window.edge_distance_um(points_um)
    d = each[used]
    area = eroded_areas_um2(window.raster, d)
    d, area = d[area > 0], area[area > 0]
    if not len(d):
        return Nearest(each=each, n_used=0, mean=np.nan, sd=np.nan, quantiles=nothing, raw_mean=raw)
    weight = 1 / area
    weight /= weight.sum()
    mean = float(weight @ d)
    order = np.argsort(d, kind="stable")
    reached = np.cumsum(weight[order])
    places = np.minimum(np.searchsorted(reached, np.asarray(QUANTILES) - 1e-12), len(d) - 1)
    return Nearest(
        each=each,
        n_used=len(d),
        mean=mean,
        sd=float(np.sqrt(weight @ (d - mean) ** 2)),
        quantiles=tuple(d[order][places].tolist()),
        raw_mean=raw,
    )


def eroded_areas_um2(raster: Raster, distances_um: FloatArray) -> FloatArray:
    """Return the area of the window further than each distance ``(n,)`` from its edge, um2."""
    depth = cv2.distanceTransform(raster.inside.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # The edge runs half a pixel before the middle of the nearest pixel outside.
    depths = np.sort(depth[raster.inside].astype(np.float64) - 0.5) * raster.step_um
    deeper = len(depths) - np.searchsorted(depths, distances_um, side="left")
    return np.asarray(deeper, np.float64) * raster.step_um**2
