"""What is compared: ways to fit a model, and the trivial one that knows class frequencies alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.subjects import FloatArray, IntArray, Subjects

BASELINE = "class frequencies"
"""Name of the trivial candidate that every study adds."""


class Predictor(Protocol):
    """A fitted model."""

    def predict_proba(self, features: FloatArray) -> FloatArray:
        """Return probabilities ``(n, classes)`` of features ``(n, d)``; rows sum to 1."""
        ...


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to fit a model.

    Parameters
    ----------
    fit
        ``fit(features, labels, seed)`` returns a :class:`Predictor`. ``features`` is float64 ``(n, d)`` with NaN,
        ``labels`` int64 ``(n,)``, indices into the study's classes; all classes occur.
    uses_patients
        Whether ``fit`` also takes ``patients=``, int64 ``(n,)``: needed by a fit that splits its training subjects
        again (to calibrate, to choose thresholds), which must not part the subjects of a patient.
    """

    name: str
    fit: Callable[..., Predictor]
    uses_patients: bool = False


@dataclass(frozen=True)
class _Frequencies:
    shares: FloatArray

    def predict_proba(self, features: FloatArray) -> FloatArray:
        return np.tile(self.shares, (len(features), 1))


def baseline(n_classes: int) -> Candidate:
    """Return the candidate that answers the class frequencies of its training subjects, whatever the features."""

    def fit(features: FloatArray, labels: IntArray, seed: int) -> Predictor:
        return _Frequencies(np.bincount(labels, minlength=n_classes) / len(labels))

    return Candidate(name=BASELINE, fit=fit)


def fitted(candidate: Candidate, train: Subjects, seed: int) -> Predictor:
    """Fit a candidate.

    Raises
    ------
    DataError
        A class has no training subject.
    """
    counts = np.bincount(train.labels, minlength=len(train.classes))
    absent = [name for name, n in zip(train.classes, counts, strict=True) if not n]
    if absent:
        raise DataError(
            f"{candidate.name} cannot be trained: none of the {len(train)} subjects is {' or '.join(absent)}"
        )
    if candidate.uses_patients:
        return candidate.fit(train.features, train.labels, seed, patients=train.patients)
    return candidate.fit(train.features, train.labels, seed)


def predicted(candidate: Candidate, predictor: Predictor, test: Subjects) -> FloatArray:
    """Return checked probabilities ``(n, classes)``.

    Raises
    ------
    DataError
        They have another shape, are no probabilities, or do not sum to 1.
    """
    return checked(candidate.name, predictor.predict_proba(test.features), test)


def checked(name: str, given: npt.ArrayLike, subjects: Subjects) -> FloatArray:
    """Return what a model gave for subjects, as :func:`predicted` does.

    Raises
    ------
    DataError
        It has another shape, holds no probabilities, or they do not sum to 1.
    """
    p = np.asarray(given, dtype=np.float64)
    shape = (len(subjects), len(subjects.classes))
    if p.shape != shape:
        raise DataError(f"{name} gave probabilities of shape {p.shape}; {shape} is needed")
    if not np.isfinite(p).all() or p.min() < 0 or np.abs(p.sum(axis=1) - 1).max() > 1e-3:
        raise DataError(f"{name} gave numbers that are no probabilities: rows must sum to 1, from 0 to 1")
    return p
