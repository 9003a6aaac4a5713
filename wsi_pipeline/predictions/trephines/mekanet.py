"""The 19 features of MekaNet, by its names and formulas, beside ours.

After ``mekanet/data/feature_extraction.py`` of LeGenAI/mekanet-release (MIT licence), written anew. They are of
bounding boxes, without edge correction and without marrow, and the radius of its DBSCAN grows with the slide, so they
compare between fields of one size only. Lengths are um here, where MekaNet has pixels; ``Local_Density`` is 1/um. Its
zeros for fewer than two or three cells are kept: that is what its models read.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist

from wsi_pipeline.predictions.trephines.clusters import clusters_of
from wsi_pipeline.predictions.trephines.neighbours import nearest_distances
from wsi_pipeline.predictions.trephines.window import FloatArray

UNITS: Mapping[str, str] = {
    "Avg_Size": "um2", "Std_Size": "um2", "Max_Size": "um2", "Min_Size": "um2", "Median_Size": "um2",
    "Size_Range": "um2", "Avg_NND": "um", "Std_NND": "um", "Median_NND": "um", "Avg_Local_Density": "1/um",
    "Std_Local_Density": "1/um", "Avg_Ellipticity": "1", "Std_Ellipticity": "1", "Max_Ellipticity": "1",
    "Min_Ellipticity": "1", "Num_Clusters": "count", "Avg_Cluster_Size": "count", "Std_Cluster_Size": "count",
    "Num_Megakaryocytes": "count",
}  # fmt: skip
"""Names in MekaNet's order, with our units."""

_NEIGHBOURS = 5
_MOST_PAIRS_OF = 5000
"""Cells of which all pairs are looked at for clusters; of more every second, third and so on stands for the others."""


def mekanet_features(boxes_um: FloatArray) -> dict[str, float]:
    """Return the features of bounding boxes ``(n, 4)``: left, top, right, bottom, um."""
    found = dict.fromkeys(UNITS, 0.0)
    n = len(boxes_um)
    if not n:
        return found
    width, height = boxes_um[:, 2] - boxes_um[:, 0], boxes_um[:, 3] - boxes_um[:, 1]
    size = width * height
    middle = (boxes_um[:, :2] + boxes_um[:, 2:]) / 2
    ellipticity = np.divide(width, height, out=np.ones(n), where=height > 0)
    found |= {
        "Avg_Size": size.mean(), "Std_Size": size.std(), "Max_Size": size.max(), "Min_Size": size.min(),
        "Median_Size": float(np.median(size)), "Size_Range": size.max() - size.min(),
        "Avg_Ellipticity": ellipticity.mean(), "Std_Ellipticity": ellipticity.std(),
        "Max_Ellipticity": ellipticity.max(), "Min_Ellipticity": ellipticity.min(),
        "Num_Megakaryocytes": float(n),
    }  # fmt: skip
    if n >= 2:
        nearest = nearest_distances(middle)
        k = min(_NEIGHBOURS, n - 1)
        near = cKDTree(middle).query(middle, k=k + 1)[0][:, 1:]
        density = 1 / (near.mean(axis=1) + 1e-6)
        found |= {
            "Avg_NND": nearest.mean(), "Std_NND": nearest.std(), "Median_NND": float(np.median(nearest)),
            "Avg_Local_Density": density.mean(), "Std_Local_Density": density.std(),
        }  # fmt: skip
    if n >= 3:
        every = -(-n // _MOST_PAIRS_OF)
        part = middle[::every]
        radius = float(pdist(part).mean()) * 0.5
        clusters = clusters_of(part, radius_um=radius, least=max(2, len(part) // 10)) if radius > 0 else None
        sizes = np.empty(0) if clusters is None else clusters.sizes * every
        if len(sizes):
            found |= {"Num_Clusters": len(sizes), "Avg_Cluster_Size": sizes.mean(), "Std_Cluster_Size": sizes.std()}
    return {name: float(value) for name, value in found.items()}
