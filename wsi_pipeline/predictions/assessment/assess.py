"""All figures of one candidate from its predictions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.auc import area_estimate, bootstrap_auc, delong
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray
from wsi_pipeline.predictions.assessment.calibration import Calibration, brier_score, calibration, calibration_error
from wsi_pipeline.predictions.assessment.confusion import evaluate_classification
from wsi_pipeline.predictions.assessment.cross_validation import Predictions
from wsi_pipeline.predictions.assessment.decision import DecisionPoint, decision_curve
from wsi_pipeline.predictions.assessment.operating import OperatingPoint, operating_point
from wsi_pipeline.predictions.assessment.plan import Plan
from wsi_pipeline.predictions.assessment.risk import RiskCoverage, risk_coverage
from wsi_pipeline.predictions.assessment.subjects import Subjects
from wsi_pipeline.predictions.assessment.thresholds import BoolArray

_ROC_GRID = np.linspace(0, 1, 51)


@dataclass(frozen=True, kw_only=True)
class ClassAssessment:
    """One class against the rest.

    Parameters
    ----------
    n
        Subjects of the class.
    auc, auc_delong
        The same area with the interval of a bootstrap over patients, and with DeLong's.
    recall, precision
        Of the likeliest class.
    roc
        Sensitivity at false-positive rates 0, 0.02, ... 1, all predictions pooled; empty without a pair to compare.
    reliability
        Expected calibration error and table of the class's probability.
    """

    name: str
    n: int
    auc: Estimate
    auc_delong: Estimate
    recall: Estimate
    precision: Estimate
    f1: Estimate
    brier: Estimate
    ece: Estimate
    reliability: Calibration
    operating: tuple[OperatingPoint, ...]
    decision: tuple[DecisionPoint, ...]
    roc: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """One candidate; every figure is a mean over the repeats, every interval one over patients.

    Parameters
    ----------
    confusion
        ``confusion[i][j]``: subjects of class ``i`` whose likeliest class is ``j``.
    ece, reliability
        Of the likeliest class's probability.
    """

    candidate: str
    n: int
    n_patients: int
    accuracy: Estimate
    macro_f1: Estimate
    brier: Estimate
    ece: Estimate
    reliability: Calibration
    risk: RiskCoverage
    confusion: tuple[tuple[float, ...], ...]
    per_class: tuple[ClassAssessment, ...]


def assess(
    found: Predictions, subjects: Subjects, plan: Plan, *, reference: tuple[Predictions, Subjects] | None = None
) -> Assessment:
    """Return all figures of predictions.

    Parameters
    ----------
    found
        Predictions of the subjects.
    reference
        Cross-validated predictions of the training subjects, to fix thresholds on, where ``found`` are of subjects
        set apart. Without, the threshold of a fold comes from the other folds.

    Raises
    ------
    DataError
        There are no predictions.
    """
    if not len(found.rows):
        raise DataError(f"{found.candidate} has no predictions to assess")
    p, y = found.probabilities, subjects.labels[found.rows]
    units, times = subjects.patients[found.rows], int(np.unique(found.repeats).size)
    names = subjects.classes
    top, sure = p.argmax(axis=1), p.max(axis=1)
    right = top == y
    sizes = {"replicates": plan.replicates, "seed": plan.seed}
    answers = evaluate_classification(
        [names[i] for i in y], [names[i] for i in top], classes=names, groups=[str(u) for u in units], **sizes
    )
    per_class = []
    for c, score in enumerate(answers.per_class):
        per_class.append(
            replace(
                _one_class(found, subjects, plan, c, reference),
                recall=score.recall,
                precision=score.precision,
                f1=score.f1,
            )
        )
    return Assessment(
        candidate=found.candidate,
        n=int(np.unique(found.rows).size),
        n_patients=int(np.unique(units).size),
        accuracy=answers.accuracy,
        macro_f1=answers.macro_f1,
        brier=brier_score(p, y, units=units, **sizes),
        ece=calibration_error(np.minimum(sure, 1.0), right, units=units, bins=plan.bins, **sizes),
        reliability=_per_repeat(calibration(np.minimum(sure, 1.0), right, bins=plan.bins), times),
        risk=risk_coverage(
            sure,
            right,
            units=units,
            strata=found.parts,
            repeats=found.repeats,
            targets=plan.accuracies,
            reference=_confidences(*reference) if reference is not None else None,
            **sizes,
        ),
        confusion=tuple(tuple(v / times for v in row) for row in answers.confusion),
        per_class=tuple(per_class),
    )


_UNKNOWN = Estimate(value=None, lower=None, upper=None)


def _one_class(
    found: Predictions, subjects: Subjects, plan: Plan, c: int, reference: tuple[Predictions, Subjects] | None
) -> ClassAssessment:
    score, positive = np.minimum(found.probabilities[:, c], 1.0), subjects.labels[found.rows] == c
    units, strata, times = subjects.patients[found.rows], found.strata, int(np.unique(found.repeats).size)
    sizes = {"replicates": plan.replicates, "seed": plan.seed}
    exact = delong(score, positive, strata=strata, units=units)
    train = None
    if reference is not None:
        train = (reference[0].probabilities[:, c], reference[1].labels[reference[0].rows] == c)
    return ClassAssessment(
        name=subjects.classes[c],
        n=int(np.unique(found.rows[positive]).size),
        auc=bootstrap_auc(score, positive, units=units, strata=strata, **sizes),
        auc_delong=area_estimate(float(exact.areas[0]), float(exact.covariance[0, 0])),
        recall=_UNKNOWN,
        precision=_UNKNOWN,
        f1=_UNKNOWN,
        brier=brier_score(score, positive.astype(np.int64), units=units, **sizes),
        ece=calibration_error(score, positive, units=units, bins=plan.bins, **sizes),
        reliability=_per_repeat(calibration(score, positive, bins=plan.bins), times),
        operating=tuple(
            operating_point(
                score, positive, rule, units=units, strata=found.parts, repeats=found.repeats, reference=train
            )
            for rule in plan.rules
        ),
        decision=decision_curve(score, positive, units=units, replicates=plan.replicates, seed=plan.seed),
        roc=_roc(score, positive),
    )


def _confidences(found: Predictions, subjects: Subjects) -> tuple[FloatArray, BoolArray]:
    """Return how sure each answer is, and whether it is right."""
    return found.probabilities.max(axis=1), found.probabilities.argmax(axis=1) == subjects.labels[found.rows]


def _per_repeat(table: Calibration, repeats: int) -> Calibration:
    """Return the table with the subjects of one repeat, not of all together."""
    return replace(table, bins=tuple(replace(b, n=round(b.n / repeats)) for b in table.bins))


def _roc(score: FloatArray, positive: BoolArray) -> tuple[float, ...]:
    if positive.all() or not positive.any():
        return ()
    at = np.unique(score)[::-1]
    high, low = np.sort(score[positive]), np.sort(score[~positive])
    true_rate = np.r_[0.0, 1 - np.searchsorted(high, at, side="left") / len(high)]
    false_rate = np.r_[0.0, 1 - np.searchsorted(low, at, side="left") / len(low)]
    # Where the curve rises straight up, the upper end is the one that a threshold can reach.
    last = np.r_[np.diff(false_rate) > 0, True]
    return tuple(float(v) for v in np.interp(_ROC_GRID, false_rate[last], true_rate[last]))
