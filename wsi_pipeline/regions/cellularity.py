"""Cellularity of a trephine from areas of marrow spaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.evidence import Bytes
from wsi_pipeline.regions.morphology import Mask
from wsi_pipeline.regions.tissue_classes import Tissue

BLOCK_UM = 1000.0
"""Side of the squares that a marrow space is cut into, about one intertrabecular space."""
_SMALL_SPACE_MM2 = 0.05
_LEAST_SPACES = 5
_DRAWS = 2000
_SEED = 20080

Areas = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Cellularity:
    """Haematopoietic area over haematopoietic and fat area, in percent, with a 95 % interval.

    Attributes
    ----------
    percent, lower, upper
        0 to 100; None where ``reason`` says why.
    n_spaces
        Marrow spaces, those longer than 1 mm in squares of 1 mm; what the interval was drawn over.
    area_mm2
        Haematopoietic and fat area it was measured on.
    reason
        None, or the code of what is missing.
    """

    percent: float | None
    lower: float | None
    upper: float | None
    n_spaces: int
    area_mm2: float
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in vars(self).items()}


def space_areas(classes: Bytes, left_out: Mask, *, mpp: float, origin_um: tuple[float, float]) -> Areas:
    """Return haematopoietic and fat area of every marrow space, mm2, float64 of shape (n, 2).

    A space is marrow that hangs together between bone, cut along squares of 1 mm that are fixed to the slide.

    Parameters
    ----------
    classes
        Codes of :class:`~wsi_pipeline.regions.tissue_classes.Tissue`, uint8 of shape (h, w).
    left_out
        Marrow that is not counted, the subcortical rim.
    mpp
        Microns per pixel.
    origin_um
        Place of the picture's corner on the slide, x and y.
    """
    counted = ((classes == Tissue.MARROW) | (classes == Tissue.FAT)) & ~left_out
    if not counted.any():
        return np.zeros((0, 2))
    joined = counted | (classes == Tissue.SPACE) | (classes == Tissue.OTHER)
    _, labels = cv2.connectedComponents(joined.astype(np.uint8), connectivity=8)
    height, width = classes.shape
    rows = ((origin_um[1] + np.arange(height) * mpp) // BLOCK_UM).astype(np.int64)
    columns = ((origin_um[0] + np.arange(width) * mpp) // BLOCK_UM).astype(np.int64)
    n_columns = int(columns[-1] - columns[0]) + 1
    blocks = (rows - rows[0])[:, None] * n_columns + (columns - columns[0])[None, :]
    n_blocks = (int(rows[-1] - rows[0]) + 1) * n_columns
    keys = labels[counted].astype(np.int64) * n_blocks + blocks[counted]
    _, unit = np.unique(keys, return_inverse=True)
    fat = classes[counted] == Tissue.FAT
    sizes = [np.bincount(unit[chosen], minlength=unit.max() + 1) for chosen in (~fat, fat)]
    return np.stack(sizes, axis=1).astype(np.float64) * (mpp * mpp * 1e-6)


def estimate(areas: Areas, *, min_mm2: float) -> Cellularity:
    """Estimate cellularity from the spaces of a slide, as :func:`space_areas` gives them.

    The interval is the percentile bootstrap over spaces (Efron and Tibshirani 1993): it says how evenly the marrow
    is filled where it was sampled, not how well classes were told apart. Spaces under 0.05 mm2 count as one
    together. Under five spaces there is no interval, and under ``min_mm2`` no cellularity.
    """
    total = float(areas.sum())
    big = areas[areas.sum(axis=1) >= _SMALL_SPACE_MM2]
    small = areas[areas.sum(axis=1) < _SMALL_SPACE_MM2].sum(axis=0, keepdims=True)
    nothing = Cellularity(percent=None, lower=None, upper=None, n_spaces=len(big), area_mm2=total, reason=None)
    if total < max(min_mm2, 1e-9):
        return Cellularity(**{**vars(nothing), "reason": "too-little-marrow"})
    percent = 100 * float(areas[:, 0].sum()) / total
    if len(big) < _LEAST_SPACES:
        return Cellularity(**{**vars(nothing), "percent": percent, "reason": "too-few-marrow-spaces"})
    units = np.concatenate([big, small]) if small.sum() > 0 else big
    rng = np.random.default_rng(_SEED)
    drawn = units[rng.integers(0, len(units), (_DRAWS, len(units)))].sum(axis=1)
    shares = 100 * drawn[:, 0] / np.maximum(drawn.sum(axis=1), 1e-12)
    lower, upper = np.percentile(shares, (2.5, 97.5))
    return Cellularity(**{**vars(nothing), "percent": percent, "lower": float(lower), "upper": float(upper)})
