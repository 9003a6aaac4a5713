"""From one centre to another: train where the test centre had no part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.assess import Assessment, assess
from wsi_pipeline.predictions.assessment.candidates import Candidate, fitted, predicted
from wsi_pipeline.predictions.assessment.cross_validation import (
    Predictions,
    cross_validate,
    repeated_folds,
    sub_seed,
)
from wsi_pipeline.predictions.assessment.folds import centre_splits, rows_of_centres
from wsi_pipeline.predictions.assessment.plan import Plan
from wsi_pipeline.predictions.assessment.subjects import Subjects


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A candidate trained at some centres and tested at another.

    Parameters
    ----------
    n_train
        Training subjects; patients who were also seen at the test centre are left out.
    threshold_folds
        Folds of the cross-validation inside the training centres by which thresholds were fixed.
    assessment
        None where it could not be trained; ``reason`` says why.
    """

    candidate: str
    trained_on: tuple[str, ...]
    tested_on: str
    n_train: int
    threshold_folds: int
    assessment: Assessment | None
    reason: str = ""


def transfers(candidates: Sequence[Candidate], subjects: Subjects, plan: Plan) -> tuple[Transfer, ...]:
    """Train on each centre and test on each other one, then train on all but one and test on it.

    Thresholds are fixed by cross-validation inside the training centres.
    """
    found = []
    for train_centres, test_centres in centre_splits(subjects):
        for test_centre in test_centres:
            train_rows, test_rows = rows_of_centres(subjects, train_centres, test_centre)
            train, test = subjects.take(train_rows), subjects.take(test_rows)
            names = tuple(subjects.centre_names[c] for c in train_centres)
            for candidate in candidates:
                seed = sub_seed(plan.seed, 5, *train_centres)
                n_folds, assessment, reason = 0, None, ""
                try:
                    n_folds, assessment = _transfer(candidate, train, test, test_rows, subjects, plan, seed)
                except DataError as error:
                    reason = str(error)
                found.append(
                    Transfer(
                        candidate=candidate.name,
                        trained_on=names,
                        tested_on=subjects.centre_names[test_centre],
                        n_train=len(train),
                        threshold_folds=n_folds,
                        assessment=assessment,
                        reason=reason,
                    )
                )
    return tuple(found)


def _transfer(
    candidate: Candidate,
    train: Subjects,
    test: Subjects,
    rows: np.ndarray,
    subjects: Subjects,
    plan: Plan,
    seed: int,
) -> tuple[int, Assessment]:
    probabilities = predicted(candidate, fitted(candidate, train, seed), test)
    rarest = min(np.unique(train.patients[train.labels == c]).size for c in range(len(train.classes)))
    folds = min(plan.folds, rarest)
    inside = cross_validate(candidate, train, repeated_folds(train, folds, 1, seed=seed), seed=seed)
    found = Predictions(
        candidate=candidate.name,
        rows=rows,
        probabilities=probabilities,
        strata=np.zeros(len(rows), np.int64),
        repeats=np.zeros(len(rows), np.int64),
    )
    return folds, assess(found, subjects, plan, reference=(inside, train))
