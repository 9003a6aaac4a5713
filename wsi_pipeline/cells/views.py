"""A cell has no up and no left: one window seen turned and mirrored, and the mean of what was answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

VIEWS = (1, 2, 4, 8)
"""How many views there can be."""


def views_of(windows: torch.Tensor, count: int) -> Iterator[torch.Tensor]:
    """Yield the first ``count`` of the eight symmetric views of square windows ``(n, c, side, side)``.

    The order makes every prefix that :data:`VIEWS` allows a group: as it is; turned by 180 degrees; both mirrored;
    all four turned by 90 degrees.
    """
    if count not in VIEWS:
        raise ValueError(f"{count} views asked for; {', '.join(map(str, VIEWS))} are possible")
    for k in range(count):
        view = torch.rot90(windows, 2, (2, 3)) if k & 1 else windows
        view = view.flip(3) if k & 2 else view
        yield torch.rot90(view, 1, (2, 3)) if k & 4 else view


def undo_view(windows: torch.Tensor, number: int) -> torch.Tensor:
    """Return what was seen in view ``number`` of :func:`views_of`, ``(n, c, side, side)``, as it lies in the window."""
    windows = torch.rot90(windows, -1, (2, 3)) if number & 4 else windows
    windows = windows.flip(3) if number & 2 else windows
    return torch.rot90(windows, -2, (2, 3)) if number & 1 else windows


def mean_of(answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean of equal tensors, added in their order."""
    total = answers[0]
    for answer in answers[1:]:
        total = total + answer
    return total / len(answers)
