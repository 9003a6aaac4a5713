"""Answering only the surer cases: how often it is right, and how many cases are left."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.predictions.assessment.bootstrap import (
    Estimate,
    FloatArray,
    divide,
    percentile_estimate,
    unit_weights,
)
from wsi_pipeline.predictions.assessment.thresholds import BoolArray, Choose, IntArray, accepted, share

GRID = tuple(i / 20 for i in range(1, 21))
"""Coverages at which curves are drawn."""


@dataclass(frozen=True, kw_only=True)
class CoveragePoint:
    """Share of subjects answered, and how often the answers are right; Wilson intervals over patients."""

    coverage: float
    n: int
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class CoverageAtAccuracy:
    """What is left when answers must be right as often as ``target``.

    Parameters
    ----------
    threshold
        Confidence from which an answer is given; None where no threshold reaches the target.
    n
        Subjects answered, a mean over repeats.
    coverage, accuracy
        On subjects that did not choose the threshold.
    """

    target: float
    threshold: float | None
    n: float
    coverage: Estimate
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """The curve, and the area under risk (share of wrong answers) over coverage: lower is better."""

    area: Estimate
    points: tuple[CoveragePoint, ...]
    at_accuracy: tuple[CoverageAtAccuracy, ...]


def risk_coverage(
    confidence: FloatArray,
    correct: BoolArray,
    *,
    units: IntArray,
    strata: IntArray,
    repeats: IntArray,
    targets: tuple[float, ...] = (),
    reference: tuple[FloatArray, BoolArray] | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> RiskCoverage:
    """Return the risk-coverage curve of answers.

    Parameters
    ----------
    confidence, correct
        ``(n,)`` how sure each answer is, and whether it is right.
    units, strata, repeats, reference
        Patient, fold and repeat of each answer, and training answers to choose thresholds on: see
        :func:`thresholds.accepted`.
    targets
        Accuracies for which the coverage is wanted.

    References
    ----------
    El-Yaniv, Wiener. J Mach Learn Res 2010;11:1605-1641. Area: Geifman, Uziel, El-Yaniv. ICLR 2019 (arXiv 1805.08206).
    """
    n, times = len(confidence), int(np.unique(repeats).size)
    order = np.argsort(-confidence, kind="stable")
    points = []
    for coverage in GRID:
        first = order[: max(1, round(coverage * n))]
        points.append(
            CoveragePoint(coverage=coverage, n=round(len(first) / times), accuracy=share(correct[first], units[first]))
        )
    limits = []
    for target in targets:
        given, threshold = accepted(
            confidence, correct, _threshold_for(target), strata=strata, repeats=repeats, reference=reference
        )
        limits.append(
            CoverageAtAccuracy(
                target=target,
                threshold=threshold if math.isfinite(threshold) else None,
                n=float(given.sum()) / times,
                coverage=share(given, units),
                accuracy=share(correct[given], units[given]),
            )
        )
    return RiskCoverage(
        area=risk_area(confidence, correct, units=units, replicates=replicates, seed=seed),
        points=tuple(points),
        at_accuracy=tuple(limits),
    )


def risk_area(
    confidence: FloatArray, correct: BoolArray, *, units: IntArray, replicates: int = 2000, seed: int = 0
) -> Estimate:
    """Return the mean risk over all coverages, equal confidences in random order, with a bootstrap over patients."""
    order = np.argsort(-confidence, kind="stable")
    wrong = 1.0 - correct[order]
    _, tie = np.unique(-confidence[order], return_inverse=True)
    starts = np.flatnonzero(np.r_[True, np.diff(tie) > 0])
    _, unit = np.unique(units, return_inverse=True)

    def areas(weights: FloatArray) -> FloatArray:
        w = weights[:, order]
        errors = w * wrong
        if len(starts) < len(order):
            held, lost = np.add.reduceat(w, starts, axis=1), np.add.reduceat(errors, starts, axis=1)
            errors = w * divide(lost, held)[:, tie]
            errors[w == 0] = 0.0
        risk = divide(np.cumsum(errors, axis=1), np.cumsum(w, axis=1))
        return divide(np.nansum(w * risk, axis=1), w.sum(axis=1))

    value = float(areas(np.ones((1, len(order))))[0])
    samples = [areas(w) for w in unit_weights(unit.astype(np.int64), replicates=replicates, seed=seed)]
    return percentile_estimate(value, np.concatenate(samples))


def _threshold_for(target: float) -> Choose:
    def choose(confidence: FloatArray, correct: BoolArray) -> float:
        """Return the lowest confidence from which on answers are right as often as wanted."""
        if not len(confidence):
            return math.inf
        order = np.argsort(-confidence, kind="stable")
        sure, right = confidence[order], np.cumsum(correct[order])
        ends = np.flatnonzero(np.r_[np.diff(sure) != 0, True])
        good = ends[right[ends] >= target * (ends + 1) - 1e-9]
        return float(sure[good[-1]]) if len(good) else math.inf

    return choose
