"""Where a core's tissue and its bone lie, as signed distances on a raster: smooth edges at any resolution.

Trabeculae are edges of the Voronoi diagram of scattered nodes, each with a thickness of its own, bent by a smooth
displacement. That gives plates that meet in threes and marrow spaces between them: a drawing, not a model of bone.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial import Voronoi

from wsi_pipeline.simulation.core_profile import Bone
from wsi_pipeline.simulation.noise import keyed_generator, smooth_noise
from wsi_pipeline.units import FloatArray

RASTER_UM = 2.0
FAR_UM = 400.0
"""Distances are kept up to this."""

_PURPOSE_EDGE, _PURPOSE_BEND, _PURPOSE_NODES, _PURPOSE_CORTEX = 401, 402, 410, 411
_EDGE_UM, _BEND_UM, _ROUND_UM = 18.0, 28.0, 8.0

Distances = npt.NDArray[np.float32]
"""``(h, w)``, um, positive inside; pixel (i, j) is at ``((j + 0.5), (i + 0.5)) * RASTER_UM``."""


def raster_axis(length_um: float) -> FloatArray:
    """Return the places of the raster's pixels along a side."""
    return (np.arange(int(np.ceil(length_um / RASTER_UM))) + 0.5) * RASTER_UM


def core_depth(width_um: float, height_um: float, margin_um: float, seed: int) -> Distances:
    """Return the depth below the edge of the core, which is a rectangle with a ragged edge; glass is negative."""
    x, y = raster_axis(width_um), raster_axis(height_um)
    if margin_um == 0:
        return np.full((len(y), len(x)), FAR_UM, dtype=np.float32)
    ragged = smooth_noise(seed, _PURPOSE_EDGE, x, y, 170.0) + 0.4 * smooth_noise(seed, _PURPOSE_EDGE + 1, x, y, 45.0)
    across, down = np.minimum(x, width_um - x)[None, :], np.minimum(y, height_um - y)[:, None]
    depth = np.minimum(across, down) - margin_um - _EDGE_UM * ragged
    return np.clip(depth, -FAR_UM, FAR_UM).astype(np.float32)


def bone_depth(depth: Distances, bone: Bone, seed: int) -> Distances:
    """Return the depth below the surface of bone of a core of some :func:`core_depth`; marrow is negative.

    Trabeculae are added until they take their share of the core.
    """
    height, width = depth.shape
    x, y = (np.arange(width) + 0.5) * RASTER_UM, (np.arange(height) + 0.5) * RASTER_UM
    found = np.full(depth.shape, -FAR_UM, dtype=np.float32)
    if bone.cortex_um > 0:
        inner = np.flatnonzero((depth > 0).any(axis=1))
        edge = (inner[0] * RASTER_UM if len(inner) else 0.0) + bone.cortex_um
        wave = 35.0 * smooth_noise(seed, _PURPOSE_CORTEX, x, y, 300.0)
        found = np.clip(edge + wave - y[:, None], -FAR_UM, FAR_UM).astype(np.float32)
    wanted = bone.share * float(((depth > 0) & (found <= 0)).sum())
    taken = np.zeros(depth.shape, bool)
    free = (depth > 0) & (found <= 0)
    if wanted > 0:
        bend = [_BEND_UM * smooth_noise(seed, _PURPOSE_BEND + i, x, y, 240.0) for i in range(2)]
        bent = (x[None, :] + bend[0], y[:, None] + bend[1])
        for start, end, thickness in _edges(width * RASTER_UM, height * RASTER_UM, bone, seed):
            if float((taken & free).sum()) >= wanted:
                break
            window = _window(start, end, 0.5 * thickness + FAR_UM, depth.shape)
            plate = 0.5 * thickness - _from_segment(bent[0][window], bent[1][window], start, end)
            found[window] = np.maximum(found[window], plate)
            taken[window] |= plate > 0
    smooth = cv2.GaussianBlur(found, (0, 0), _ROUND_UM / RASTER_UM)
    return np.asarray(np.clip(smooth, -FAR_UM, FAR_UM), dtype=np.float32)


def _edges(
    width_um: float, height_um: float, bone: Bone, seed: int
) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]]:
    """Return the edges of the network, both ends and a thickness each, in random order."""
    rng = keyed_generator(seed, _PURPOSE_NODES, 0, 0)
    step = bone.spacing_um
    columns = np.arange(-2, int(width_um / step) + 4)
    rows = np.arange(-2, int(height_um / step) + 4)
    nodes = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 2).astype(np.float64)
    nodes[:, 0] += 0.5 * (nodes[:, 1] % 2)
    nodes = (nodes + rng.uniform(-0.32, 0.32, nodes.shape) - rng.random(2)) * step
    diagram = Voronoi(nodes)
    lines = [pair for pair in diagram.ridge_vertices if -1 not in pair]
    order = rng.permutation(len(lines))
    thickness = rng.uniform(*bone.thickness_um, len(lines))
    return [(diagram.vertices[lines[i][0]], diagram.vertices[lines[i][1]], float(thickness[i])) for i in order]


def _window(
    start: npt.NDArray[np.float64], end: npt.NDArray[np.float64], reach: float, shape: tuple[int, ...]
) -> tuple[slice, slice]:
    low = np.floor((np.minimum(start, end) - reach) / RASTER_UM).astype(int)
    high = np.ceil((np.maximum(start, end) + reach) / RASTER_UM).astype(int)
    return (
        slice(min(max(low[1], 0), shape[0]), min(max(high[1], 0), shape[0])),
        slice(min(max(low[0], 0), shape[1]), min(max(high[0], 0), shape[1])),
    )


def _from_segment(
    x: FloatArray, y: FloatArray, start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    along = end - start
    length = float(along @ along) or 1.0
    t = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / length, 0, 1)
    return np.hypot(x - start[0] - t * along[0], y - start[1] - t * along[1]).astype(np.float32)
