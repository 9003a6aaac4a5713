"""Percentile bootstrap over the units that are independent: images, slides, patients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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
        weights = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=replicates)
        samples = weights @ counts
    return _estimate(counts.sum(axis=0), samples, figures)


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


def percentile_estimate(value: float, samples: FloatArray | None) -> Estimate:
    """Return the figure with the percentile interval of its replicates; NaN replicates are left out."""
    if math.isnan(value):
        return Estimate(value=None, lower=None, upper=None)
    good = samples[~np.isnan(samples)] if samples is not None else np.empty(0)
    if not good.size:
        return Estimate(value=value, lower=None, upper=None)
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(good, [tail, 1 - tail])
    return Estimate(value=value, lower=float(lower), upper=float(upper))


def divide(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return ``a / b``, NaN where ``b`` is 0."""
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b != 0)
