"""How the training patients are spread: who lies outside, and what a missing value may be.

One normal distribution of all values on their even scales (:func:`~wsi_pipeline.predictions.counts.features.
symmetrised`), its covariance shrunken (Ledoit and Wolf, J Multivar Anal 88:365, 2004).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.features import ANALYTES, FloatArray, from_symmetrised, symmetrised

DRAWS = 16
"""Possible patients drawn for one with missing values."""

_FIXED = np.random.default_rng(20261126).standard_normal((DRAWS, len(ANALYTES)))


@dataclass(frozen=True, kw_only=True)
class Population:
    """Training patients' mean ``(14,)`` and covariance ``(14, 14)`` on even scales.

    Parameters
    ----------
    outlier
        A patient whose tail probability is below is an outlier.
    """

    mean: FloatArray
    covariance: FloatArray
    outlier: float

    @classmethod
    def of(cls, values: FloatArray, *, share: float = 0.02) -> Population:
        """Return the population of training patients; ``share`` of them lies beyond its own limit.

        Missing values are filled by their expectation, which is repeated until it settles. A value that no patient has
        gets mean 0 and spread 1, which no known value of it is near.
        """
        from sklearn.covariance import LedoitWolf

        scaled = symmetrised(values)
        never = np.isnan(scaled).all(axis=0)
        spread = np.nanstd(np.where(never, 0.0, scaled), axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        mean, covariance = np.nanmean(np.where(never, 0.0, scaled), axis=0), np.diag(spread**2)
        for _ in range(10):
            filled = np.array(scaled)
            for rows, known in _patterns(scaled):
                filled[np.ix_(rows, ~known)] = _given(mean, covariance, known, scaled[rows])[0]
            mean = filled.mean(axis=0)
            # On unit spread, so that shrinking does not prefer the widest scale.
            covariance = LedoitWolf().fit((filled - mean) / spread).covariance_ * np.outer(spread, spread)
        found = cls(mean=mean, covariance=covariance, outlier=0.0)
        limit = float(np.quantile(found.tail_probability(values), share))
        return cls(mean=mean, covariance=covariance, outlier=limit)

    def tail_probability(self, values: FloatArray) -> FloatArray:
        """Return how likely a patient as far out or farther is, ``(n,)``: chi-squared of the known values' distance.

        The distance is Mahalanobis's, over the known values alone; without any it is 1.
        """
        scaled = symmetrised(values)
        result = np.ones(len(values))
        for rows, known in _patterns(scaled):
            if known.any():
                off = scaled[np.ix_(rows, known)] - self.mean[known]
                squared = (off @ np.linalg.inv(self.covariance[np.ix_(known, known)]) * off).sum(axis=1)
                result[rows] = stats.chi2.sf(squared, known.sum())
        return result

    def complete(self, values: FloatArray) -> FloatArray:
        """Return possible complete patients ``(n, 16, 14)``: missing values drawn given the known ones.

        The draws are fixed, so that an answer does not change from one day to the next.
        """
        scaled = symmetrised(values)
        result = np.repeat(values[:, None, :], DRAWS, axis=1)
        for rows, known in _patterns(scaled):
            if known.all():
                continue
            expected, covariance = _given(self.mean, self.covariance, known, scaled[rows])
            root = np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)))
            drawn = np.zeros((len(rows), DRAWS, len(ANALYTES)))
            drawn[:, :, ~known] = expected[:, None, :] + (_FIXED[:, : (~known).sum()] @ root.T)[None]
            possible = from_symmetrised(drawn.reshape(-1, len(ANALYTES))).reshape(drawn.shape)
            result[rows] = np.where(known, result[rows], possible)
        return result

    def to_json(self) -> dict[str, Any]:
        """Return what a model's file holds."""
        return {"mean": self.mean.tolist(), "covariance": self.covariance.tolist(), "outlier": self.outlier}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Population:
        """Read what :meth:`to_json` wrote.

        Raises
        ------
        ModelError
            It is something else.
        """
        n = len(ANALYTES)
        try:
            mean, covariance = np.asarray(entry["mean"], float), np.asarray(entry["covariance"], float)
            outlier = float(entry["outlier"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the population of a model of blood counts is damaged ({error})") from None
        if mean.shape != (n,) or covariance.shape != (n, n):
            raise ModelError(f"a model of blood counts needs {n} values, found {mean.shape} and {covariance.shape}")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all() and 0 <= outlier < 1):
            raise ModelError("the population of a model of blood counts has numbers that make no sense")
        if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance).min() <= 0:
            raise ModelError("the covariance of a model of blood counts is not symmetric and positive")
        return cls(mean=mean, covariance=covariance, outlier=outlier)


def _patterns(scaled: FloatArray) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]]:
    """Return the rows of each pattern of known values."""
    if len(scaled) == 0:
        return []
    known = ~np.isnan(scaled)
    codes = known @ (1 << np.arange(known.shape[1]))  # one number a row sorts much faster than rows do
    _, first, which = np.unique(codes, return_index=True, return_inverse=True)
    patterns = known[first]
    order = np.argsort(which, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(which, minlength=len(patterns)))[:-1])
    return list(zip(parts, patterns, strict=True))


def _given(
    mean: FloatArray, covariance: FloatArray, known: npt.NDArray[np.bool_], scaled: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return expectation ``(n, m)`` and covariance ``(m, m)`` of the missing values given the known ones."""
    across = covariance[np.ix_(~known, known)]
    weights = np.linalg.solve(covariance[np.ix_(known, known)], across.T).T if known.any() else across
    expected = mean[~known] + (scaled[:, known] - mean[known]) @ weights.T
    return expected, covariance[np.ix_(~known, ~known)] - weights @ across.T
