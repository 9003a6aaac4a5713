"""Do probabilities mean what they say: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_units, divide


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
    edges, index = _binned(sure, bins)
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


def calibration_error(
    probabilities: FloatArray,
    correct: npt.NDArray[np.bool_],
    *,
    units: npt.NDArray[np.int64],
    bins: int = 10,
    replicates: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return the expected calibration error with a bootstrap interval over patients.

    Chance alone puts every bin a little off, so with few subjects the error of a perfectly calibrated model is above 0,
    and that of a resample above that of the sample: the interval may lie mostly above the value.

    Parameters
    ----------
    probabilities, correct, units
        ``(n,)`` probability of the answer (or of a class), whether it is right (or the class is the true one), patient.
    """
    _, index = _binned(probabilities, bins)
    _, unit = np.unique(units, return_inverse=True)
    sums = np.zeros((int(unit.max()) + 1, bins + 1))
    np.add.at(sums, (unit, index), probabilities - correct)
    np.add.at(sums, (unit, np.full(len(unit), bins)), 1.0)

    def figures(counts: FloatArray) -> dict[str, FloatArray]:
        return {"ece": np.abs(counts[:, :bins]).sum(axis=1) / counts[:, bins]}

    return bootstrap_units(sums, figures, replicates=replicates, seed=seed)["ece"]


def brier_score(
    probabilities: FloatArray,
    labels: npt.NDArray[np.int64],
    *,
    units: npt.NDArray[np.int64],
    replicates: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Return the mean squared distance of the probabilities from the truth, with a bootstrap interval over patients.

    Parameters
    ----------
    probabilities
        ``(n, classes)``: the sum over classes, from 0 to 2. ``(n,)``: of one class, ``labels`` being 1 or 0; from 0
        to 1.

    References
    ----------
    Brier. Mon Weather Rev 1950;78:1-3.
    """
    if probabilities.ndim == 1:
        loss = (probabilities - labels) ** 2
    else:
        loss = ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)
    _, unit = np.unique(units, return_inverse=True)
    sums = np.stack([np.bincount(unit, weights=loss), np.bincount(unit).astype(np.float64)], axis=1)

    def figures(counts: FloatArray) -> dict[str, FloatArray]:
        return {"brier": counts[:, 0] / counts[:, 1]}

    return bootstrap_units(sums, figures, replicates=replicates, seed=seed)["brier"]


def _binned(probabilities: FloatArray, bins: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Return the edges of equal bins and the bin of each probability; bins are (lower, upper], 0 is in the first."""
    edges = np.linspace(0, 1, bins + 1)
    return edges, np.clip(np.searchsorted(edges, probabilities, side="left") - 1, 0, bins - 1)
