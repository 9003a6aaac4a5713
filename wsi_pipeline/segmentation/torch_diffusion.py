"""Flow errors of many masks by heat diffusion in PyTorch, cells of like extent together in padded batches.

The definition and the order of operations are those of :mod:`wsi_pipeline.segmentation.diffusion`; every cell takes
its own number of steps, whatever batch it is in, and sums run row by row, so the padding changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_CANVAS_PX = 1 << 23
"""Pixels of a batch, padding included, which bounds the memory: about ten float64 layers of it."""


def flow_errors(cell: Tensor, y: Tensor, x: Tensor, boxes: Tensor, flow: Tensor) -> Tensor:
    """Return the mean squared difference between each mask's own flow and the network's.

    Parameters
    ----------
    cell, y, x
        ``(p,)`` int64: the pixels of all masks in raster order, with the index of their mask.
    boxes
        ``(n, 4)`` int64 tight y0, x0, y1, x1, half-open; masks without pixels have ``y1 <= y0``.
    flow
        ``(2, h, w)`` float32 flow of the network (y, x).

    Returns
    -------
    torch.Tensor
        ``(n,)`` float64; 0 for masks without pixels.
    """
    device = cell.device
    n = len(boxes)
    area = torch.zeros(n, dtype=torch.int64, device=device).index_add_(0, cell, torch.ones_like(cell))
    centre_y, centre_x = _centres(cell, y, x, boxes, area)
    error = torch.zeros(n, dtype=torch.float64, device=device)
    host_area = area.cpu().numpy()
    batches = list(_batches(boxes.cpu().numpy()))
    # Pixels in the order of the batches, in raster order within a batch.
    rank = torch.zeros(n, dtype=torch.int64, device=device)
    for place, (index, _, _) in enumerate(batches):
        rank[torch.from_numpy(index).to(device)] = place
    order = rank[cell].argsort(stable=True)
    sizes = [int(host_area[index].sum()) for index, _, _ in batches]
    slot = torch.zeros(n, dtype=torch.int64, device=device)
    for pixels, (index, side, steps) in zip(order.split(sizes) if batches else (), batches, strict=True):
        chosen = torch.from_numpy(index).to(device)
        slot[chosen] = torch.arange(len(index), device=device)
        own = cell[pixels]
        v, u = y[pixels] - boxes[own, 0], x[pixels] - boxes[own, 1]
        inner = (slot[own] * side + v) * side + u
        mask = torch.zeros(len(index) * side * side, dtype=torch.float64, device=device)
        mask[inner] = 1
        mask = mask.reshape(-1, side, side)
        network = torch.zeros((2, len(index) * side * side), dtype=torch.float64, device=device)
        network[:, inner] = flow[:, y[pixels], x[pixels]].double()
        source = (slot[chosen] * (side + 2) + centre_y[chosen] + 1) * (side + 2) + centre_x[chosen] + 1
        flow_y, flow_x = _mask_flows(mask, source, steps)
        dy = flow_y - network[0].reshape(mask.shape)
        dx = flow_x - network[1].reshape(mask.shape)
        error[chosen] = _total((dy * dy + dx * dx) * mask) / area[chosen]
    return error


def _centres(cell: Tensor, y: Tensor, x: Tensor, boxes: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mask pixel nearest the rounded centre of mass, in the mask's box.

    Of pixels equally near the first in raster order stands. Means are rounded half to even in a box with a margin of
    one pixel, as the reference does.
    """
    v, u = y - boxes[cell, 0], x - boxes[cell, 1]
    n = len(boxes)
    zeros = torch.zeros(n, dtype=torch.int64, device=cell.device)
    some = area.clamp(min=1).double()
    mean_y = (zeros.index_add(0, cell, v + 1).double() / some).round().long() - 1
    mean_x = (zeros.index_add(0, cell, u + 1).double() / some).round().long() - 1
    width = boxes[:, 3] - boxes[:, 1]
    place = v * width[cell] + u
    size = int(((boxes[:, 2] - boxes[:, 0]) * width).clamp(min=1).amax()) if n else 1
    key = ((v - mean_y[cell]) ** 2 + (u - mean_x[cell]) ** 2) * size + place
    nearest = torch.full((n,), torch.iinfo(torch.int64).max, device=cell.device).scatter_reduce_(0, cell, key, "amin")
    place, width = nearest % size, width.clamp(min=1)
    return place // width, place % width


def _batches(boxes: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], int, npt.NDArray[np.int64]]]:
    """Yield (cells, side of their canvas, steps of each), most steps first; sides grow by a third or a half."""
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    longer = np.maximum(height, width)
    steps = 2 * (height + width + 2)
    low, side = 0, 8
    while (longer > low).any():
        members = np.flatnonzero((longer > low) & (longer <= side))
        members = members[np.argsort(-steps[members], kind="stable")]
        most = max(1, _CANVAS_PX // (side + 2) ** 2)
        for start in range(0, len(members), most):
            part = members[start : start + most]
            yield part, side, steps[part]
        longer = np.where(longer <= side, 0, longer)
        low, side = side, side * 3 // 2 if side & (side - 1) == 0 else side * 4 // 3


def _mask_flows(mask: Tensor, source: Tensor, steps: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return the unit flows (y, x) of masks, ``(b, s, s)`` float64 each.

    Parameters
    ----------
    mask
        ``(b, s, s)`` float64, 1 on the cell.
    source
        ``(b,)`` flat place of each centre on a canvas with a margin of one pixel.
    steps
        ``(b,)`` steps of each, falling.
    """
    b, side, _ = mask.shape
    heat = torch.zeros((b, side + 2, side + 2), dtype=torch.float64, device=mask.device)
    flat = heat.view(-1)
    rows = torch.zeros((b, side + 2, side), dtype=torch.float64, device=mask.device)
    block = torch.zeros_like(mask)
    # A divisor on the device: by a number from the host CUDA multiplies by its rounded reciprocal instead.
    nine = torch.tensor(9.0, dtype=torch.float64, device=mask.device)
    working = np.searchsorted(-steps, -np.arange(int(steps[0])), side="left")
    for m in working.tolist():
        flat[source[:m]] += 1
        warm, across, mean = heat[:m], rows[:m], block[:m]
        torch.add(warm[:, :, :-2], warm[:, :, 1:-1], out=across)
        across += warm[:, :, 2:]
        torch.add(across[:, :-2], across[:, 1:-1], out=mean)
        mean += across[:, 2:]
        mean /= nine
        torch.mul(mean, mask[:m], out=warm[:, 1:-1, 1:-1])
    dy = heat[:, 2:, 1:-1] - heat[:, :-2, 1:-1]
    dx = heat[:, 1:-1, 2:] - heat[:, 1:-1, :-2]
    norm = _root(dy * dy + dx * dx)
    moving = norm > 0
    return torch.where(moving, dy / norm, 0.0), torch.where(moving, dx / norm, 0.0)


def _root(values: Tensor) -> Tensor:
    """Return the correctly rounded square root; MKL's, which PyTorch takes on a CPU, is an ulp off here and there."""
    return torch.from_numpy(np.sqrt(values.numpy())) if values.device.type == "cpu" else values.sqrt()


def _total(values: Tensor) -> Tensor:
    """Return the sum of each canvas: along rows from the left, then over rows from the top."""
    b, height, width = values.shape
    rows = torch.zeros((b, height), dtype=values.dtype, device=values.device)
    for column in range(width):
        rows += values[:, :, column]
    total = torch.zeros(b, dtype=values.dtype, device=values.device)
    for row in range(height):
        total += rows[:, row]
    return total
