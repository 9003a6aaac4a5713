"""Morphology of the cells of a label image: shape, nucleus, cytoplasm, texture and pallor, in one compiled pass.

What each column is stands in :data:`wsi_pipeline.cells.features.FEATURES` and ``docs/morphology.md``. All lengths are
in microns, so figures of one cell agree between resolutions as far as pixels allow.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.cells.features import (
    CHROMATIN_UM,
    CONCAVITY_UM,
    DEFECT_UM,
    EDGE_UM,
    GRANULE_UM,
    LOBE_UM,
    NAMES,
    PAIR_UM,
)
from wsi_pipeline.cells.interior import PALLOR_BINS, count_peaks, distance, pale_part, pallor, ring_densities
from wsi_pipeline.cells.shape import CROFTON_WEIGHTS, HARMONICS, fourier_descriptors, hull_defects, mask_shape
from wsi_pipeline.cells.texture import GREY_LEVELS, cooccurrence, gaussian_kernel, pair_offsets, spot_energy
from wsi_pipeline.errors import DataError
from wsi_pipeline.segmentation.outlines import trace_rings

STAINS = np.array([[0.834750233, 0.513556283, 0.196330403], [0.092789, 0.954111, 0.283111]])
"""Relative densities in red, green and blue of methylene blue (for the azures) and of eosin."""

_UNMIX = np.linalg.pinv(STAINS)
_SHAPE, _NUCLEUS = NAMES.index("area_um2"), NAMES.index("nucleus_area_um2")
_NUCLEUS_GLCM, _CYTOPLASM = NAMES.index("nucleus_glcm_contrast"), NAMES.index("cytoplasm_azure")
_CELL, _CELL_GLCM = NAMES.index("cell_od_red"), NAMES.index("cell_glcm_contrast")
_PALLOR = NAMES.index("pallor_area_share")


def measure_morphology(
    labels: npt.NDArray[np.int32],
    pixels: npt.NDArray[np.uint8],
    *,
    mpp: float,
    background: npt.ArrayLike = (255, 255, 255),
    nucleus: npt.NDArray[np.bool_] | None = None,
    boxes: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the features of labels 1..n, a row a label and a column a feature, in the order of ``FEATURES``.

    Nuclear features are NaN for cells without a nuclear pixel, cytoplasmic ones for cells without any other pixel,
    the co-occurrence where no two pixels lie at its distance, spots where no pixel is deeper than the edge, and all
    for labels without a pixel. The pallor means nothing where there is a nucleus. A mask at the image's edge is
    measured as it is.

    Parameters
    ----------
    labels
        ``(h, w)`` int32, 0 outside cells.
    pixels
        ``(h, w, 3)`` uint8 RGB.
    mpp
        Microns per pixel, both ways.
    background
        ``(3,)`` colour of the empty slide, 1 to 255.
    nucleus
        ``(h, w)`` bool, where the nuclear stain is; outside of cells it is ignored. None: no cell has a nucleus.
    boxes
        ``(n, 4)`` int64 y0, x0, y1, x1, half-open: where each label lies. Found from the labels when None.

    Returns
    -------
    numpy.ndarray
        ``(n, len(FEATURES))`` float32.

    Raises
    ------
    DataError
        For arrays of other shapes or types, or an ``mpp`` or background out of range.
    """
    labels, pixels = np.ascontiguousarray(labels), np.ascontiguousarray(pixels)
    if labels.ndim != 2 or labels.dtype != np.int32:
        raise DataError(f"labels must be (h, w) int32, got {labels.shape} {labels.dtype}")
    if pixels.shape != (*labels.shape, 3) or pixels.dtype != np.uint8:
        raise DataError(f"pixels must be {(*labels.shape, 3)} uint8 as the labels, got {pixels.shape} {pixels.dtype}")
    nuclear = np.zeros(labels.shape, np.bool_) if nucleus is None else np.ascontiguousarray(nucleus)
    if nuclear.shape != labels.shape or nuclear.dtype != np.bool_:
        raise DataError(f"nucleus must be {labels.shape} bool as the labels, got {nuclear.shape} {nuclear.dtype}")
    if not (math.isfinite(mpp) and mpp > 0):
        raise DataError(f"mpp must be a positive number of microns per pixel, got {mpp}")
    light = np.asarray(background, np.float64)
    if light.shape != (3,) or not ((light >= 1) & (light <= 255)).all():
        raise DataError(f"background must be three values from 1 to 255, got {background!r}")
    if boxes is None:
        boxes = label_boxes(labels)
    boxes = np.ascontiguousarray(boxes, np.int64)
    height, width = labels.shape
    if boxes.ndim != 2 or boxes.shape[1] != 4 or (boxes < 0).any() or (boxes > [height, width] * 2).any():
        raise DataError(f"boxes must be (n, 4) y0, x0, y1, x1 within {height} x {width} pixels, got {boxes.shape}")
    if not len(boxes):
        return np.empty((0, len(NAMES)), np.float32)
    density = (-np.log10(np.maximum(np.arange(256), 1)[None, :] / light[:, None])).astype(np.float32)
    kernels = [gaussian_kernel(sigma / mpp).astype(np.float32) for sigma in (*GRANULE_UM, *CHROMATIN_UM)]
    points, ends, owners = trace_rings(labels, boxes)
    table = np.full((len(boxes), len(NAMES)), np.nan)
    _measure_outlines(points, ends, owners, mpp, table)
    _measure_masks(
        labels, boxes, pixels, nuclear, density, mpp, pair_offsets(PAIR_UM / mpp), (*kernels,), _UNMIX,
        CROFTON_WEIGHTS, table,
    )  # fmt: skip
    return table.astype(np.float32)


@numba.njit(cache=True, nogil=True)
def label_boxes(labels: np.ndarray) -> np.ndarray:
    """Return ``(n, 4)`` y0, x0, y1, x1 (half-open) of labels 1 to the largest; zeros for a label without a pixel."""
    height, width = labels.shape
    n = labels.max() if labels.size else 0
    boxes = np.zeros((n, 4), np.int64)
    for y in range(height):
        for x in range(width):
            k = labels[y, x] - 1
            if k < 0:
                continue
            if boxes[k, 2] == 0:
                boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = y, x, y + 1, x + 1
            else:
                boxes[k, 1] = min(boxes[k, 1], x)
                boxes[k, 2] = y + 1
                boxes[k, 3] = max(boxes[k, 3], x + 1)
    return boxes


@numba.njit(cache=True, nogil=True)
def _measure_outlines(points: np.ndarray, ends: np.ndarray, owners: np.ndarray, mpp: float, table: np.ndarray) -> None:
    """Fill in what needs the outline, of the longest ring of each label."""
    longest = np.zeros(len(table), np.int64)
    for r in range(len(ends)):
        first = ends[r - 1] if r else 0
        k = owners[r]
        if ends[r] - first <= longest[k]:
            continue
        longest[k] = ends[r] - first
        ring = points[first : ends[r]]
        count, depth = hull_defects(ring, max(DEFECT_UM / mpp, 1.0))
        table[k, _SHAPE + 8], table[k, _SHAPE + 9] = count, depth * mpp
        table[k, _SHAPE + 10 : _SHAPE + 9 + HARMONICS] = fourier_descriptors(ring)


@numba.njit(cache=True, nogil=True)
def _concavities(mask: np.ndarray, least: float) -> int:
    """Return how many concavities the outer outlines of a mask have that are at least ``least`` pixels deep."""
    points, ends, _ = trace_rings(mask.astype(np.int32), np.array([[0, 0, mask.shape[0], mask.shape[1]]]))
    total = 0
    for r in range(len(ends)):
        ring = points[(ends[r - 1] if r else 0) : ends[r]]
        twice = 0.0
        for p in range(len(ring)):
            q = (p + 1) % len(ring)
            twice += ring[p, 0] * ring[q, 1] - ring[q, 0] * ring[p, 1]
        if twice > 0:  # clockwise on screen; holes are not
            total += hull_defects(ring, least)[0]
    return total


@numba.njit(cache=True, nogil=True)
def _moments(values: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation of the values in a mask."""
    n, mean, spread = 0, 0.0, 0.0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                n += 1
                step = values[y, x] - mean
                mean += step / n
                spread += step * (values[y, x] - mean)
    return mean, math.sqrt(spread / n)


@numba.njit(cache=True, nogil=True)
def _spots(values: np.ndarray, depth: np.ndarray, edge: float, fine: np.ndarray, coarse: np.ndarray) -> float:
    """Return the spot energy of the pixels deeper than the blurred edge; NaN without any."""
    core = depth > edge
    return spot_energy(values, core, fine, coarse) if core.any() else np.nan


@numba.njit(cache=True, nogil=True)
def _form(area: float, perimeter: float) -> float:
    return min(1.0, 4 * math.pi * area / perimeter**2)


@numba.njit(cache=True, nogil=True)
def _measure_masks(
    labels: np.ndarray, boxes: np.ndarray, pixels: np.ndarray, nuclear: np.ndarray, density: np.ndarray, mpp: float,
    offsets: np.ndarray, kernels: tuple[np.ndarray, ...], unmix: np.ndarray, weights: np.ndarray, table: np.ndarray,
) -> None:  # fmt: skip
    """Fill in everything else, one cell after the other."""
    edge = EDGE_UM / mpp + 0.5  # distances are to the middle of the nearest pixel outside
    for k in range(len(boxes)):
        y0, x0, y1, x1 = boxes[k]
        height, width = y1 - y0, x1 - x0
        cell = np.zeros((height, width), np.bool_)
        inner = np.zeros((height, width), np.bool_)
        outer = np.zeros((height, width), np.bool_)
        green = np.zeros((height, width), np.float32)
        mean = np.zeros((height, width), np.float32)
        levels = np.zeros((height, width), np.uint8)
        total, around = np.zeros(3), np.zeros(3)
        n = n_inner = 0
        for y in range(height):
            for x in range(width):
                if labels[y0 + y, x0 + x] != k + 1:
                    continue
                cell[y, x] = True
                n += 1
                r, g, b = pixels[y0 + y, x0 + x]
                levels[y, x] = (299 * int(r) + 587 * int(g) + 114 * int(b) + 500) // 1000 * GREY_LEVELS // 256
                od = (density[0, r], density[1, g], density[2, b])
                green[y, x] = od[1]
                mean[y, x] = (od[0] + od[1] + od[2]) / 3
                is_inner = nuclear[y0 + y, x0 + x]
                inner[y, x] = is_inner
                outer[y, x] = not is_inner
                n_inner += is_inner
                for c in range(3):
                    total[c] += od[c]
                    if not is_inner:
                        around[c] += od[c]
        if n == 0:
            continue
        row = table[k]
        area, perimeter, major, minor, hull, hull_length = mask_shape(cell, weights)
        row[_SHAPE] = area * mpp**2
        row[_SHAPE + 1] = perimeter * mpp
        row[_SHAPE + 2] = 2 * math.sqrt(area / math.pi) * mpp
        row[_SHAPE + 3] = minor / major
        row[_SHAPE + 4] = math.sqrt(max(0.0, 1 - (minor / major) ** 2))
        row[_SHAPE + 5] = _form(area, perimeter)
        row[_SHAPE + 6] = area / hull
        row[_SHAPE + 7] = min(1.0, hull_length / perimeter)
        for c in range(3):
            row[_CELL + c] = total[c] / n
        row[_CELL_GLCM : _CELL_GLCM + 5] = cooccurrence(levels, cell, offsets)
        if n_inner:
            area, perimeter, major, minor, hull, hull_length = mask_shape(inner, weights)
            row[_NUCLEUS] = area * mpp**2
            row[_NUCLEUS + 1] = area / n
            depth = distance(inner)
            row[_NUCLEUS + 2] = count_peaks(depth, max(LOBE_UM / mpp, 0.75))
            row[_NUCLEUS + 3] = math.sqrt(max(0.0, 1 - (minor / major) ** 2))
            row[_NUCLEUS + 4] = area / hull
            row[_NUCLEUS + 5] = _form(area, perimeter)
            row[_NUCLEUS + 6] = _concavities(inner, max(CONCAVITY_UM / mpp, 1.5))
            row[_NUCLEUS + 7], row[_NUCLEUS + 8] = _moments(mean, inner)
            row[_NUCLEUS + 9] = _spots(mean, depth, edge, kernels[2], kernels[3])
            row[_NUCLEUS_GLCM : _NUCLEUS_GLCM + 5] = cooccurrence(levels, inner, offsets)
        depth = distance(cell)
        row[_PALLOR], row[_PALLOR + 1] = pallor(green, depth)
        row[_PALLOR + 2 : _PALLOR + 2 + PALLOR_BINS] = ring_densities(green, depth)
        row[_PALLOR + 2 + PALLOR_BINS], row[_PALLOR + 3 + PALLOR_BINS] = pale_part(green, depth)
        if n_inner < n:
            for c in range(2):
                row[_CYTOPLASM + c] = (around[0] * unmix[0, c] + around[1] * unmix[1, c] + around[2] * unmix[2, c]) / (
                    n - n_inner
                )
            row[_CYTOPLASM + 2] = _moments(mean, outer)[1]
            row[_CYTOPLASM + 3] = _spots(mean, distance(outer), edge, kernels[0], kernels[1])
