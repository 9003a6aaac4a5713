"""Clusters of megakaryocytes: DBSCAN (Ester et al., KDD 1996) of their middles, with a radius in microns.

WHO calls three or more adjacent megakaryocytes a cluster (Thiele et al., Blood 117:5710, 2011), so three
is the least. Middles of two that touch lie one diameter apart, 20 to 60 um; :data:`RADIUS_UM` takes in loose ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.trephines.window import FloatArray

IntArray = npt.NDArray[np.int64]

RADIUS_UM = 60.0
LEAST = 3


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """``label`` ``(n,)``: the cluster of each point, from 0 in the order of its first point, -1 of none."""

    label: IntArray

    @property
    def sizes(self) -> IntArray:
        """Return the points of each cluster."""
        return np.bincount(self.label[self.label >= 0]).astype(np.int64)

    @property
    def n_clustered(self) -> int:
        """Return how many points are in a cluster."""
        return int((self.label >= 0).sum())


def clusters_of(points_um: FloatArray, *, radius_um: float = RADIUS_UM, least: int = LEAST) -> Clusters:
    """Return the clusters of points ``(n, 2)``.

    Parameters
    ----------
    radius_um
        Points within it are neighbours.
    least
        Points, itself among them, that make a point the core of a cluster.
    """
    from sklearn.cluster import DBSCAN

    if not len(points_um):
        return Clusters(label=np.empty(0, np.int64))
    # In one order whatever the order of rows: a point at the rim of two clusters goes to the first of them.
    order = np.lexsort((points_um[:, 0], points_um[:, 1]))
    label = np.empty(len(points_um), np.int64)
    label[order] = DBSCAN(eps=radius_um, min_samples=least).fit_predict(points_um[order])
    return Clusters(label=label)
