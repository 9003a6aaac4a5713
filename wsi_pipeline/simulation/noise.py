"""Random numbers keyed by place, so that a slide does not depend on the order it is drawn in."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

_OFFSET = 1 << 20


def keyed_generator(seed: int, purpose: int, column: int, row: int) -> np.random.Generator:
    """Return a generator that depends on nothing but its arguments; column and row may be negative."""
    key = np.random.SeedSequence([seed, purpose, column + _OFFSET, row + _OFFSET])
    return np.random.Generator(np.random.PCG64(key))


def _hash(seed: int, purpose: int, ix: npt.NDArray[np.int64], iy: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return uniform numbers in [-1, 1) of lattice points (splitmix64; Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = ix.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + iy.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F)
        z += np.uint64((seed * 0x165667B19E3779F9 + purpose * 0x27D4EB2F165667C5) & 0xFFFFFFFFFFFFFFFF)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * (2.0 / (1 << 53)) - 1.0


def smooth_noise(
    seed: int, purpose: int, x: npt.ArrayLike, y: npt.ArrayLike, wavelength: float
) -> npt.NDArray[np.float64]:
    """Return value noise in [-1, 1] on the grid of ``x`` (columns) and ``y`` (rows), ``(len(y), len(x))``.

    Lattice values ``wavelength`` apart are joined by a smoothstep, separably, so whole grids are cheap.
    """
    gx, gy = np.atleast_1d(np.asarray(x, float)) / wavelength, np.atleast_1d(np.asarray(y, float)) / wavelength
    ix, iy = np.floor(gx).astype(np.int64), np.floor(gy).astype(np.int64)
    fx, fy = gx - ix, gy - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    columns = np.arange(ix.min(), ix.max() + 2)
    rows = np.arange(iy.min(), iy.max() + 2)
    lattice = _hash(seed, purpose, columns[None, :] + _OFFSET, rows[:, None] + _OFFSET)
    left = lattice[:, ix - columns[0]]
    across = left + (lattice[:, ix - columns[0] + 1] - left) * fx[None, :]
    above = across[iy - rows[0]]
    return np.asarray(above + (across[iy - rows[0] + 1] - above) * fy[:, None])


def smooth_noise_at(seed: int, purpose: int, x: float, y: float, wavelength: float) -> float:
    """Return :func:`smooth_noise` at one place, the same number, without the cost of arrays."""
    gx, gy = x / wavelength, y / wavelength
    ix, iy = math.floor(gx), math.floor(gy)
    fx, fy = gx - ix, gy - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    above, below = (
        left + (_hash_one(seed, purpose, ix + 1 + _OFFSET, row + _OFFSET) - left) * fx
        for row in (iy, iy + 1)
        for left in (_hash_one(seed, purpose, ix + _OFFSET, row + _OFFSET),)
    )
    return above + (below - above) * fy


_64_BITS = 0xFFFFFFFFFFFFFFFF


def _hash_one(seed: int, purpose: int, ix: int, iy: int) -> float:
    z = ix * 0x9E3779B97F4A7C15 + iy * 0xC2B2AE3D27D4EB4F
    z = (z + seed * 0x165667B19E3779F9 + purpose * 0x27D4EB2F165667C5) & _64_BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _64_BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _64_BITS
    z ^= z >> 31
    return (z >> 11) * (2.0 / (1 << 53)) - 1.0
