"""Fat cells of a trephine: pale, round, 20 to 150 um wide and enclosed. Tears, clefts, sinusoids and glass are not."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from skimage.segmentation import watershed

from wsi_pipeline.regions.morphology import Mask, fill_holes

_MIN_UM, _MAX_UM = 20.0, 150.0
_SMOOTH_UM = 3.0
_PEAK_UM = 12.0
_SLIMMEST = 0.45
"""Smallest share of a cell that its largest disc covers: about an ellipse of axes 2:1."""
_ROUNDEST = 64 / np.pi
"""Squared count of border pixel edges over area of a disc, which has 8 edges per pixel of its radius."""
_LEAST_ROUND = 0.4
_LEAST_WALL = 0.6
_MOST_OPEN = 0.15
_SPECK_UM2 = 200.0
_WALL_UM = 3.0

_Labels = npt.NDArray[np.int32]


def find_fat(pale: Mask, membrane: Mask, tissue: Mask, bone: Mask, *, mpp: float) -> Mask:
    """Return where fat cells are.

    Touching cells are parted by a watershed of the distance to stained tissue. A part is fat by its size, by how
    much of it the largest disc inside covers, and by its border: mostly stained tissue that is no bone, the
    rest another such part, hardly glass or bone (a cleft along a trabecula is as wide as a fat cell). This is done
    without membranes and with them: they part cells, but creases of the section look alike and would cut cells.
    Walls up to 6 um between parts count as fat, as they do for an eye.
    """
    fat = np.zeros_like(pale)
    for seen in (pale, pale & ~membrane):
        whole = fill_holes(seen, _SPECK_UM2 / mpp**2, at_edge=True)
        if (whole & tissue).any():
            fat |= _round_parts(whole, tissue, bone, mpp)
    side = 2 * max(1, round(_WALL_UM / mpp)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    joined = cv2.morphologyEx(fat.astype(np.uint8), cv2.MORPH_CLOSE, kernel).astype(bool)
    return np.asarray(fat | (joined & tissue & ~bone))


def _round_parts(pale: Mask, tissue: Mask, bone: Mask, mpp: float) -> Mask:
    inside = pale & tissue
    distance = cv2.distanceTransform(pale.astype(np.uint8), cv2.DIST_L2, 5)
    parts: _Labels = watershed(-distance, _peaks(distance, inside, mpp), mask=inside).astype(np.int32)
    count = int(parts.max()) + 1
    area = np.bincount(parts.ravel(), minlength=count).astype(np.float64)
    radius = np.zeros(count)
    np.maximum.at(radius, parts[inside], distance[inside])
    width = 2 * np.sqrt(area / np.pi) * mpp
    good = (width >= _MIN_UM) & (width <= _MAX_UM) & (np.pi * radius**2 >= _SLIMMEST * area)
    good[0] = False
    wall, kin, opening = _borders(parts, ~(pale | bone), good)
    total = np.maximum(wall + kin + opening, 1)
    good &= _ROUNDEST * area >= _LEAST_ROUND * total**2
    good &= (wall >= _LEAST_WALL * total) & (opening <= _MOST_OPEN * total)
    return np.asarray(good[parts])


def _peaks(distance: npt.NDArray[np.float32], inside: Mask, mpp: float) -> _Labels:
    """Number the centres of what may be cells: maxima of the smoothed distance, 24 um apart or more."""
    smooth = cv2.GaussianBlur(distance, (0, 0), _SMOOTH_UM / mpp)
    side = 2 * max(1, round(_PEAK_UM / mpp)) + 1
    highest = cv2.dilate(smooth, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    peak = (smooth >= highest - 1e-6) & inside & (smooth * mpp >= 0.3 * _MIN_UM)
    _, markers = cv2.connectedComponents(peak.astype(np.uint8), connectivity=8)
    return np.asarray(markers, dtype=np.int32)


def _borders(
    parts: _Labels, stained: Mask, good: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Count pixel edges of every part towards stained tissue, another good part, and anything else."""
    count = len(good)
    wall, kin, opening = (np.zeros(count) for _ in range(3))
    for a, b in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:, 1:], np.s_[:, :-1]),
        (np.s_[:-1], np.s_[1:]),
        (np.s_[1:], np.s_[:-1]),
    ):
        edge = (parts[a] > 0) & (parts[a] != parts[b])
        mine, other = parts[a][edge], parts[b][edge]
        is_wall = stained[b][edge]
        is_kin = ~is_wall & good[other]
        wall += np.bincount(mine[is_wall], minlength=count)
        kin += np.bincount(mine[is_kin], minlength=count)
        opening += np.bincount(mine[~is_wall & ~is_kin], minlength=count)
    return wall, kin, opening
