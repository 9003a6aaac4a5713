"""The null check: with shuffled labels nothing can be learnt, so the same procedure must find nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.predictions.assessment.auc import bootstrap_auc
from wsi_pipeline.predictions.assessment.bootstrap import CONFIDENCE, Estimate
from wsi_pipeline.predictions.assessment.candidates import Candidate
from wsi_pipeline.predictions.assessment.cross_validation import cross_validate, repeated_folds, sub_seed
from wsi_pipeline.predictions.assessment.subjects import IntArray, Subjects


@dataclass(frozen=True, kw_only=True)
class NullCheck:
    """AUCs on shuffled labels.

    Parameters
    ----------
    confidence
        Of each interval. It is so high that all intervals together contain 0.5 with 95 % certainty where nothing leaks
        (Bonferroni): of many 95 % intervals some would miss it by chance.
    auc
        ``auc[r][c]``: of shuffle ``r`` and class ``c``.
    passed
        Every interval contains 0.5.
    """

    candidate: str
    confidence: float
    auc: tuple[tuple[Estimate, ...], ...]
    passed: bool


def shuffled_labels(subjects: Subjects, *, seed: int) -> IntArray:
    """Return labels shuffled between patients; between subjects where patients have subjects of several classes."""
    rng = np.random.default_rng(seed)
    _, first, unit = np.unique(subjects.patients, return_index=True, return_inverse=True)
    of_patient = subjects.labels[first]
    if np.array_equal(of_patient[unit], subjects.labels):
        result: IntArray = rng.permutation(of_patient)[unit]
        return result
    return rng.permutation(subjects.labels)


def null_check(
    candidate: Candidate, subjects: Subjects, *, folds: int, shuffles: int, replicates: int = 2000, seed: int = 0
) -> NullCheck:
    """Cross-validate on shuffled labels, several times.

    Parameters
    ----------
    shuffles
        How often.

    Raises
    ------
    DataError
        As in the cross-validation itself.
    """
    k = len(subjects.classes)
    tests = shuffles * (1 if k == 2 else k)
    confidence = 1 - (1 - CONFIDENCE) / tests
    # The tail of an interval needs replicates beyond it.
    drawn = max(replicates, round(40 / (1 - confidence)))
    rows = []
    for shuffle in range(shuffles):
        own = sub_seed(seed, 4, shuffle)
        shuffled = subjects.with_labels(shuffled_labels(subjects, seed=own))
        found = cross_validate(candidate, shuffled, repeated_folds(shuffled, folds, 1, seed=own), seed=own)
        labels, units = shuffled.labels[found.rows], shuffled.patients[found.rows]
        rows.append(
            tuple(
                bootstrap_auc(
                    found.probabilities[:, c],
                    labels == c,
                    units=units,
                    strata=found.strata,
                    replicates=drawn,
                    seed=own,
                    confidence=confidence,
                )
                for c in range(k)
            )
        )
    held = all(e.lower is not None and e.upper is not None and e.lower <= 0.5 <= e.upper for row in rows for e in row)
    return NullCheck(candidate=candidate.name, confidence=confidence, auc=tuple(rows), passed=held)
