"""Classes against classes: confusion, precision, recall, F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.assessment.bootstrap import Estimate, FloatArray, bootstrap_cells, bootstrap_units, divide

OUTSIDE = "(outside)"
"""Answer that is none of the evaluated classes; always wrong."""


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class; ``support`` is how many true cells it has."""

    name: str
    support: int
    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True, kw_only=True)
class ClassificationMetrics:
    """Figures over cells.

    Parameters
    ----------
    classes
        Rows of the confusion matrix.
    answers
        Its columns: the classes, and ``(outside)`` where some answer was none of them.
    confusion
        ``confusion[i][j]``: cells of class ``i`` answered ``j``.
    macro_f1
        Mean F1 over the classes that have true cells; F1 is 0 for a class that is never answered.
    resampled
        What the bootstrap drew: ``cells`` or ``groups``.
    """

    n: int
    classes: tuple[str, ...]
    answers: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    per_class: tuple[ClassScore, ...]
    accuracy: Estimate
    macro_f1: Estimate
    resampled: str


def evaluate_classification(
    true: Sequence[str],
    pred: Sequence[str | None],
    *,
    classes: Sequence[str],
    groups: Sequence[str] | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> ClassificationMetrics:
    """Compare answers with the truth.

    Parameters
    ----------
    true, pred
        One entry a cell; an answer outside ``classes`` (or None) counts as wrong, never as missing.
    classes
        The classes evaluated, in table order; every true class must be one of them.
    groups
        Slide, patient or near-duplicate group of each cell. Given, the bootstrap draws whole groups, which is the
        honest interval when cells of a group resemble each other; otherwise it draws cells.

    Raises
    ------
    DataError
        There are no cells, lengths differ, or a true class is not in ``classes``.
    """
    if not true:
        raise DataError("nothing to evaluate: there are no cells")
    if len(true) != len(pred) or (groups is not None and len(groups) != len(true)):
        raise DataError(
            f"one answer and one group a cell: {len(true)} cells, {len(pred)} answers, "
            f"{len(true) if groups is None else len(groups)} groups"
        )
    rank = {name: i for i, name in enumerate(classes)}
    unknown = sorted(set(true) - set(rank))
    if unknown:
        raise DataError(f"true classes {', '.join(unknown)} are not among {', '.join(classes)}")
    k = len(rank)
    t = np.array([rank[c] for c in true])
    p = np.array([k if c is None else rank.get(c, k) for c in pred])
    cells = t * (k + 1) + p
    confusion = np.bincount(cells, minlength=k * (k + 1)).reshape(k, k + 1)
    supported = confusion.sum(axis=1) > 0

    def figures_of(c: FloatArray) -> dict[str, FloatArray]:
        return _figures(c, k, supported)

    if groups is None:
        figures = bootstrap_cells(confusion.ravel(), figures_of, replicates=replicates, seed=seed)
    else:
        figures = bootstrap_units(
            _confusion_by_group(cells, groups, k),
            figures_of,
            replicates=replicates,
            seed=seed,
        )
    outside = bool(confusion[:, k].any())
    width = k + outside
    return ClassificationMetrics(
        n=len(true),
        classes=tuple(classes),
        answers=(*classes, OUTSIDE) if outside else tuple(classes),
        confusion=tuple(tuple(int(v) for v in row[:width]) for row in confusion),
        per_class=tuple(
            ClassScore(
                name=name,
                support=int(confusion[i].sum()),
                precision=figures[f"precision {i}"],
                recall=figures[f"recall {i}"],
                f1=figures[f"f1 {i}"],
            )
            for i, name in enumerate(classes)
        ),
        accuracy=figures["accuracy"],
        macro_f1=figures["macro_f1"],
        resampled="cells" if groups is None else "groups",
    )


def _confusion_by_group(cells: npt.NDArray[np.integer], groups: Sequence[str], k: int) -> FloatArray:
    """Return one flattened confusion matrix a group."""
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    units = np.zeros((int(index.max()) + 1, k * (k + 1)))
    np.add.at(units, (index, cells), 1)
    return units


def _figures(c: FloatArray, k: int, supported: npt.NDArray[np.bool_]) -> dict[str, FloatArray]:
    """Return all figures of flattened confusion matrices ``(samples, k * (k + 1))``."""
    matrix = c.reshape(-1, k, k + 1)
    hits = np.diagonal(matrix, axis1=1, axis2=2)
    support = matrix.sum(axis=2)
    answered = matrix.sum(axis=1)[:, :k]
    precision, recall = divide(hits, answered), divide(hits, support)
    # A class without true cells in a sample has no F1 there.
    f1 = np.where(support > 0, divide(2 * hits, support + answered), np.nan)
    present = (support > 0) & supported
    table = {
        "accuracy": divide(hits.sum(axis=1), support.sum(axis=1)),
        "macro_f1": divide(np.where(present, f1, 0).sum(axis=1), present.sum(axis=1).astype(np.float64)),
    }
    for i in range(k):
        table |= {f"precision {i}": precision[:, i], f"recall {i}": recall[:, i], f"f1 {i}": f1[:, i]}
    return table
