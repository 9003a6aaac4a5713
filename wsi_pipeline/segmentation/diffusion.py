"""Flows of a mask by heat diffusion from its centre, cell by cell.

The definition is Cellpose's (Stringer et al., Nat. Methods 2021, doi 10.1038/s41592-020-01018-x): heat is
added at the mask pixel nearest the centre of mass and averaged over 3 x 3 neighbours inside the mask; the flow
is the normalised gradient. Two things differ, so that a cell's flow depends on the cell alone: the number of
steps follows the cell's own extent (Cellpose takes the largest mask of the image), and a touching neighbour's
heat does not leak into the gradient.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


@numba.njit(cache=True, nogil=True)
def _centre(mask: np.ndarray) -> tuple[int, int]:
    """Return the pixel of a padded mask nearest its rounded centre of mass; ties go to the first in raster order."""
    total_y, total_x, n = 0, 0, 0
    height, width = mask.shape
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                total_y += y
                total_x += x
                n += 1
    mean_y, mean_x = round(total_y / n), round(total_x / n)
    best, best_y, best_x = -1, 0, 0
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                distance = (y - mean_y) ** 2 + (x - mean_x) ** 2
                if best < 0 or distance < best:
                    best, best_y, best_x = distance, y, x
    return best_y, best_x


@numba.njit(cache=True, nogil=True)
def mask_flow(mask: np.ndarray) -> np.ndarray:
    """Return the flow of one mask.

    Parameters
    ----------
    mask
        ``(h, w)`` booleans, true on the cell, with a margin of at least one false pixel on every side.

    Returns
    -------
    numpy.ndarray
        ``(2, h, w)`` float64, unit vectors (y, x) towards the centre; zero outside the mask.
    """
    height, width = mask.shape
    centre_y, centre_x = _centre(mask)
    heat = np.zeros((height, width), np.float64)
    rows = np.zeros((height, width), np.float64)
    for _ in range(2 * (height - 2 + width - 2 + 2)):
        heat[centre_y, centre_x] += 1.0
        for y in range(height):
            for x in range(1, width - 1):
                rows[y, x] = heat[y, x - 1] + heat[y, x] + heat[y, x + 1]
        for y in range(1, height - 1):
            for x in range(1, width - 1):
                if mask[y, x]:
                    heat[y, x] = (rows[y - 1, x] + rows[y, x] + rows[y + 1, x]) / 9.0
    flow = np.zeros((2, height, width), np.float64)
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            if mask[y, x]:
                dy = heat[y + 1, x] - heat[y - 1, x]
                dx = heat[y, x + 1] - heat[y, x - 1]
                norm = np.sqrt(dy * dy + dx * dx)
                if norm > 0:
                    flow[0, y, x] = dy / norm
                    flow[1, y, x] = dx / norm
    return flow


@numba.njit(cache=True, nogil=True)
def bounding_boxes(labels: np.ndarray, n: int) -> np.ndarray:
    """Return ``(n + 1, 4)`` half-open y0, x0, y1, x1 of labels 0..n; y1 <= y0 where a label is absent."""
    boxes = np.empty((n + 1, 4), np.int64)
    boxes[:, 0] = labels.shape[0]
    boxes[:, 1] = labels.shape[1]
    boxes[:, 2:] = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            k = labels[y, x]
            if k > 0:
                boxes[k, 0] = min(boxes[k, 0], y)
                boxes[k, 1] = min(boxes[k, 1], x)
                boxes[k, 2] = max(boxes[k, 2], y + 1)
                boxes[k, 3] = max(boxes[k, 3], x + 1)
    return boxes


@numba.njit(cache=True, nogil=True)
def _labels_to_flows(labels: np.ndarray, n: int) -> np.ndarray:
    flows = np.zeros((2, *labels.shape), np.float32)
    boxes = bounding_boxes(labels, n)
    for k in range(1, n + 1):
        y0, x0, y1, x1 = boxes[k]
        if y1 <= y0:
            continue
        mask = np.zeros((y1 - y0 + 2, x1 - x0 + 2), np.bool_)
        for y in range(y0, y1):
            for x in range(x0, x1):
                mask[y - y0 + 1, x - x0 + 1] = labels[y, x] == k
        flow = mask_flow(mask)
        for y in range(y0, y1):
            for x in range(x0, x1):
                if labels[y, x] == k:
                    flows[0, y, x] = flow[0, y - y0 + 1, x - x0 + 1]
                    flows[1, y, x] = flow[1, y - y0 + 1, x - x0 + 1]
    return flows


def labels_to_flows(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """Return the flows of every instance of a label image.

    Parameters
    ----------
    labels
        ``(h, w)`` integers, 0 background, 1..n instances.

    Returns
    -------
    numpy.ndarray
        ``(2, h, w)`` float32 unit vectors (y, x), zero on background.
    """
    compact = np.ascontiguousarray(labels, dtype=np.int32)
    return _labels_to_flows(compact, int(compact.max(initial=0)))
