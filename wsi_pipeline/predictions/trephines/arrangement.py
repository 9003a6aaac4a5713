"""How megakaryocytes lie in the marrow of a section: density, neighbours, pairs, clusters, bone.

Every figure that an edge changes is corrected for it, or stands beside what random points give in the same window:
:data:`DRAWS` times as many points are thrown into it, by a fixed seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_pipeline.predictions.intervals import poisson, wilson
from wsi_pipeline.predictions.trephines import pair_correlation
from wsi_pipeline.predictions.trephines.bone import BESIDE_UM, BoneDistance, bone_distance
from wsi_pipeline.predictions.trephines.clusters import LEAST, RADIUS_UM, Clusters, clusters_of
from wsi_pipeline.predictions.trephines.neighbours import QUANTILES, Nearest, nearest_distances, nearest_neighbours
from wsi_pipeline.predictions.trephines.window import FloatArray, MarrowWindow

DRAWS = 39
"""Random patterns; the least and the greatest of 39 values bound 95 %."""
MOST_WITH_ENVELOPE = 1000
"""Points of which g(r) of random patterns is worked out too; of more it is narrow, and slow."""
_SEED = 20201


@dataclass(frozen=True, kw_only=True)
class Random:
    """What patterns of as many random points in the same window give, one value a pattern."""

    nearest_um: FloatArray
    clustered_share: FloatArray
    g: FloatArray | None
    """``(draws, m)``; None of too many points."""


@dataclass(frozen=True, kw_only=True)
class PairCorrelation:
    """g at ``r_um`` ``(m,)``, and the bounds of random patterns (None of too many points)."""

    r_um: FloatArray
    g: FloatArray
    lower: FloatArray | None
    upper: FloatArray | None
    bandwidth_um: float
    pairs_within_radius: float
    """K(r) / (pi r^2) at the radius of clusters: how much commoner pairs so close are than at random."""


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """The arrangement of ``n`` points in a window.

    Parameters
    ----------
    area_um2
        Of the window.
    nearest
        Nearest neighbours.
    pairs, random
        None of fewer than two points.
    bone
        None where no bone was told.
    """

    n: int
    area_um2: float
    nearest: Nearest
    pairs: PairCorrelation | None
    clusters: Clusters
    random: Random | None
    bone: BoneDistance | None

    @property
    def per_mm2(self) -> float:
        return self.n / (self.area_um2 * 1e-6) if self.area_um2 > 0 else np.nan

    @property
    def clark_evans(self) -> float:
        """Return the mean distance to the nearest neighbour over that of random points; below 1 is clustered."""
        return np.nan if self.random is None else self.nearest.raw_mean / float(self.random.nearest_um.mean())

    @property
    def clustered_share(self) -> float:
        return self.clusters.n_clustered / self.n if self.n else np.nan

    def density(self, confidence: float) -> dict[str, Any]:
        """Return ``per_mm2`` with ``lower`` and ``upper`` (Garwood, of a Poisson count; clustering widens it)."""
        mm2 = self.area_um2 * 1e-6
        if mm2 <= 0:
            return {"per_mm2": None, "lower": None, "upper": None}
        lower, upper = poisson(self.n, confidence)
        return {"per_mm2": self.n / mm2, "lower": lower / mm2, "upper": upper / mm2}

    def to_dict(self, confidence: float) -> dict[str, Any]:
        """Return what ``summary.json`` holds under ``trephine.arrangement``; None stands for what cannot be told."""
        near, random = self.nearest, self.random
        low, high = wilson(self.clusters.n_clustered, self.n, confidence)
        return {
            "nearest_um": {
                "mean": _told(near.mean),
                "sd": _told(near.sd),
                **{f"q{round(100 * q)}": _told(v) for q, v in zip(QUANTILES, near.quantiles, strict=True)},
                "raw_mean": _told(near.raw_mean),
                "n_used": near.n_used,
            },
            "clark_evans": {
                "ratio": _told(self.clark_evans),
                "random_lower": None if random is None else _told((random.nearest_um / random.nearest_um.mean()).min()),
                "random_upper": None if random is None else _told((random.nearest_um / random.nearest_um.mean()).max()),
                "draws": DRAWS,
            },
            "pair_correlation": self._pairs_dict(),
            "clusters": {
                "radius_um": RADIUS_UM,
                "least": LEAST,
                "n": len(self.clusters.sizes),
                "sizes": sorted(self.clusters.sizes.tolist(), reverse=True),
                "mean_size": _told(float(self.clusters.sizes.mean()) if len(self.clusters.sizes) else np.nan),
                "n_clustered": self.clusters.n_clustered,
                "share": _told(self.clustered_share),
                "lower": low,
                "upper": high,
                "random_share": None if random is None else _told(float(random.clustered_share.mean())),
            },
            "bone": self._bone_dict(confidence),
        }

    def _pairs_dict(self) -> dict[str, Any] | None:
        own = self.pairs
        if own is None:
            return None
        return {
            "r_um": own.r_um.tolist(),
            "g": [_told(v) for v in own.g.tolist()],
            "random_lower": None if own.lower is None else own.lower.tolist(),
            "random_upper": None if own.upper is None else own.upper.tolist(),
            "bandwidth_um": own.bandwidth_um,
            "within_radius": _told(own.pairs_within_radius),
        }

    def _bone_dict(self, confidence: float) -> dict[str, Any] | None:
        own = self.bone
        if own is None:
            return None
        lower, upper = wilson(own.n_beside, self.n, confidence)
        return {
            "mean_um": own.mean,
            "random_mean_um": own.expected_mean,
            "beside_um": BESIDE_UM,
            "n_beside": own.n_beside,
            "share": own.n_beside / self.n,
            "lower": lower,
            "upper": upper,
            "random_share": own.expected_share,
        }


def arrangement(points_um: FloatArray, window: MarrowWindow) -> Arrangement:
    """Return the arrangement of points in a window.

    Parameters
    ----------
    points_um
        ``(n, 2)``: x and y of middles, um; the order changes nothing but the order of what is told of each.
    window
        The marrow, not empty where there are points.
    """
    points = np.asarray(points_um, np.float64).reshape(-1, 2)
    nearest = nearest_neighbours(points, window)
    found = clusters_of(points)
    several = len(points) > 1 and window.area_um2 > 0
    covariance = pair_correlation.SetCovariance.of(window.raster, pair_correlation.LONGEST_UM) if several else None
    random = None if covariance is None else _random(len(points), window, covariance)
    return Arrangement(
        n=len(points),
        area_um2=window.area_um2,
        nearest=nearest,
        pairs=None if covariance is None or random is None else _pairs(points, window, covariance, random),
        clusters=found,
        random=random,
        bone=bone_distance(points, window),
    )


def _random(n: int, window: MarrowWindow, covariance: pair_correlation.SetCovariance) -> Random:
    rng = np.random.default_rng(_SEED)
    near, clustered, curves = [], [], []
    width, r = pair_correlation.bandwidth_um(n, window.area_um2), pair_correlation.distances_um()
    for _ in range(DRAWS):
        points = window.raster.draw(n, rng)
        near.append(float(nearest_distances(points).mean()))
        clustered.append(clusters_of(points).n_clustered / n)
        if n <= MOST_WITH_ENVELOPE:
            curves.append(pair_correlation.pairs_of(points, window, covariance).g(r, width))
    return Random(
        nearest_um=np.array(near), clustered_share=np.array(clustered), g=np.stack(curves) if curves else None
    )


def _pairs(
    points: FloatArray, window: MarrowWindow, covariance: pair_correlation.SetCovariance, random: Random
) -> PairCorrelation:
    pairs = pair_correlation.pairs_of(points, window, covariance)
    r, width = pair_correlation.distances_um(), pair_correlation.bandwidth_um(len(points), window.area_um2)
    return PairCorrelation(
        r_um=r,
        g=pairs.g(r, width),
        lower=None if random.g is None else random.g.min(axis=0),
        upper=None if random.g is None else random.g.max(axis=0),
        bandwidth_um=width,
        pairs_within_radius=pairs.k_um2(RADIUS_UM) / (np.pi * RADIUS_UM**2),
    )


def _told(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
