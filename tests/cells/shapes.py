"""Masks with known shapes, for the tests of morphology."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage import draw

Mask = npt.NDArray[np.bool_]


def disc(radius: float, margin: int = 3, at: tuple[float, float] = (0.0, 0.0)) -> Mask:
    return ellipse(radius, radius, 0.0, margin, at)


def ellipse(major: float, minor: float, angle: float = 0.0, margin: int = 3, at: tuple[float, float] = (0, 0)) -> Mask:
    """Return the pixels with their centre in an ellipse of these half axes, the major at ``angle`` to the rows."""
    side = int(np.ceil(major)) + margin
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    y, x = y - at[0], x - at[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / major) ** 2 + (v / minor) ** 2 <= 1


def square(side: int, margin: int = 3) -> Mask:
    return np.pad(np.ones((side, side), bool), margin)


def crescent(radius: float, shift: float) -> Mask:
    """Return a disc less the same disc moved to the right."""
    return disc(radius) & ~disc(radius, at=(0.0, shift))


def ring(radius: float, hole: float) -> Mask:
    return disc(radius) & ~np.pad(disc(hole, 0), int(np.ceil(radius)) + 3 - int(np.ceil(hole)))


def lobes(n: int, radius: float, apart: float, bridge: int) -> Mask:
    """Return ``n`` discs in a row, their centres ``apart``, joined by a bar ``bridge`` pixels thick."""
    side = int(np.ceil(radius)) + 3
    mask = np.zeros((2 * side + 1, int(apart * (n - 1)) + 2 * side + 1), bool)
    for i in range(n):
        rows, columns = draw.disk((side, side + i * apart), radius + 0.01)
        mask[rows, columns] = True
    low = side - bridge // 2
    mask[low : low + bridge, side : mask.shape[1] - side] |= bridge > 0
    return mask


def blob(seed: int, side: int = 34) -> Mask:
    """Return the largest 4-connected piece of thresholded smooth noise; it may touch the edge and have holes."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 3)
    parts, n = ndimage.label(noise > np.quantile(noise, 0.6))
    sizes = ndimage.sum_labels(np.ones_like(parts), parts, np.arange(1, n + 1))
    return parts == 1 + int(np.argmax(sizes))


CASES: dict[str, Mask] = {
    "disc": disc(12),
    "small disc": disc(3),
    "ellipse": ellipse(16, 7, 0.5),
    "square": square(15),
    "crescent": crescent(13, 7),
    "ring": ring(12, 5),
    "lobes": lobes(3, 6, 13, 3),
    "pixel": square(1),
    "row": np.ones((1, 7), bool),
    "column": np.ones((6, 1), bool),
    "whole array": np.ones((9, 11), bool),
    **{f"blob {seed}": blob(seed) for seed in range(6)},
}
"""The declared matrix of parity: round, long, angular, concave, holed, thin, one pixel, at the array's edge, ragged."""
