"""Signs that an evaluation is too good to be true: subjects known from training, features that know the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from wsi_pipeline.errors import some
from wsi_pipeline.predictions.assessment.auc import auc
from wsi_pipeline.predictions.assessment.subjects import FloatArray, IntArray, Subjects

NEAR = 0.01
"""Near-identical: no feature differs by more than this share of its standard deviation."""

ALONE = 0.995
"""A single feature with a larger AUC is suspected of holding the label."""

_FEWEST = 10


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something a reader of the figures must know; ``count`` is how many subjects, pairs or classes it concerns."""

    kind: str
    count: int
    message: str


def leakage(subjects: Subjects, fold: IntArray) -> tuple[Finding, ...]:
    """Return what may make the figures too good; empty when nothing was found.

    Kinds: ``patient-in-two-folds``, ``identical-rows`` and ``near-identical-rows`` (subjects of different folds),
    ``label-in-features`` (a feature that is the label in other words), ``feature-alone`` (one that tells a class by
    itself, AUC above 0.995), ``missing-alone`` (it does so by being missing).

    Parameters
    ----------
    fold
        ``(n,)`` test fold of each subject.
    """
    return (*_patients(subjects, fold), *_rows(subjects.features, fold), *_features(subjects))


def _patients(subjects: Subjects, fold: IntArray) -> list[Finding]:
    pairs = np.unique(np.stack([subjects.patients, fold], axis=1), axis=0)[:, 0]
    found, times = np.unique(pairs, return_counts=True)
    split = found[times > 1]
    if not split.size:
        return []
    names = some(subjects.patient_names[i] for i in split)
    message = f"{split.size} patients have subjects in more than one fold ({names}): they are tested on themselves."
    return [Finding(kind="patient-in-two-folds", count=int(split.size), message=message)]


def _rows(features: FloatArray, fold: IntArray) -> list[Finding]:
    scale = np.nanstd(np.where(np.isnan(features).all(axis=0), 0.0, features), axis=0)
    z = features / np.where(scale > 0, scale, 1.0)
    # Missing values lie far from all others, so rows are alike only where the same values are missing.
    z = np.where(np.isnan(z), 1e6, z)
    distinct, index = np.unique(z, axis=0, return_inverse=True)
    folds_of = np.zeros((len(distinct), int(fold.max()) + 1), bool)
    folds_of[index, fold] = True
    spread = folds_of.sum(axis=1) > 1
    found = []
    if spread.any():
        n = int(spread[index].sum())
        message = (
            f"{n} subjects have exactly the features of a subject in another fold: perhaps one patient entered twice."
        )
        found.append(Finding(kind="identical-rows", count=n, message=message))
    pairs = cKDTree(distinct).query_pairs(NEAR, p=np.inf, output_type="ndarray")
    near = [bool((folds_of[a] | folds_of[b]).sum() > 1) for a, b in pairs]
    if any(near):
        message = (
            f"{sum(near)} pairs of subjects in different folds differ by at most {100 * NEAR:g} % of the standard "
            "deviation in every feature: perhaps one patient entered twice."
        )
        found.append(Finding(kind="near-identical-rows", count=sum(near), message=message))
    return found


def _features(subjects: Subjects) -> list[Finding]:
    found = []
    x, k = subjects.features, len(subjects.classes)
    for j, name in enumerate(subjects.feature_names):
        there = ~np.isnan(x[:, j])
        values, labels = x[there, j], subjects.labels[there]
        pairs = np.unique(np.stack([values, labels], axis=1), axis=0)
        if len(values) >= _FEWEST and len(pairs) == k == np.unique(pairs[:, 0]).size == np.unique(pairs[:, 1]).size:
            message = f"{name} has one value for each class and no other: it is the label in other words."
            found.append(Finding(kind="label-in-features", count=1, message=message))
            continue
        for kind, score, rows, how in (
            ("feature-alone", values, there, "by itself"),
            ("missing-alone", (~there).astype(np.float64), np.ones(len(x), bool), "by being missing"),
        ):
            told = [
                (label, area)
                for c, label in enumerate(subjects.classes)
                if (area := _separation(score, subjects.labels[rows] == c)) > ALONE
            ]
            if told:
                words = ", ".join(f"{label} (AUC {area:.3f})" for label, area in told)
                message = f"{name} {how} tells {words} from the rest: was it known when the answer is wanted?"
                found.append(Finding(kind=kind, count=len(told), message=message))
    return found


def _separation(score: FloatArray, positive: np.ndarray) -> float:
    """Return the AUC in the better direction; 0 with too few subjects on a side to say."""
    if min(positive.sum(), (~positive).sum()) < _FEWEST:
        return 0.0
    area = auc(score, positive)
    return max(area, 1 - area)
