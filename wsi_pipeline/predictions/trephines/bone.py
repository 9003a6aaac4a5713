"""Distance from bone, against what random points in the same marrow would have.

Normal megakaryocytes lie in the middle of marrow spaces; beside trabeculae they are a sign of disease (WHO, revised 4th
edition, 2017; Thiele et al., Blood 117:5710, 2011). The expectation is the share of the marrow's area that lies within
the limit, and the mean distance over that area, both by the middles of a lattice of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.predictions.trephines.window import FloatArray, MarrowWindow

BESIDE_UM = 50.0
"""A middle within this distance of bone is paratrabecular: about one large megakaryocyte and a rim of other cells."""
_MOST_PLACES = 40_000


@dataclass(frozen=True, kw_only=True)
class BoneDistance:
    """Distances from bone, um.

    Parameters
    ----------
    each
        ``(n,)`` of each point.
    n_beside
        Points within the limit.
    expected_share, expected_mean
        Of points at random in the same marrow.
    """

    each: FloatArray
    n_beside: int
    mean: float
    expected_share: float
    expected_mean: float


def bone_distance(points_um: FloatArray, window: MarrowWindow, *, beside_um: float = BESIDE_UM) -> BoneDistance | None:
    """Return the distances of points ``(n, 2)`` from bone; None where no bone was told or there is no point."""
    each = window.bone_distance_um(points_um) if len(points_um) else None
    if each is None:
        return None
    places = _places(window)
    expected = window.bone_distance_um(places)
    if expected is None:
        return None
    return BoneDistance(
        each=each,
        n_beside=int((each <= beside_um).sum()),
        mean=float(each.mean()),
        expected_share=float((expected <= beside_um).mean()),
        expected_mean=float(expected.mean()),
    )


def _places(window: MarrowWindow) -> FloatArray:
    """Return middles of pixels on a lattice that thins the raster in both directions alike."""
    raster = window.raster
    every = max(1, int(np.ceil(np.sqrt(raster.inside.sum() / _MOST_PLACES))))
    rows, columns = np.nonzero(raster.inside)
    kept = (rows % every == every // 2) & (columns % every == every // 2)
    found = raster.centres_um[kept]
    return found if len(found) else raster.centres_um
