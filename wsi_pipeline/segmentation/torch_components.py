"""4-connected components of an image of classes in PyTorch, on any device, without a loop over pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def components(classes: Tensor) -> Tensor:
    """Return an id for every pixel, equal where 4-connected pixels of one class meet.

    Horizontal runs of one class are the nodes of a graph, runs that touch vertically its edges; roots are joined,
    the larger id under the smaller, until no edge has two. Rounds grow with the logarithm of the number of runs.

    Parameters
    ----------
    classes
        ``(h, w)`` integers.

    Returns
    -------
    torch.Tensor
        ``(h, w)`` int64, less than the number of pixels; not consecutive.
    """
    begins = torch.ones(classes.shape, dtype=torch.bool, device=classes.device)
    begins[:, 1:] = classes[:, 1:] != classes[:, :-1]
    run = (begins.reshape(-1).cumsum(0) - 1).reshape(classes.shape)
    # Two runs that overlap do so first where one of them begins.
    meets = (classes[1:] == classes[:-1]) & (begins[1:] | begins[:-1])
    upper, lower = run[:-1][meets], run[1:][meets]
    parent = torch.arange(int(run[-1, -1]) + 1, device=classes.device) if run.numel() else run.reshape(-1)
    while len(upper):
        upper, lower = parent[upper], parent[lower]
        apart = upper != lower
        upper, lower = upper[apart], lower[apart]
        parent.scatter_reduce_(0, torch.maximum(upper, lower), torch.minimum(upper, lower), "amin")
        parent = _compressed(parent)
    return parent[run]


def _compressed(parent: Tensor) -> Tensor:
    """Return the root of every node."""
    while True:
        higher = parent[parent]
        if torch.equal(higher, parent):
            return parent
        parent = higher
