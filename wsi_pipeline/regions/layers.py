"""Whether red cells lie apart, in one layer or over one another, from the densities measured in squares.

Densities add (Beer-Lambert): where two red cells lie over one another, the light meets twice what one absorbs. Each
window of three by three squares is its own reference, so that neither stain nor light need be even over the slide: over
single red cells the densest tenth (the rim) is 1.2 to 1.42 times the median (quartiles over fields of ``bccd`` and
``rbc-morphology``), and hardly a pixel exceeds ``DOUBLED`` times that. Cells that lie over one another raise the
densest tenth more than the median, which is why the rim is taken to be no more than 1.4 medians.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from wsi_pipeline.regions.squares import OD_BINS, OD_STEP, Squares

DOUBLED = 1.35
_RIM_TO_MEDIAN = 1.4
_LEAST_VALID = 0.25
_LEAST_COVERED = 0.02
_THIN_LIMITS = (0.05, 0.20)
_COUNTED_COVER = (0.08, 0.75)
_BASELINE_PERCENT = 20
_MAX_BASELINE = 0.02
_LEAST_SINGLE_LAYER = 0.05
_BAND_ROWS = 256

Values = npt.NDArray[np.float64]


class Layers(NamedTuple):
    """How red cells lie in the window around each square, ``(rows, columns)``.

    Attributes
    ----------
    cover
        Share of the area they cover; NaN where nuclei leave too little to see.
    overlap
        Share of the covered area that is doubled.
    """

    cover: Values
    overlap: Values


class Usual(NamedTuple):
    """What the slide's own monolayer is like.

    Attributes
    ----------
    cover
        Its median cover; None when the slide has no monolayer.
    overlap
        What is taken for doubled where cells lie in one layer.
    least_cover
        Below this cover the film is too thin.
    """

    cover: float | None
    overlap: float
    least_cover: float


def measure_layers(squares: Squares) -> Layers:
    """Return cover and overlap over windows of three by three squares."""
    valid, covered = window_sum(squares.valid), window_sum(squares.covered)
    number = window_sum(squares.measured.astype(float))
    with np.errstate(divide="ignore", invalid="ignore"):
        cover = np.where((valid >= _LEAST_VALID * number) & squares.measured, covered / valid, np.nan)
    overlap = np.zeros(cover.shape)
    rows = cover.shape[0]
    # In bands, since the windows' histograms are wider than the squares'.
    for start in range(0, rows, _BAND_ROWS):
        low, high = max(0, start - 1), min(rows, start + _BAND_ROWS + 1)
        part = _overlap(squares.densities[low:high])
        overlap[start : start + _BAND_ROWS] = part[start - low : start - low + _BAND_ROWS]
    return Layers(cover=cover, overlap=np.where(covered > _LEAST_COVERED * valid, overlap, 0.0))


def usual_layers(layers: Layers, *, max_overlap: float, thin_share: float) -> Usual:
    """Return what the slide's own monolayer is like; see :class:`~wsi_pipeline.config.RegionsConfig`."""
    counted = (layers.cover >= _COUNTED_COVER[0]) & (layers.cover <= _COUNTED_COVER[1])
    if not counted.any():
        return Usual(cover=None, overlap=_MAX_BASELINE, least_cover=_THIN_LIMITS[0])
    baseline = min(float(np.percentile(layers.overlap[counted], _BASELINE_PERCENT)), _MAX_BASELINE)
    single = counted & (layers.overlap <= baseline + max_overlap)
    if single.sum() < _LEAST_SINGLE_LAYER * counted.sum():
        return Usual(cover=None, overlap=baseline, least_cover=_THIN_LIMITS[0])
    cover = float(np.median(layers.cover[single]))
    return Usual(cover=cover, overlap=baseline, least_cover=float(np.clip(thin_share * cover, *_THIN_LIMITS)))


def window_sum(values: Values) -> Values:
    """Return sums over windows of three by three squares; beyond the lattice is nothing."""
    return np.asarray(cv2.boxFilter(values, cv2.CV_64F, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT))


def _overlap(densities: npt.NDArray[np.uint16]) -> Values:
    """Return the share of covered pixels that are doubled, from histograms ``(rows, columns, OD_BINS)``."""
    windows = np.empty(densities.shape)
    for level in range(OD_BINS):
        windows[..., level] = window_sum(densities[..., level].astype(np.float64))
    below = np.cumsum(windows, axis=2)
    total = below[..., -1]
    rim = np.minimum(_quantile(below, 0.9), _RIM_TO_MEDIAN * _quantile(below, 0.5))
    place = np.clip(DOUBLED * rim / OD_STEP, 0, OD_BINS - 1e-6)
    index = place.astype(int)
    padded = np.concatenate([np.zeros((*total.shape, 1)), below], axis=2)
    lower = np.take_along_axis(padded, index[..., None], axis=2)[..., 0]
    upper = np.take_along_axis(padded, index[..., None] + 1, axis=2)[..., 0]
    up_to = lower + (place - index) * (upper - lower)
    return np.asarray(np.where(total > 0, 1 - up_to / np.maximum(total, 1), 0.0))


def _quantile(below: Values, share: float) -> Values:
    """Return a quantile in optical density of cumulative histograms."""
    wanted = share * below[..., -1:]
    index = np.minimum((below < wanted).sum(axis=2, keepdims=True), OD_BINS - 1)
    upper = np.take_along_axis(below, index, axis=2)
    lower = np.where(index > 0, np.take_along_axis(below, np.maximum(index - 1, 0), axis=2), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.where(upper > lower, (wanted - lower) / (upper - lower), 0.0)
    return np.asarray((index + within)[..., 0] * OD_STEP)
