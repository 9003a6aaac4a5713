"""Places of megakaryocytes and fat cells in a core: clusters of controlled size, looseness and number, no overlap.

A cluster begins anywhere in the marrow and grows cell by cell: each next one lies at a gap, from edge to edge, from one
that is there. That is a cluster process with inhibition (Illian et al., Statistical Analysis and Modelling of Spatial
Point Patterns, Wiley 2008, ch. 6) whose gap is what pathologists mean by dense (the cells adjoin) and loose (other
cells lie between).
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.simulation.bone import RASTER_UM, Distances
from wsi_pipeline.simulation.core_profile import Arrangement

PARATRABECULAR_UM = 100.0
"""Depth of the marrow beside bone."""
LEAST_CLUSTER = 3

_TRIES = 60
_ROUGHNESS = 1.03
"""A cell claims a disc a little larger than that of its area, since it is not round."""
_FAT_TRIES = 4000
_FAT_STEPS = 24

Floats = npt.NDArray[np.float64]


def cluster_numbers(rng: np.random.Generator, n: int, arrangement: Arrangement) -> npt.NDArray[np.int64]:
    """Return the number of the cluster of ``n`` cells, members next to each other; -1 for single ones, at the end."""
    members = round(arrangement.clustered * n)
    sizes: list[int] = []
    while members - sum(sizes) >= LEAST_CLUSTER:
        size = LEAST_CLUSTER + int(rng.poisson(arrangement.cluster_size - LEAST_CLUSTER))
        sizes.append(min(size, members - sum(sizes)))
    left = n - sum(sizes)
    return np.concatenate([np.repeat(np.arange(len(sizes)), sizes), np.full(left, -1)]).astype(np.int64)


def place_megakaryocytes(
    rng: np.random.Generator,
    radius_um: Floats,
    clusters: npt.NDArray[np.int64],
    depth: Distances,
    bone: Distances,
    arrangement: Arrangement,
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return places ``(n, 2)``, um, NaN where there was no room, and the cluster each cell ended in.

    Parameters
    ----------
    radius_um
        ``(n,)``.
    clusters
        Of :func:`cluster_numbers`; a member that finds no room at its cluster lies alone.
    depth, bone
        Of :mod:`wsi_pipeline.simulation.bone`.
    """
    n = len(radius_um)
    if n == 0:
        return np.empty((0, 2)), clusters
    marrow = (depth > 0) & (bone < 0)
    weight = np.where(bone > -PARATRABECULAR_UM, arrangement.paratrabecular, 1.0) * marrow
    darts = _scattered(rng, weight, n * _TRIES).reshape(n, _TRIES, 2)
    places = np.full((n, 2), np.nan)
    ended = clusters.copy()
    _settle(
        places, clusters, ended, radius_um * _ROUGHNESS, darts, rng.random((n, _TRIES)) * 2 * math.pi,
        rng.uniform(*arrangement.cluster_gap_um, (n, _TRIES)), rng.random((n, _TRIES)), depth, bone,
    )  # fmt: skip
    # What is left of a cluster that found no room for a third cell is no cluster.
    sizes = np.bincount(ended[ended >= 0], minlength=1)
    ended[(ended >= 0) & (sizes[np.maximum(ended, 0)] < LEAST_CLUSTER)] = -1
    return places, ended


def place_fat(
    rng: np.random.Generator,
    area_um2: float,
    radius_um: tuple[float, float],
    cell_share: float,
    depth: Distances,
    bone: Distances,
    others: Floats,
) -> Floats:
    """Return fat cells ``(n, 3)``, x, y, radius, um, that cover an area, or as much of it as they find room for.

    Large ones come first, then ever smaller ones, so that the marrow fills.

    Parameters
    ----------
    cell_share
        Share of its disc that a fat cell covers.
    others
        ``(m, 3)``, discs that are taken.
    """
    taken = np.empty((len(others) + int(area_um2 / (math.pi * cell_share * radius_um[0] ** 2)) + 2, 3))
    taken[: len(others)] = others
    end, covered = len(others), 0.0
    weight = ((depth > radius_um[0]) & (bone < -radius_um[0])).astype(np.float64)
    if area_um2 <= 0 or not weight.any():
        return np.empty((0, 3))
    # The largest share of cells is of middle size; the smallest only close gaps.
    for step in range(_FAT_STEPS):
        at = 1 - step / (_FAT_STEPS - 1)
        largest = radius_um[0] + (radius_um[1] - radius_um[0]) * at
        least = radius_um[0] + (radius_um[1] - radius_um[0]) * max(0.0, at - 0.35)
        wanted = area_um2 if step == _FAT_STEPS - 1 else area_um2 * (step + 1) / (_FAT_STEPS - 4)
        darts = _scattered(rng, weight, _FAT_TRIES * max(1, int(weight.sum() * RASTER_UM**2 / 1e6)))
        end, covered = _drop(
            taken, end, darts, rng.uniform(least, largest, len(darts)), depth, bone, covered,
            min(wanted, area_um2), math.pi * cell_share,
        )  # fmt: skip
    return taken[len(others) : end].copy()


def _scattered(rng: np.random.Generator, weight: Floats, n: int) -> Floats:
    """Return ``n`` places, um, where a raster's weights are, each somewhere in its pixel."""
    upto = np.cumsum(weight.ravel())
    if upto[-1] <= 0:
        return np.full((n, 2), -1.0)
    chosen = np.minimum(np.searchsorted(upto, rng.random(n) * upto[-1], side="right"), len(upto) - 1)
    row, column = np.divmod(chosen, weight.shape[1])
    return np.asarray((np.stack([column, row], axis=1) + rng.random((n, 2))) * RASTER_UM)


@numba.njit(cache=True, nogil=True)
def _fits(x: float, y: float, radius: float, depth: np.ndarray, bone: np.ndarray) -> bool:
    """Return whether a disc lies in marrow, clear of bone and of the core's edge."""
    if x < 0 or y < 0:
        return False
    row, column = int(y / RASTER_UM), int(x / RASTER_UM)
    if row >= depth.shape[0] or column >= depth.shape[1]:
        return False
    return depth[row, column] > radius + 2 and bone[row, column] < -(radius + 2)


@numba.njit(cache=True, nogil=True)
def _settle(
    places: np.ndarray,
    clusters: np.ndarray,
    ended: np.ndarray,
    radius: np.ndarray,
    darts: np.ndarray,
    angles: np.ndarray,
    gaps: np.ndarray,
    others: np.ndarray,
    depth: np.ndarray,
    bone: np.ndarray,
) -> None:
    """Give the cells a place each, in turn; a cell of a cluster after its first lies beside a member."""
    begin = 0
    for k in range(len(places)):
        if k == 0 or clusters[k] != clusters[k - 1] or clusters[k] < 0:
            begin = k
        # A member that finds no room beside the others goes elsewhere, alone.
        for alone in range(2):
            joins = alone == 0 and begin < k and not np.isnan(places[begin, 0])
            if alone == 1 and begin < k:
                ended[k] = -1
            for t in range(darts.shape[1]):
                x, y = darts[k, t, 0], darts[k, t, 1]
                if joins:
                    other = begin + min(int(others[k, t] * (k - begin)), k - begin - 1)
                    if ended[other] != ended[k] or np.isnan(places[other, 0]):
                        continue
                    apart = radius[other] + radius[k] + gaps[k, t]
                    x = places[other, 0] + math.cos(angles[k, t]) * apart
                    y = places[other, 1] + math.sin(angles[k, t]) * apart
                if not _fits(x, y, radius[k], depth, bone):
                    continue
                free = True
                for j in range(k):
                    least = radius[j] + radius[k]
                    if (places[j, 0] - x) ** 2 + (places[j, 1] - y) ** 2 < least * least - 1e-9:
                        free = False
                        break
                if free:
                    places[k, 0], places[k, 1] = x, y
                    break
            if not np.isnan(places[k, 0]):
                break


@numba.njit(cache=True, nogil=True)
def _drop(
    taken: np.ndarray,
    end: int,
    darts: np.ndarray,
    radius: np.ndarray,
    depth: np.ndarray,
    bone: np.ndarray,
    covered: float,
    wanted: float,
    area_of_unit: float,
) -> tuple[int, float]:
    """Add discs where there is room until they cover what is wanted; return the new end and what they cover."""
    for k in range(len(darts)):
        if covered >= wanted or end == len(taken):
            break
        x, y, r = darts[k, 0], darts[k, 1], radius[k]
        if not _fits(x, y, r, depth, bone):
            continue
        free = True
        for j in range(end):
            least = taken[j, 2] + r
            if (taken[j, 0] - x) ** 2 + (taken[j, 1] - y) ** 2 < least * least:
                free = False
                break
        if free:
            taken[end, 0], taken[end, 1], taken[end, 2] = x, y, r
            covered += area_of_unit * r * r
            end += 1
    return end, covered
