"""From flows to seeds and labels in PyTorch, on whatever device the flows lie on.

The rules, the order of operations and so the results are those of :mod:`wsi_pipeline.segmentation.dynamics`, which is
the reference this module is tested against. No loop runs over pixels or cells; every reduction is over integers, so
the order in which a GPU's threads arrive changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from wsi_pipeline.segmentation.dynamics import EXTENSION_PX, MIN_EXTENSION_PIXELS, MIN_SEED_PIXELS

_STILL = 1e-5
_WALKERS = 1 << 21
"""Pixels followed at a time, which bounds the memory: about 200 bytes each."""

_SEEDS = 1 << 16
"""Seeds extended at a time."""

_STEPS_BETWEEN_LOOKS = 16
"""Steps after which pixels that have come to rest are set aside."""


@dataclass(frozen=True, kw_only=True)
class DeviceSeeds:
    """Seeds of a window in their total order, strongest first, on the device.

    Attributes
    ----------
    y, x
        ``(n,)`` int64 position in the window.
    count
        ``(n,)`` int64 pixels that end exactly there.
    """

    y: Tensor
    x: Tensor
    count: Tensor


def flows_to_labels(
    flow: Tensor, foreground: Tensor, *, niter: int, max_cell_diameter_px: int
) -> tuple[Tensor, DeviceSeeds]:
    """Follow flows and collect pixels into labels.

    Parameters
    ----------
    flow
        ``(2, h, w)`` float32 step (y, x) per iteration, pixels; finite, zero on background.
    foreground
        ``(h, w)`` bool pixels to follow.
    niter
        Largest number of steps.
    max_cell_diameter_px
        A pixel that moves more than half of this from its start is background.

    Returns
    -------
    labels
        ``(h, w)`` int32 on the device; label ``k`` belongs to seed ``k - 1``.
    seeds
        As :func:`wsi_pipeline.segmentation.dynamics.flows_to_labels` returns them.
    """
    height, width = foreground.shape
    start = foreground.reshape(-1).nonzero().squeeze(1)
    field = flow.permute(1, 2, 0).reshape(-1, 2).contiguous()
    parts = start.split(_WALKERS) if len(start) else ()
    reach = max_cell_diameter_px // 2
    ends = [_follow(part, field, (height, width), niter, reach) for part in parts]
    end = torch.cat(ends) if ends else start
    start, end = start[end >= 0], end[end >= 0]
    counts = torch.bincount(end, minlength=height * width).reshape(height, width)
    seeds = _find_seeds(counts)
    owner = _extend(counts, seeds)
    labels = torch.zeros(height * width, dtype=torch.int32, device=flow.device)
    labels[start] = owner[end]
    return labels.reshape(height, width), seeds


def _follow(start: Tensor, field: Tensor, shape: tuple[int, int], niter: int, reach: int) -> Tensor:
    """Return the flat pixel on which each pixel ends, -1 where it leaves its window.

    Parameters
    ----------
    start
        ``(n,)`` int64 flat pixels.
    field
        ``(h * w, 2)`` float32 steps (y, x).
    """
    height, width = shape
    last = torch.tensor([height - 1, width - 1], device=start.device)
    result = torch.full_like(start, -1)
    who = torch.arange(len(start), device=start.device)
    origin = torch.stack([start // width, start % width], dim=1)
    cell = origin.clone()
    fraction = torch.zeros(cell.shape, dtype=torch.float32, device=start.device)
    lost = torch.zeros(len(start), dtype=torch.bool, device=start.device)

    def settle(chosen: Tensor | slice) -> None:
        pixel = torch.minimum(cell[chosen] + (fraction[chosen] >= 0.5), last)
        flat = pixel[:, 0] * width + pixel[:, 1]
        result[who[chosen]] = torch.where(lost[chosen], -1, flat)

    for step in range(1, niter + 1):
        here = cell[:, 0] * width + cell[:, 1]
        below, right = (cell < last).unbind(1)
        down = here + below * width
        # One rounding an operation, in this order: fused or reordered arithmetic would end on other pixels.
        fy, fx = fraction[:, :1], fraction[:, 1:]
        gy, gx = 1 - fy, 1 - fx
        move = (gy * gx) * field[here]
        move = move + (gy * fx) * field[here + right]
        move = move + (fy * gx) * field[down]
        move = move + (fy * fx) * field[down + right]
        still = (move.abs() < _STILL).all(1)
        place = fraction + move
        whole = place.floor()
        place = place - whole
        carry = place >= 1
        moved = cell + whole.long() + carry
        outside = (moved < 0) | (moved >= last)
        place = torch.where(carry | outside, 0.0, place)
        moved = torch.minimum(moved.clamp(min=0), last)
        cell = torch.where(still[:, None], cell, moved)
        fraction = torch.where(still[:, None], fraction, place)
        lost = lost | ((cell - origin).abs() > reach).any(1)
        if step % _STEPS_BETWEEN_LOOKS == 0 and step < niter:
            done = still | lost
            settle(done)
            going = ~done
            who, origin, cell, fraction, lost = who[going], origin[going], cell[going], fraction[going], lost[going]
            if len(who) == 0:
                break
    settle(slice(None))
    return result


def _find_seeds(counts: Tensor) -> DeviceSeeds:
    """Return the pixels that come first, by (count, y, x), in their 5 x 5 neighbourhood."""
    height, width = counts.shape
    size = height * width
    later = torch.arange(size - 1, -1, -1, device=counts.device).reshape(height, width)
    # No two keys are equal, and the larger comes first.
    key = counts * size + later
    rows = functional.pad(key, (2, 2, 0, 0), value=-1).unfold(1, 5, 1).amax(-1)
    first = functional.pad(rows, (0, 0, 2, 2), value=-1).unfold(0, 5, 1).amax(-1)
    keys = key[(key == first) & (counts > MIN_SEED_PIXELS)].sort(descending=True).values
    count = keys // size
    place = size - 1 - keys % size
    return DeviceSeeds(y=place // width, x=place % width, count=count)


def _extend(counts: Tensor, seeds: DeviceSeeds) -> Tensor:
    """Return ``(h * w,)`` int32: 1 + index of the strongest seed that reaches each end point, 0 where none does."""
    height, width = counts.shape
    n = len(seeds.count)
    side = 2 * EXTENSION_PX + 1
    nobody = n + 1
    owner = torch.full((height * width,), nobody, dtype=torch.int32, device=counts.device)
    crowded = functional.pad(counts > MIN_EXTENSION_PIXELS, (EXTENSION_PX,) * 4)
    offset = torch.arange(side, device=counts.device)
    around = (offset[:, None] * crowded.shape[1] + offset).reshape(1, -1)
    for index in torch.arange(n, device=counts.device).split(_SEEDS) if n else ():
        y, x = seeds.y[index], seeds.x[index]
        corner = (y * crowded.shape[1] + x)[:, None]
        allowed = crowded.reshape(-1)[corner + around].reshape(-1, side, side)
        reached = torch.zeros_like(allowed)
        reached[:, EXTENSION_PX, EXTENSION_PX] = True
        for _ in range(EXTENSION_PX):
            rows = functional.pad(reached, (1, 1, 0, 0))
            rows = rows[:, :, :-2] | rows[:, :, 1:-1] | rows[:, :, 2:]
            rows = functional.pad(rows, (0, 0, 1, 1))
            reached = (rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]) & allowed
        seed, v, u = reached.nonzero().unbind(1)
        pixel = (y[seed] + v - EXTENSION_PX) * width + x[seed] + u - EXTENSION_PX
        owner.scatter_reduce_(0, pixel, (index[seed] + 1).int(), "amin")
    return torch.where(owner == nobody, 0, owner)
