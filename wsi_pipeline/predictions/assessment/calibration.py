"""Do probabilities mean what they say: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import FloatArray, divide


@dataclass(frozen=True, kw_only=True)
class CalibrationBin:
    """Answers of similar confidence: how sure they were, and how often they were right."""

    lower: float
    upper: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Expected calibration error and the reliability table behind it."""

    ece: float
    bins: tuple[CalibrationBin, ...]


def calibration(probabilities: npt.ArrayLike, correct: npt.ArrayLike, *, bins: int = 15) -> Calibration:
    """Return the expected calibration error of the answers' probabilities, in bins of equal width.

    Parameters
    ----------
    probabilities
        ``(n,)`` probability of each answer, 0 to 1.
    correct
        ``(n,)`` whether each answer was right.

    Raises
    ------
    DataError
        Lengths differ, nothing was given, or a value is no probability.

    References
    ----------
    Guo et al. ICML 2017 (arXiv 1706.04599).
    """
    sure = np.asarray(probabilities, dtype=np.float64)
    right = np.asarray(correct, dtype=bool)
    if sure.ndim != 1 or sure.shape != right.shape or not sure.size:
        raise DataError(f"one probability and one verdict a cell: {sure.shape} and {right.shape}")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise DataError(f"probabilities must lie in 0 to 1; found {sure.min():g} to {sure.max():g}")
    edges = np.linspace(0, 1, bins + 1)
    # Bins are (lower, upper]; 0 belongs to the first.
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    n = np.bincount(index, minlength=bins)

    def mean_of(values: FloatArray) -> FloatArray:
        total = np.bincount(index, weights=values, minlength=bins).astype(np.float64)
        return divide(total, n.astype(np.float64))

    mean, accuracy = mean_of(sure), mean_of(right.astype(np.float64))
    return Calibration(
        ece=float(np.nansum(n * np.abs(mean - accuracy)) / n.sum()),
        bins=tuple(
            CalibrationBin(
                lower=float(edges[i]),
                upper=float(edges[i + 1]),
                n=int(n[i]),
                confidence=float(mean[i]) if n[i] else None,
                accuracy=float(accuracy[i]) if n[i] else None,
            )
            for i in range(bins)
        ),
    )
