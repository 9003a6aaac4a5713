"""The area under the ROC curve, its intervals, and the comparison of two areas on the same patients.

In a cross-validation the models of two folds put their scores on different scales, so only subjects of one fold are
compared with one another: the *stratum* of a subject is the fold (and repeat) in which it was predicted. Without
strata all figures are the ordinary ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import (
    CONFIDENCE,
    Estimate,
    FloatArray,
    divide,
    percentile_estimate,
    unit_weights,
)

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_UNDEFINED = Estimate(value=None, lower=None, upper=None)


@dataclass(frozen=True, kw_only=True)
class DeLong:
    """Areas of ``m`` scores on the same subjects, and their covariance.

    Parameters
    ----------
    areas
        ``(m,)``; NaN where a class is absent.
    covariance
        ``(m, m)``; NaN with fewer than two units on either side.
    """

    areas: FloatArray
    covariance: FloatArray


@dataclass(frozen=True, kw_only=True)
class AucDifference:
    """First area less second, with DeLong's interval and two-sided p; ``p`` is None where it is undefined."""

    difference: Estimate
    p: float | None


def auc(scores: npt.ArrayLike, positive: npt.ArrayLike, *, strata: npt.ArrayLike | None = None) -> float:
    """Return the chance that a positive scores higher than a negative of its stratum, ties counting half.

    Parameters
    ----------
    scores, positive, strata
        ``(n,)`` each.

    Returns
    -------
    float
        NaN without a pair to compare.

    Raises
    ------
    DataError
        Lengths differ or a score is NaN.

    References
    ----------
    Hanley, McNeil. Radiology 1982;143:29-36.
    """
    return float(delong(scores, positive, strata=strata).areas[0])


def delong(
    scores: npt.ArrayLike,
    positive: npt.ArrayLike,
    *,
    strata: npt.ArrayLike | None = None,
    units: npt.ArrayLike | None = None,
) -> DeLong:
    """Return areas and their covariance without resampling.

    Parameters
    ----------
    scores
        ``(n,)``, or ``(m, n)`` for several models on the same subjects.
    positive
        ``(n,)`` whether the subject has the class.
    strata
        ``(n,)`` integers; subjects of different strata are not compared.
    units
        ``(n,)`` integers: the patient of each row. Rows of a patient are not independent, and a patient predicted in
        several repeats is still one patient.

    Raises
    ------
    DataError
        Lengths differ or a score is NaN.

    References
    ----------
    DeLong, DeLong, Clarke-Pearson. Biometrics 1988;44:837-845. Ranks instead of pairs: Sun, Xu. IEEE Signal Process
    Lett 2014;21:1389-1393. Several rows a patient: Obuchowski. Biometrics 1997;53:567-578. Strata are folds: LeDell,
    Petersen, van der Laan. Electron J Stat 2015;9:1583-1607.
    """
    s, y, fold, _ = _checked(scores, positive, strata, units)
    m, n = s.shape
    # Sums over the pairs of each subject: of wins (ties half), and of pairs.
    wins, pairs = np.zeros((m, n)), np.zeros(n)
    for stratum in _members(fold):
        inside = y[stratum]
        high, low = stratum[inside], stratum[~inside]
        if not len(high) or not len(low):
            continue
        pairs[high], pairs[low] = len(low), len(high)
        for j in range(m):
            ranks = rankdata(s[j, stratum])
            wins[j, high] = ranks[inside] - rankdata(s[j, high])
            wins[j, low] = len(high) - (ranks[~inside] - rankdata(s[j, low]))
    total = pairs[y].sum()
    if not total:
        return DeLong(areas=np.full(m, np.nan), covariance=np.full((m, m), np.nan))
    areas = wins[:, y].sum(axis=1) / total
    excess = (wins - areas[:, None] * pairs) / total
    return DeLong(areas=areas, covariance=_covariance(excess, y, None if units is None else np.asarray(units)))


def _covariance(excess: FloatArray, y: BoolArray, units: npt.NDArray[np.integer] | None) -> FloatArray:
    """Return the covariance of areas from what each subject adds to them, summed within units."""
    count = len(y)
    unit = np.arange(count)
    if units is not None:
        _, unit = np.unique(units, return_inverse=True)
        count = int(unit.max()) + 1
    sums = [
        np.stack([np.bincount(unit[side], weights=row[side], minlength=count) for row in excess]) for side in (y, ~y)
    ]
    with_high, with_low = (np.unique(unit[side]).size for side in (y, ~y))
    if with_high < 2 or with_low < 2:
        return np.full((len(excess), len(excess)), np.nan)
    high, low = sums
    # Units with rows of both classes move both sides at once.
    cross = (high @ low.T + low @ high.T) * count / (count - 1)
    result: FloatArray = high @ high.T * with_high / (with_high - 1) + low @ low.T * with_low / (with_low - 1) + cross
    return result


def area_estimate(area: float, variance: float, *, confidence: float = CONFIDENCE) -> Estimate:
    """Return an area with its interval on the logit scale, which keeps it within 0 and 1.

    Undefined for a NaN area; without an interval where the variance is unknown or the separation complete (the formula
    would give none of the doubt that few subjects leave).

    References
    ----------
    Pepe. The Statistical Evaluation of Medical Tests, 2003, section 5.2.
    """
    if math.isnan(area):
        return _UNDEFINED
    if math.isnan(variance) or not 0 < area < 1:
        return Estimate(value=area, lower=None, upper=None)
    logit = math.log(area / (1 - area))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(max(variance, 0.0)) / (area * (1 - area))
    lower, upper = (1 / (1 + math.exp(-(logit + side * half))) for side in (-1, 1))
    return Estimate(value=area, lower=lower, upper=upper)


def auroc(inside: npt.ArrayLike, outside: npt.ArrayLike) -> Estimate:
    """Return the chance that an outside item scores higher than an inside one, with DeLong's interval.

    Parameters
    ----------
    inside, outside
        Scores ``(m,)`` and ``(n,)``; items are taken as independent.

    Returns
    -------
    Estimate
        Undefined without items on both sides; without an interval with fewer than two on either, or where the
        separation is complete.
    """
    low, high = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    if not len(low) or not len(high):
        return _UNDEFINED
    found = delong(np.concatenate([low, high]), np.arange(len(low) + len(high)) >= len(low))
    return area_estimate(float(found.areas[0]), float(found.covariance[0, 0]))


def compare_areas(found: DeLong, first: int = 0, second: int = 1) -> AucDifference:
    """Return the difference of two areas on the same subjects, with DeLong's interval and test.

    Two models with the same scores differ by 0 with p 1.
    """
    difference = float(found.areas[first] - found.areas[second])
    if math.isnan(difference):
        return AucDifference(difference=_UNDEFINED, p=None)
    c = found.covariance
    variance = float(c[first, first] + c[second, second] - 2 * c[first, second])
    if math.isnan(variance):
        return AucDifference(difference=Estimate(value=difference, lower=None, upper=None), p=None)
    error = math.sqrt(max(variance, 0.0))
    if error < 1e-12:
        same = abs(difference) < 1e-12
        return AucDifference(
            difference=Estimate(value=difference, lower=difference if same else None, upper=0.0 if same else None),
            p=1.0 if same else None,
        )
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
    return AucDifference(
        difference=Estimate(value=difference, lower=difference - half, upper=difference + half),
        p=math.erfc(abs(difference) / error / math.sqrt(2)),
    )


def bootstrap_auc(
    scores: npt.ArrayLike,
    positive: npt.ArrayLike,
    *,
    units: npt.ArrayLike | None = None,
    strata: npt.ArrayLike | None = None,
    replicates: int = 2000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Return an area with the percentile interval of resampled patients.

    Parameters
    ----------
    scores, positive, units, strata
        ``(n,)`` each; see :func:`delong`. Without ``units`` each row is a patient.

    Returns
    -------
    Estimate
        Without an interval where the separation is complete: every resample would repeat it.

    Raises
    ------
    DataError
        Lengths differ or a score is NaN.
    """
    s, y, fold, unit = _checked(scores, positive, strata, units)
    value = auc(s[0], y, strata=fold)
    if math.isnan(value) or value in (0.0, 1.0):
        return percentile_estimate(value, None)
    blocks = list(_blocks(s[0], y, fold))
    samples = [_weighted_area(blocks, w) for w in unit_weights(unit, replicates=replicates, seed=seed)]
    return percentile_estimate(value, np.concatenate(samples), confidence=confidence)


_Block = tuple[IntArray, IntArray, IntArray]


def _blocks(scores: FloatArray, y: BoolArray, fold: IntArray) -> Iterator[_Block]:
    """Yield of each stratum its subjects by rising score, where equal scores start, and the tie each belongs to."""
    for stratum in _members(fold):
        if y[stratum].all() or not y[stratum].any():
            continue
        order = stratum[np.argsort(scores[stratum], kind="stable")]
        fresh = np.r_[True, np.diff(scores[order]) != 0]
        yield order, np.flatnonzero(fresh), y[order].astype(np.int64)


def _weighted_area(blocks: list[_Block], weights: FloatArray) -> FloatArray:
    """Return the area of each row of weights ``(replicates, n)``, NaN where a class was not drawn."""
    wins, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for order, starts, high in blocks:
        w = weights[:, order]
        up, down = w * high, w * (1 - high)
        if len(starts) < len(order):
            up, down = np.add.reduceat(up, starts, axis=1), np.add.reduceat(down, starts, axis=1)
        below = np.cumsum(down, axis=1)
        pairs += up.sum(axis=1) * below[:, -1]
        below -= down / 2
        wins += np.einsum("ij,ij->i", up, below)
    return divide(wins, pairs)


def _members(fold: IntArray) -> list[IntArray]:
    """Return the rows of each stratum."""
    order = np.argsort(fold, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(fold[order])) + 1)


def _checked(
    scores: npt.ArrayLike, positive: npt.ArrayLike, strata: npt.ArrayLike | None, units: npt.ArrayLike | None
) -> tuple[FloatArray, BoolArray, IntArray, IntArray]:
    s, y = np.atleast_2d(np.asarray(scores, np.float64)), np.asarray(positive, bool)
    n = s.shape[1]
    fold = np.zeros(n, np.int64) if strata is None else np.asarray(strata, np.int64)
    unit = np.arange(n) if units is None else np.unique(np.asarray(units), return_inverse=True)[1].astype(np.int64)
    if not n or s.ndim != 2 or not y.shape == fold.shape == unit.shape == (n,):
        raise DataError(
            f"one score, one label, one stratum and one patient a subject: {s.shape[-1]} scores, {len(y)} labels, "
            f"{len(fold)} strata, {len(unit)} patients"
        )
    if np.isnan(s).any():
        raise DataError(f"{int(np.isnan(s).any(axis=0).sum())} of {n} scores are not numbers; every subject needs one")
    return s, y, fold, unit
