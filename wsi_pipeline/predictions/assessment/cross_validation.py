"""Predictions for subjects whose patient was not trained on: repeated, and nested with a choice inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.auc import auc
from wsi_pipeline.predictions.assessment.candidates import Candidate, fitted, predicted
from wsi_pipeline.predictions.assessment.folds import fold_splits, grouped_folds
from wsi_pipeline.predictions.assessment.subjects import FloatArray, IntArray, Subjects

CHOSEN = "chosen inside the training folds"
"""Name under which nested cross-validation appears beside the candidates it chose from."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a candidate answered, a row for each subject and repeat.

    Parameters
    ----------
    rows
        ``(N,)`` the subject of each row.
    probabilities
        ``(N, classes)``.
    strata
        ``(N,)`` rows with one number come from one model, so their scores may be compared.
    repeats
        ``(N,)`` repeat of the cross-validation.
    threshold_folds
        ``(N,)`` rows of one number get their thresholds from the others; the strata where None. One model that
        answered all subjects is one stratum, and its thresholds need folds all the same.
    """

    candidate: str
    rows: IntArray
    probabilities: FloatArray
    strata: IntArray
    repeats: IntArray
    threshold_folds: IntArray | None = None

    @property
    def parts(self) -> IntArray:
        """Return ``threshold_folds``, or the strata."""
        return self.strata if self.threshold_folds is None else self.threshold_folds

    def take(self, chosen: np.ndarray) -> Predictions:
        """Return some of the rows."""
        return Predictions(
            candidate=self.candidate,
            rows=self.rows[chosen],
            probabilities=self.probabilities[chosen],
            strata=self.strata[chosen],
            repeats=self.repeats[chosen],
            threshold_folds=None if self.threshold_folds is None else self.threshold_folds[chosen],
        )


def repeated_folds(subjects: Subjects, folds: int, repeats: int, *, seed: int) -> IntArray:
    """Return the test fold of each subject in each repeat, ``(repeats, n)``."""
    return np.stack(
        [
            grouped_folds(subjects.labels, subjects.patients, folds, seed=sub_seed(seed, 0, repeat))
            for repeat in range(repeats)
        ]
    )


def cross_validate(candidate: Candidate, subjects: Subjects, folds: IntArray, *, seed: int) -> Predictions:
    """Predict each subject by a model that was fitted without its fold, in every repeat.

    Parameters
    ----------
    folds
        ``(repeats, n)`` of :func:`repeated_folds`.

    Raises
    ------
    DataError
        A class has no subject in some training part, or the candidate gives no probabilities.
    """
    return _gathered(
        candidate.name,
        (
            (repeat, test, predicted(candidate, fitted(candidate, subjects.take(train), one), subjects.take(test)))
            for repeat, one, train, test in _parts(folds, seed)
        ),
    )


def nested_cross_validate(
    candidates: Sequence[Candidate], subjects: Subjects, folds: IntArray, *, inner_folds: int, seed: int
) -> tuple[Predictions, tuple[str, ...]]:
    """Let each training part choose among candidates by a cross-validation of its own, then predict the test part.

    The choice is by the mean AUC over classes, the first candidate where they are equal. The figures are those of the
    whole procedure, choice included: the best of several candidates, picked by looking at the results, looks better
    than it is (Varma, Simon. BMC Bioinformatics 2006;7:91).

    Returns
    -------
    predictions, chosen
        And the name of the candidate chosen in each fold of each repeat.

    Raises
    ------
    DataError
        A class has fewer patients than inner folds in some training part, or as in :func:`cross_validate`.
    """
    if not candidates:
        raise DataError("there is no candidate to choose from")
    chosen: list[str] = []

    def answers() -> Iterator[tuple[int, IntArray, FloatArray]]:
        for repeat, one, train, test in _parts(folds, seed):
            part = subjects.take(train)
            inside = repeated_folds(part, inner_folds, 1, seed=one)
            scores = [mean_auc(cross_validate(c, part, inside, seed=one), part) for c in candidates]
            best = candidates[int(np.argmax(scores))]
            chosen.append(best.name)
            yield repeat, test, predicted(best, fitted(best, part, one), subjects.take(test))

    found = _gathered(CHOSEN, answers())
    return found, tuple(chosen)


def mean_auc(predictions: Predictions, subjects: Subjects) -> float:
    """Return the mean over classes of the AUC of one class against the rest."""
    labels = subjects.labels[predictions.rows]
    areas = [
        auc(predictions.probabilities[:, c], labels == c, strata=predictions.strata)
        for c in range(len(subjects.classes))
    ]
    return round(float(np.mean(areas)), 12)


def sub_seed(seed: int, *place: int) -> int:
    """Return a seed of its own for one place of a study."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1)[0] >> 1)


def _parts(folds: IntArray, seed: int) -> Iterator[tuple[int, int, IntArray, IntArray]]:
    for repeat, fold in enumerate(folds):
        for number, split in enumerate(fold_splits(fold)):
            yield repeat, sub_seed(seed, 1, repeat, number), split.train, split.test


def _gathered(name: str, answers: Iterator[tuple[int, IntArray, FloatArray]]) -> Predictions:
    parts = list(answers)
    return Predictions(
        candidate=name,
        rows=np.concatenate([rows for _, rows, _ in parts]),
        probabilities=np.concatenate([p for _, _, p in parts]),
        strata=np.concatenate([np.full(len(rows), i) for i, (_, rows, _) in enumerate(parts)]),
        repeats=np.concatenate([np.full(len(rows), repeat) for repeat, rows, _ in parts]),
    )
