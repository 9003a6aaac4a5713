"""Fit the linear members of slide-level models: ridge logistic regression whose strength is chosen inside."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.assessment.folds import grouped_folds
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.inputs import Input
from wsi_pipeline.predictions.slide_models.linear import LinearMember
from wsi_pipeline.predictions.slide_models.member import centred
from wsi_pipeline.predictions.slide_models.subject import Subject

IntArray = npt.NDArray[np.int64]

STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Inverse ridge penalties that are tried, for rows of unit variance in every column."""
_FOLDS = 5
_CLIP = 1e-6


def fit_linear(
    name: str,
    read: Input,
    subjects: Sequence[Subject],
    labels: IntArray,
    patients: IntArray,
    *,
    n_classes: int,
    seed: int,
) -> LinearMember:
    """Return a linear member.

    Rows are the views of each subject, which together weigh one. The strength of the ridge is that of the lowest
    cross-validated log loss, patients never parted.

    Parameters
    ----------
    labels, patients
        ``(n,)``.
    """
    x, owner = rows_of(read, subjects)
    weight = 1.0 / np.bincount(owner)[owner]
    mean = np.average(x, axis=0, weights=weight)
    spread = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=weight))
    spread = np.where(spread > 1e-9, spread, 1.0)
    z = (x - mean) / spread
    strength = _choose(z, owner, weight, labels, patients, n_classes, seed)
    coefficients, intercept = _logistic(z, labels[owner], weight, strength, n_classes)
    return LinearMember(name=name, input=read, mean=mean, spread=spread, coefficients=coefficients, intercept=intercept)


def rows_of(read: Input, subjects: Sequence[Subject]) -> tuple[FloatArray, IntArray]:
    """Return the numbers of every view ``(rows, d)``, and the subject of each row."""
    rows, owner = [], []
    for i, subject in enumerate(subjects):
        for view in subject.views:
            rows.append(read.read(subject, view, np.ones((1, len(subject.bag))))[0])
            owner.append(i)
    return np.stack(rows), np.asarray(owner, np.int64)


def _choose(
    z: FloatArray, owner: IntArray, weight: FloatArray, labels: IntArray, patients: IntArray, n_classes: int, seed: int
) -> float:
    counts = [np.unique(patients[labels == c]).size for c in range(n_classes)]
    folds = min(_FOLDS, *counts)
    if folds < 2:
        return STRENGTHS[0]
    fold = grouped_folds(labels, patients, folds, seed=seed)[owner]
    # Of rows fewer than columns nothing is lost on their own axes, and the fits are fast.
    left, scale, _ = np.linalg.svd(z, full_matrices=False)
    own = left * scale
    losses = np.zeros(len(STRENGTHS))
    for number in range(folds):
        train, test = fold != number, fold == number
        for i, strength in enumerate(STRENGTHS):
            coefficients, intercept = _logistic(own[train], labels[owner[train]], weight[train], strength, n_classes)
            margins = own[test] @ coefficients + intercept
            p = np.exp(margins - margins.max(axis=1, keepdims=True))
            p /= p.sum(axis=1, keepdims=True)
            true = p[np.arange(int(test.sum())), labels[owner[test]]]
            losses[i] -= (weight[test] * np.log(np.maximum(true, _CLIP))).sum()
    return STRENGTHS[int(losses.argmin())]


def _logistic(
    x: FloatArray, y: IntArray, weight: FloatArray, strength: float, n_classes: int
) -> tuple[FloatArray, FloatArray]:
    """Return centred coefficients ``(d, classes)`` and intercepts of a logistic regression with a ridge."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LogisticRegression(C=strength, max_iter=300).fit(x, y, sample_weight=weight)
    if n_classes == 2:
        half = found.coef_[0] / 2
        return np.stack([-half, half], axis=1), np.array([-1.0, 1.0]) * found.intercept_[0] / 2
    # In the order of a file: another one multiplies to other last digits.
    return np.ascontiguousarray(centred(found.coef_.T)), centred(found.intercept_)
