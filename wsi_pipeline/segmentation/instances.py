"""From labels to cells: what each seed of a core owns, checked, filled and summed, one cell at a time.

Every step looks at the cell's own pixels only. Sums are integers, so their order does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from wsi_pipeline.segmentation.diffusion import bounding_boxes, mask_flow
from wsi_pipeline.segmentation.dynamics import Seeds
from wsi_pipeline.units import Box


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Cells owned by a core, in seed order.

    Attributes
    ----------
    labels
        ``(h, w)`` int32 over the window: 1..n for the owned cells, 0 elsewhere.
    boxes
        ``(n, 4)`` int64 y0, x0, y1, x1 in the window, half-open.
    seed_y, seed_x
        ``(n,)`` int64 in the window.
    area_px
        ``(n,)`` int64.
    flow_error
        ``(n,)`` float64.
    sums
        ``(n, c)`` int64 sums over the cell of the layers given.
    moments
        ``(n, 5)`` int64 sums of y, x, yy, xx, xy relative to the seed.
    too_large
        ``(n,)`` bool: reaches the largest diameter, so part of it may be missing.
    """

    labels: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.int64]
    seed_y: npt.NDArray[np.int64]
    seed_x: npt.NDArray[np.int64]
    area_px: npt.NDArray[np.int64]
    flow_error: npt.NDArray[np.float64]
    sums: npt.NDArray[np.int64]
    moments: npt.NDArray[np.int64]
    too_large: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.area_px)


@numba.njit(cache=True, nogil=True)
def flood(mask: np.ndarray, y: int, x: int) -> np.ndarray:
    """Return the 4-connected component of ``mask`` at a true pixel."""
    height, width = mask.shape
    reached = np.zeros((height, width), np.bool_)
    reached[y, x] = True
    stack = [(y, x)]
    while len(stack) > 0:
        v, u = stack.pop()
        for dv, du in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            q, p = v + dv, u + du
            if 0 <= q < height and 0 <= p < width and mask[q, p] and not reached[q, p]:
                reached[q, p] = True
                stack.append((q, p))
    return reached


@numba.njit(cache=True, nogil=True)
def _component_at(mask: np.ndarray, seed_y: int, seed_x: int) -> np.ndarray:
    """Return the component at the seed, or at the mask pixel nearest to it (first in raster order on a tie)."""
    height, width = mask.shape
    best, best_y, best_x = -1, 0, 0
    for y in range(height):
        for x in range(width):
            if mask[y, x]:
                distance = (y - seed_y) ** 2 + (x - seed_x) ** 2
                if best < 0 or distance < best:
                    best, best_y, best_x = distance, y, x
    return flood(mask, best_y, best_x)


@numba.njit(cache=True, nogil=True)
def _fill_holes(mask: np.ndarray, background: np.ndarray) -> None:
    """Fill, in place, holes of a mask with a margin that consist of background only."""
    outside = flood(~mask, 0, 0)
    hole = ~mask & ~outside
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if hole[y, x]:
                part = flood(hole, y, x)
                fill = True
                for v in range(mask.shape[0]):
                    for u in range(mask.shape[1]):
                        if part[v, u]:
                            hole[v, u] = False
                            if not background[v, u]:
                                fill = False
                if fill:
                    mask |= part


@numba.njit(cache=True, nogil=True)
def _flow_error(mask: np.ndarray, flow: np.ndarray, y0: int, x0: int) -> float:
    """Return the mean squared difference between the mask's own flow and the network's, summed row by row."""
    own = mask_flow(mask)
    total, n = 0.0, 0
    for y in range(mask.shape[0]):
        row = 0.0
        for x in range(mask.shape[1]):
            if mask[y, x]:
                dy = own[0, y, x] - np.float64(flow[0, y0 + y, x0 + x])
                dx = own[1, y, x] - np.float64(flow[1, y0 + y, x0 + x])
                row += dy * dy + dx * dx
                n += 1
        total += row
    return total / n


@numba.njit(cache=True, nogil=True)
def _tight(mask: np.ndarray) -> tuple[int, int, int, int]:
    y0, x0, y1, x1 = mask.shape[0], mask.shape[1], 0, 0
    for y in range(mask.shape[0]):
        for x in range(mask.shape[1]):
            if mask[y, x]:
                y0, x0 = min(y0, y), min(x0, x)
                y1, x1 = max(y1, y + 1), max(x1, x + 1)
    return y0, x0, y1, x1


@numba.njit(cache=True, nogil=True)
def _extract(
    labels: np.ndarray,
    owned: np.ndarray,
    seeds: np.ndarray,
    flow: np.ndarray,
    foreground: np.ndarray,
    layers: np.ndarray,
    flow_threshold: float,
    min_area_px: int,
    reach: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n = len(owned)
    all_boxes = bounding_boxes(labels, len(seeds))
    out = np.zeros(labels.shape, np.int32)
    keep = np.zeros(n, np.bool_)
    boxes = np.zeros((n, 4), np.int64)
    error = np.zeros(n, np.float64)
    sums = np.zeros((n, layers.shape[0]), np.int64)
    moments = np.zeros((n, 5), np.int64)
    large = np.zeros(n, np.bool_)
    label = 0
    for i in range(n):
        k = owned[i] + 1
        y0, x0, y1, x1 = all_boxes[k]
        if y1 <= y0:
            continue
        sy, sx = seeds[owned[i]]
        part = _component_at(labels[y0:y1, x0:x1] == k, sy - y0, sx - x0)
        a, b, c, d = _tight(part)
        mask = np.zeros((c - a + 2, d - b + 2), np.bool_)
        mask[1:-1, 1:-1] = part[a:c, b:d]
        top, left = y0 + a - 1, x0 + b - 1
        error[i] = _flow_error(mask, flow, top, left)
        if flow_threshold > 0 and error[i] > flow_threshold:
            continue
        inner = mask[1:-1, 1:-1].copy()
        background = np.ones(mask.shape, np.bool_)
        background[1:-1, 1:-1] = ~foreground[top + 1 : top + 1 + inner.shape[0], left + 1 : left + 1 + inner.shape[1]]
        _fill_holes(mask, background)
        area = 0
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                area += mask[y, x]
        if area < min_area_px:
            continue
        label += 1
        keep[i] = True
        boxes[i] = (top + 1, left + 1, top + mask.shape[0] - 1, left + mask.shape[1] - 1)
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                if not mask[y, x]:
                    continue
                gy, gx = top + y, left + x
                out[gy, gx] = label
                ry, rx = gy - sy, gx - sx
                moments[i, 0] += ry
                moments[i, 1] += rx
                moments[i, 2] += ry * ry
                moments[i, 3] += rx * rx
                moments[i, 4] += ry * rx
                for layer in range(layers.shape[0]):
                    sums[i, layer] += layers[layer, gy, gx]
                if abs(ry) >= reach - 1 or abs(rx) >= reach - 1:
                    large[i] = True
    return out, keep, boxes, error, sums, moments, large


def extract_instances(
    labels: npt.NDArray[np.int32],
    seeds: Seeds,
    *,
    core: Box,
    flow: npt.NDArray[np.float32],
    foreground: npt.NDArray[np.bool_],
    layers: npt.NDArray[np.uint8],
    flow_threshold: float,
    min_area_px: int,
    max_cell_diameter_px: int,
) -> Instances:
    """Return the cells whose seed lies in the core.

    Parameters
    ----------
    labels, seeds
        As :func:`flows_to_labels` returns them.
    core
        Half-open box in window pixels; its seeds own their cells.
    flow
        ``(2, h, w)`` float32 unit flow of the network (y, x).
    foreground
        ``(h, w)`` pixels above the cell-probability threshold; a hole is filled only where all of it is below.
    layers
        ``(c, h, w)`` uint8 layers to sum over each cell.
    flow_threshold
        Cells whose mean squared flow error is larger are dropped; 0 keeps all.
    min_area_px
        Smaller cells are dropped.
    max_cell_diameter_px
        Cells that reach half of it from their seed are marked ``too_large``.
    """
    inside = (seeds.y >= core.y0) & (seeds.y < core.y1) & (seeds.x >= core.x0) & (seeds.x < core.x1)
    owned = np.flatnonzero(inside)
    owned = owned[np.lexsort((seeds.x[owned], seeds.y[owned]))]
    places = np.stack([seeds.y, seeds.x], axis=1)
    out, keep, boxes, error, sums, moments, large = _extract(
        labels, owned, places, flow, foreground, layers, flow_threshold, min_area_px, max_cell_diameter_px // 2
    )
    kept = owned[keep]
    area = np.bincount(out.ravel(), minlength=len(kept) + 1)[1:].astype(np.int64)
    return Instances(
        labels=out,
        boxes=boxes[keep],
        seed_y=seeds.y[kept],
        seed_x=seeds.x[kept],
        area_px=area,
        flow_error=error[keep],
        sums=sums[keep],
        moments=moments[keep],
        too_large=large[keep],
    )
