"""Would more patients help: the same test subjects, predicted by models of fewer training patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.auc import bootstrap_auc
from wsi_pipeline.predictions.assessment.bootstrap import Estimate
from wsi_pipeline.predictions.assessment.candidates import Candidate, fitted, predicted
from wsi_pipeline.predictions.assessment.cross_validation import sub_seed
from wsi_pipeline.predictions.assessment.folds import fold_splits, nested_subsets
from wsi_pipeline.predictions.assessment.subjects import IntArray, Subjects


@dataclass(frozen=True, kw_only=True)
class LearningPoint:
    """AUC by class with a share of the training patients.

    Parameters
    ----------
    n_train
        Patients trained on, a mean over folds.
    auc
        By class, in the study's order, with bootstrap intervals; empty where the model could not be trained.
    reason
        Why not; empty otherwise.
    """

    fraction: float
    n_train: float
    auc: tuple[Estimate, ...]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """One candidate's points, by rising share."""

    candidate: str
    points: tuple[LearningPoint, ...]


def learning_curve(
    candidate: Candidate,
    subjects: Subjects,
    fold: IntArray,
    fractions: tuple[float, ...],
    *,
    replicates: int = 2000,
    seed: int = 0,
) -> LearningCurve:
    """Cross-validate with growing parts of each fold's training patients, each part within the next.

    Parameters
    ----------
    fold
        ``(n,)`` test fold of each subject.
    fractions
        Rising shares of the training patients.

    Raises
    ------
    DataError
        The fractions do not rise. A candidate that cannot learn from so few says so in the point.
    """
    subsets = {
        split.name: nested_subsets(
            subjects.labels[split.train], subjects.patients[split.train], fractions, seed=sub_seed(seed, 2, i)
        )
        for i, split in enumerate(fold_splits(fold))
    }
    points = []
    for step, fraction in enumerate(fractions):
        p = np.zeros((len(subjects), len(subjects.classes)))
        sizes, reason = [], ""
        for i, split in enumerate(fold_splits(fold)):
            train = subjects.take(split.train[subsets[split.name][step]])
            sizes.append(train.n_patients)
            try:
                model = fitted(candidate, train, sub_seed(seed, 3, i))
                p[split.test] = predicted(candidate, model, subjects.take(split.test))
            except DataError as error:
                reason = str(error)
                break
        areas: tuple[Estimate, ...] = ()
        if not reason:
            areas = tuple(
                bootstrap_auc(
                    p[:, c],
                    subjects.labels == c,
                    units=subjects.patients,
                    strata=fold,
                    replicates=replicates,
                    seed=seed,
                )
                for c in range(len(subjects.classes))
            )
        points.append(LearningPoint(fraction=fraction, n_train=float(np.mean(sizes)), auc=areas, reason=reason))
    return LearningCurve(candidate=candidate.name, points=tuple(points))
