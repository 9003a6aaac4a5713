"""From labels to cells in PyTorch, on whatever device the labels lie on; results leave it when they are final.

The rules and results are those of :mod:`wsi_pipeline.segmentation.instances`, which is the reference this module is
tested against. Every reduction is over integers, or in a fixed order within the cell.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wsi_pipeline.segmentation.instances import Instances
from wsi_pipeline.segmentation.torch_components import components
from wsi_pipeline.segmentation.torch_diffusion import flow_errors
from wsi_pipeline.segmentation.torch_dynamics import DeviceSeeds
from wsi_pipeline.units import Box

_BACKGROUND = -1
_FAR = torch.iinfo(torch.int64).max


def extract_instances(
    labels: Tensor,
    seeds: DeviceSeeds,
    *,
    core: Box,
    flow: Tensor,
    foreground: Tensor,
    layers: Tensor,
    flow_threshold: float,
    min_area_px: int,
    max_cell_diameter_px: int,
) -> Instances:
    """Return the cells whose seed lies in the core.

    Parameters
    ----------
    labels, seeds
        As :func:`wsi_pipeline.segmentation.torch_dynamics.flows_to_labels` returns them.
    core
        Half-open box in window pixels; its seeds own their cells.
    flow
        ``(2, h, w)`` float32 unit flow of the network (y, x).
    foreground
        ``(h, w)`` bool pixels above the cell-probability threshold, all labelled ones among them; a hole is filled
        only where all of it is below.
    layers
        ``(c, h, w)`` uint8 layers to sum over each cell.
    flow_threshold
        Cells whose mean squared flow error is larger are dropped; 0 keeps all.
    min_area_px
        Smaller cells are dropped.
    max_cell_diameter_px
        Cells that reach half of it from their seed are marked ``too_large``.

    Returns
    -------
    Instances
        On the host.
    """
    height, width = labels.shape
    seed_y, seed_x, owned = _owned(labels, seeds, core)
    n = len(seed_y)
    part = components(torch.where(foreground, owned, _BACKGROUND))
    cell, y, x = _at_seeds(owned, part, seed_y, seed_x)
    boxes = _boxes(cell, y, x, n, (height, width))
    error = flow_errors(cell, y, x, boxes, flow)
    keep = boxes[:, 2] > boxes[:, 0]
    if flow_threshold > 0:
        keep = keep & (error <= flow_threshold)
    mask = torch.zeros((height, width), dtype=torch.int64, device=labels.device)
    mask[y, x] = torch.where(keep[cell], cell + 1, 0)
    mask = _filled(mask, part, foreground)
    y, x = mask.nonzero().unbind(1)
    cell = mask[y, x] - 1
    area = _sums(cell, torch.ones_like(cell), n)
    keep = keep & (area >= min_area_px)
    ry, rx = y - seed_y[cell], x - seed_x[cell]
    moments = torch.stack([_sums(cell, v, n) for v in (ry, rx, ry * ry, rx * rx, ry * rx)], dim=1)
    sums = torch.zeros((n, len(layers)), dtype=torch.int64, device=labels.device)
    for place, layer in enumerate(layers):
        sums[:, place] = _sums(cell, layer[y, x].long(), n)
    away = torch.zeros(n, dtype=torch.int64, device=labels.device)
    away.scatter_reduce_(0, cell, torch.maximum(ry.abs(), rx.abs()), "amax")
    name = torch.zeros(n + 1, dtype=torch.int32, device=labels.device)
    name[1:] = torch.where(keep, keep.cumsum(0), 0)
    return Instances(
        labels=name[mask].cpu().numpy(),
        boxes=boxes[keep].cpu().numpy(),
        seed_y=seed_y[keep].cpu().numpy(),
        seed_x=seed_x[keep].cpu().numpy(),
        area_px=area[keep].cpu().numpy(),
        flow_error=error[keep].cpu().numpy(),
        sums=sums[keep].cpu().numpy(),
        moments=moments[keep].cpu().numpy(),
        too_large=(away[keep] >= max_cell_diameter_px // 2 - 1).cpu().numpy(),
    )


def _owned(labels: Tensor, seeds: DeviceSeeds, core: Box) -> tuple[Tensor, Tensor, Tensor]:
    """Return y and x of the core's seeds in raster order, and ``(h, w)`` 1 + index of the owner among them, else 0."""
    inside = (seeds.y >= core.y0) & (seeds.y < core.y1) & (seeds.x >= core.x0) & (seeds.x < core.x1)
    chosen = inside.nonzero().squeeze(1)
    chosen = chosen[(seeds.y[chosen] * labels.shape[1] + seeds.x[chosen]).argsort()]
    rank = torch.zeros(len(seeds.y) + 1, dtype=torch.int64, device=labels.device)
    rank[chosen + 1] = torch.arange(1, len(chosen) + 1, device=labels.device)
    return seeds.y[chosen], seeds.x[chosen], rank[labels.long()]


def _at_seeds(owned: Tensor, part: Tensor, seed_y: Tensor, seed_x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cell, y and x of the pixels of the component at each seed, or at the pixel nearest to it."""
    y, x = owned.nonzero().unbind(1)
    cell = owned[y, x] - 1
    key = (y - seed_y[cell]) ** 2 + (x - seed_x[cell]) ** 2
    key = key * owned.numel() + y * owned.shape[1] + x
    nearest = torch.full(seed_y.shape, _FAR, device=owned.device).scatter_reduce_(0, cell, key, "amin")
    # A seed without a pixel points anywhere; nobody asks for it.
    chosen = part.reshape(-1)[nearest % max(1, owned.numel())]
    stays = part[y, x] == chosen[cell]
    return cell[stays], y[stays], x[stays]


def _boxes(cell: Tensor, y: Tensor, x: Tensor, n: int, shape: tuple[int, int]) -> Tensor:
    """Return ``(n, 4)`` half-open y0, x0, y1, x1; y1 <= y0 where a cell has no pixels."""
    boxes = torch.zeros((4, n), dtype=torch.int64, device=cell.device)
    boxes[0], boxes[1] = shape
    boxes[0].scatter_reduce_(0, cell, y, "amin")
    boxes[1].scatter_reduce_(0, cell, x, "amin")
    boxes[2].scatter_reduce_(0, cell, y + 1, "amax")
    boxes[3].scatter_reduce_(0, cell, x + 1, "amax")
    return boxes.T.contiguous()


def _filled(mask: Tensor, part: Tensor, foreground: Tensor) -> Tensor:
    """Return the masks with their holes of background filled.

    A hole of which all is background is a whole component of the background that meets one cell, nothing else, and
    not the window's edge; and since masks are foreground, no other component can be such a hole.

    Parameters
    ----------
    mask
        ``(h, w)`` int64, 1 + index of the cell.
    part
        ``(h, w)`` ids of components, among them those of the background.
    """
    lowest = torch.full((mask.numel(),), _FAR, device=mask.device)
    highest = torch.zeros_like(lowest)
    edge = torch.ones_like(foreground)
    edge[1:-1, 1:-1] = False
    lowest[part[edge & ~foreground]] = 0
    whole, first, last = slice(None), slice(None, -1), slice(1, None)
    sides = [((first, whole), (last, whole)), ((whole, first), (whole, last))]
    sides += [(there, here) for here, there in sides]
    for here, there in sides:
        meets = ~foreground[here] & foreground[there]
        hole, cell = part[here][meets], mask[there][meets]
        lowest.scatter_reduce_(0, hole, cell, "amin")
        highest.scatter_reduce_(0, hole, cell, "amax")
    fill = torch.where(lowest == highest, highest, 0)
    return torch.where(foreground, mask, fill[part])


def _sums(cell: Tensor, values: Tensor, n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64, device=cell.device).index_add_(0, cell, values)
