"""Percentile bootstrap over the units that are independent: images, slides, patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.95
"""Level of every interval of an evaluation."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure and its 95 % interval. None stands for undefined (nothing to count)."""

    value: float | None
    lower: float | None
    upper: float | None

    def __str__(self) -> str:
        if self.value is None:
            return "-"
        if self.lower is None or self.upper is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.lower:.3f}-{self.upper:.3f})"


Figures = Callable[[FloatArray], dict[str, FloatArray]]
"""From pooled counts ``(samples, counts)`` to named figures ``(samples,)``; NaN where undefined."""


def bootstrap_units(
    per_unit: npt.ArrayLike,
    figures: Figures,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate figures of pooled counts, resampling whole units with replacement.

    Parameters
    ----------
    per_unit
        ``(units, counts)``: what each unit adds to the pooled counts.
    figures
        What to compute from pooled counts.
    replicates, seed
        Number of resamples, and the seed that makes them repeatable.

    Returns
    -------
    dict of Estimate
        With one unit there is nothing to resample, and the interval is None.

    References
    ----------
    Efron B, Tibshirani R. An Introduction to the Bootstrap, 1993, chapter 13.
    """
    counts = np.asarray(per_unit, dtype=np.float64)
    units = len(counts)
    samples: FloatArray | None = None
    if units > 1:
        samples = _drawn(units, replicates, seed) @ counts
    return _estimate(counts.sum(axis=0), samples, figures)


@lru_cache(maxsize=1)
def _drawn(units: int, replicates: int, seed: int) -> npt.NDArray[np.int64]:
    """Return how often each unit is drawn, ``(replicates, units)``; figures of one sample are asked for in a row."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=replicates)


def bootstrap_cells(
    counts: npt.ArrayLike,
    figures: Figures,
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate figures of counts, resampling single cells.

    Each cell adds one to one entry of ``counts``, so resampling cells is drawing from a multinomial: the same
    bootstrap as :func:`bootstrap_units` with a unit a cell, without a row a cell.
    """
    pooled = np.asarray(counts, dtype=np.float64)
    n = int(pooled.sum())
    samples = None
    if n > 1:
        samples = np.random.default_rng(seed).multinomial(n, pooled / n, size=replicates).astype(np.float64)
    return _estimate(pooled, samples, figures)


def _estimate(pooled: FloatArray, samples: FloatArray | None, figures: Figures) -> dict[str, Estimate]:
    values = figures(pooled[None])
    replicates = {} if samples is None else figures(samples)
    return {name: percentile_estimate(float(value[0]), replicates.get(name)) for name, value in values.items()}


def unit_weights(
    units: npt.NDArray[np.int64], *, replicates: int = 2000, seed: int = 0, values_at_once: int = 4_000_000
) -> Iterator[FloatArray]:
    """Yield how often each row is drawn when whole units are resampled, some replicates at a time.

    Parameters
    ----------
    units
        ``(n,)`` unit of each row, 0 to the number of units - 1: a patient, say.
    replicates, seed
        Number of resamples, and the seed that makes them repeatable. The same seed and units give the same weights,
        so figures of two models computed with them are paired.
    values_at_once
        Bounds the memory: weights held at a time.

    Yields
    ------
    ndarray
        ``(some replicates, n)``; all together have ``replicates`` rows.
    """
    count = int(units.max()) + 1
    step = max(1, values_at_once // max(len(units), count))
    for start in range(0, replicates, step):
        yield _times(count, min(step, replicates - start), seed, start)[:, units].astype(np.float64)


@lru_cache(maxsize=4)
def _times(units: int, size: int, seed: int, start: int) -> npt.NDArray[np.uint16]:
    """Return how often each unit is drawn in replicates ``start`` on, ``(size, units)``."""
    drawn = np.random.default_rng([seed, start]).integers(0, units, size=(size, units))
    drawn += np.arange(size)[:, None] * units
    return np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.uint16)


def percentile_estimate(value: float, samples: FloatArray | None, *, confidence: float = CONFIDENCE) -> Estimate:
    """Return the figure with the percentile interval of its replicates; NaN replicates are left out."""
    if math.isnan(value):
        return Estimate(value=None, lower=None, upper=None)
    good = samples[~np.isnan(samples)] if samples is not None else np.empty(0)
    if not good.size:
        return Estimate(value=value, lower=None, upper=None)
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(good, [tail, 1 - tail])
    return Estimate(value=value, lower=float(lower), upper=float(upper))


def divide(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return ``a / b``, NaN where ``b`` is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b != 0)
