"""Who is trained on and who is tested: folds that keep patients whole, centres, and nested training subsets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.subjects import IntArray, Subjects


@dataclass(frozen=True, kw_only=True)
class Split:
    """Rows to train on and rows to test; ``name`` says what was left out."""

    name: str
    train: IntArray
    test: IntArray


def grouped_folds(labels: IntArray, patients: IntArray, folds: int, *, seed: int) -> IntArray:
    """Return the fold of each subject, 0 to ``folds`` - 1: whole patients, with the classes spread evenly.

    Patients are taken in a random order, those with most subjects first, each to the fold that has the smallest share
    of the patient's classes so far. Where each patient is one subject, the folds differ by at most one subject of any
    class.

    Raises
    ------
    DataError
        Fewer than two folds, or a class with fewer patients than folds: some fold would have none of it.
    """
    if folds < 2:
        raise DataError(f"at least 2 folds are needed, not {folds}")
    unit = np.unique(patients, return_inverse=True)[1]
    k = int(labels.max()) + 1
    counts = np.zeros((int(unit.max()) + 1, k))
    np.add.at(counts, (unit, labels), 1)
    with_class = (counts > 0).sum(axis=0)
    totals = counts.sum(axis=0)
    if ((with_class < folds) & (totals > 0)).any():
        fewest = int(with_class[totals > 0].min())
        raise DataError(f"{folds} folds need as many patients of every class; the rarest class has {fewest}")
    shares = counts / np.maximum(totals, 1)
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held, size = np.zeros((folds, k)), np.zeros(folds)
    fold_of = np.zeros(len(counts), np.int64)
    for patient in order:
        # The first key decides; the size of the fold breaks ties, then its number.
        burden = np.round(held @ shares[patient], 12)
        fold = int(np.lexsort((size, burden))[0])
        fold_of[patient] = fold
        held[fold] += shares[patient]
        size[fold] += counts[patient].sum()
    result: IntArray = fold_of[unit]
    return result


def fold_splits(fold: IntArray) -> Iterator[Split]:
    """Yield each fold as the test part, the others as the training part."""
    for number in np.unique(fold):
        yield Split(
            name=f"fold {number + 1}", train=np.flatnonzero(fold != number), test=np.flatnonzero(fold == number)
        )


def centre_splits(subjects: Subjects) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield centres to train on and centres to test: each alone against each other one, then all but one against it.

    With two centres the two are the same and come once.
    """
    present = [] if subjects.centres is None else [int(c) for c in np.unique(subjects.centres)]
    if len(present) < 2:
        return
    for centre in present:
        yield (centre,), tuple(other for other in present if other != centre)
    if len(present) > 2:
        for centre in present:
            yield tuple(other for other in present if other != centre), (centre,)


def rows_of_centres(subjects: Subjects, train: tuple[int, ...], test: int) -> tuple[IntArray, IntArray]:
    """Return training and test rows; a patient seen at both stays out of the training part."""
    centres = subjects.centres
    if centres is None:
        raise DataError("the subjects have no centres")
    inside = np.flatnonzero(centres == test)
    train_rows = np.flatnonzero(np.isin(centres, train) & ~np.isin(subjects.patients, subjects.patients[inside]))
    return train_rows, inside


def nested_subsets(labels: IntArray, patients: IntArray, fractions: tuple[float, ...], *, seed: int) -> list[IntArray]:
    """Return rows of growing subsets of the patients, each within the next, with the mix of classes of the whole.

    The first patient of each class comes first, so that no subset lacks a class.

    Parameters
    ----------
    fractions
        Rising, above 0 and up to 1: shares of the patients.

    Raises
    ------
    DataError
        The fractions are not rising, or not within 0 and 1.
    """
    if not fractions or min(fractions) <= 0 or max(fractions) > 1 or list(fractions) != sorted(set(fractions)):
        raise DataError(f"fractions of the training patients must rise from above 0 to at most 1: {fractions}")
    names, first, unit = np.unique(patients, return_index=True, return_inverse=True)
    of_class = labels[first]
    rng = np.random.default_rng(seed)
    place = np.empty(len(names))
    for label in np.unique(of_class):
        members = rng.permutation(np.flatnonzero(of_class == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
        place[members[0]] = -1.0
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(place, kind="stable")] = np.arange(len(names))
    return [np.flatnonzero(rank[unit] < max(1, round(share * len(names)))) for share in fractions]
