"""How good the MDS tree is on patients it has not seen: nested cross-validation, baselines beside it.

The whole making of the tree, its pruning included, is repeated inside each outer fold, so no held-out patient has any
part in the tree that answers for him.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.assessment.auc import area_estimate, compare_areas, delong
from wsi_pipeline.predictions.assessment.leakage import leakage
from wsi_pipeline.predictions.assessment.subjects import Subjects
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.mds_counts import MdsTree, answer_patients
from wsi_pipeline.training.mds_counts.rows import LabelledRows
from wsi_pipeline.training.mds_counts.tree import Folds, Pruning, grow, prune, to_tree

_FOLD = "a fold of the training table"


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Answers for rows by models that did not see their patients.

    Parameters
    ----------
    share, single
        Probability of the positive label by the tree, and by the best single split, ``(n,)``.
    called
        1 positive, 0 negative, -1 without an answer, ``(n,)``.
    reasons
        Why there is none; empty where there is one.
    folds
        Of each outer fold: leaves, analytes asked for, alpha.
    """

    share: npt.NDArray[np.float64]
    single: npt.NDArray[np.float64]
    called: npt.NDArray[np.int64]
    reasons: tuple[str, ...]
    folds: tuple[dict[str, Any], ...]


def fit_tree(rows: LabelledRows, repeats: Sequence[Folds], *, trained_on: str) -> tuple[MdsTree, Pruning]:
    """Return the tree of the rows, pruned by cross-validation among them, and how it was pruned."""
    pruning = prune(rows, repeats)
    return to_tree(grow(rows, pruning.alpha), rows, trained_on=trained_on), pruning


def assess_tree(
    rows: LabelledRows,
    outer: Folds,
    inner_of: Callable[[LabelledRows, int], Sequence[Folds]],
    *,
    report: Callable[[str], None],
) -> HeldOut:
    """Return the answers of nested cross-validation.

    Parameters
    ----------
    outer
        Folds whose held-out rows are answered.
    inner_of
        Arrangements of folds for the rows of an outer fold's training part; gets the number of the outer fold.
    """
    n = len(rows.positive)
    share, single = np.full(n, np.nan), np.full(n, np.nan)
    called, reasons = np.full(n, -1), [""] * n
    folds = []
    for number, (train, test) in enumerate(outer):
        part = rows.take(train)
        tree, pruning = fit_tree(part, inner_of(part, number), trained_on=_FOLD)
        share[test] = tree.shares[tree.leaves(rows.values[test])]
        stump = to_tree(grow(part, 0.0, depth=1), part, trained_on=_FOLD)
        single[test] = stump.shares[stump.leaves(rows.values[test])]
        answers = answer_patients(tree, [""] * len(test), rows.values[test], allow_simulated=True)
        for row, answer in zip(test.tolist(), answers, strict=True):
            reasons[row] = answer.reason
            called[row] = -1 if answer.reason else int(answer.predicted == rows.positive_name)
        leaves = int(tree.is_leaf.sum())
        folds.append({"leaves": leaves, "asked": list(tree.asked), "alpha": _finite(pruning.alpha)})
        report(f"outer fold {number + 1} of {len(outer)}: {leaves} leaves, asks {', '.join(tree.asked) or 'nothing'}")
    return HeldOut(share=share, single=single, called=called, reasons=tuple(reasons), folds=tuple(folds))


def figures(rows: LabelledRows, outer: Folds, held_out: HeldOut, forest: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return the figures of the held-out patients, one row each, and signs that they are too good.

    Parameters
    ----------
    forest
        Probability by a forest that did not see the patient, ``(n,)``.

    Returns
    -------
    dict
        ``auc`` of tree, forest, best single split and the same answer for all, ``compared`` with the tree (DeLong),
        ``operating_point``, ``unanswered`` by reason, ``leakage``; JSON values only.
    """
    fold = np.zeros(len(rows.positive), dtype=np.int64)
    for number, (_, test) in enumerate(outer):
        fold[test] = number
    first = rows.first
    fold, positive = fold[first], rows.positive[first]
    scores = {
        "tree": held_out.share, "forest": forest, "single_split": held_out.single, "constant": np.zeros(len(forest)),
    }  # fmt: skip
    areas = delong(np.stack(list(scores.values()))[:, first], positive, strata=fold)
    subjects = Subjects.of(
        rows.values[first],
        [rows.positive_name if yes else rows.negative_name for yes in positive],
        feature_names=[analyte.name for analyte in rows.analytes],
    )
    reasons = [held_out.reasons[i] for i in first.tolist()]
    return {
        "auc": {
            name: asdict(area_estimate(float(areas.areas[i]), float(areas.covariance[i, i])))
            for i, name in enumerate(scores)
        },
        "compared": {
            name: {"difference": found.difference.value, "p": found.p}
            for i, name in enumerate(scores)
            if name in ("forest", "single_split") and (found := compare_areas(areas, i, 0)).p is not None
        },
        "operating_point": operating_point(held_out.called[first], positive),
        "unanswered": {reason: reasons.count(reason) for reason in sorted({*reasons} - {""})},
        "leakage": [finding.message for finding in leakage(subjects, fold)],
    }


def operating_point(called: npt.NDArray[np.int64], positive: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return sensitivity and specificity of the answered, with Wilson intervals, and who was not answered.

    Parameters
    ----------
    called
        1 positive, 0 negative, -1 without an answer, ``(n,)``.
    positive
        The truth, ``(n,)``.
    """
    found: dict[str, Any] = {}
    for name, group, right in (("sensitivity", positive, 1), ("specificity", ~positive, 0)):
        answered = called[group] >= 0
        k, n = int((called[group] == right).sum()), int(answered.sum())
        lower, upper = wilson(k, n)
        found[name] = {"value": k / n if n else None, "lower": lower, "upper": upper, "k": k, "n": n}
        found[name]["unanswered"] = int((~answered).sum())
    return found


def telling_gaps(rows: LabelledRows) -> list[dict[str, Any]]:
    """Return the analytes whose being missing tells the label (Fisher's exact test, 1 % divided by the analytes).

    A model could learn who was measured instead of what was found.
    """
    from scipy.stats import fisher_exact

    first = rows.first
    positive = rows.positive[first]
    found = []
    for analyte, column in zip(rows.analytes, rows.values[first].T, strict=True):
        missing = np.isnan(column)
        table = [[int((missing & group).sum()), int((~missing & group).sum())] for group in (positive, ~positive)]
        p = float(fisher_exact(table).pvalue)
        if p < 0.01 / len(rows.analytes):
            found.append(
                {
                    "analyte": analyte.name, "p": p, "missing_positive": table[0][0], "positive": sum(table[0]),
                    "missing_negative": table[1][0], "negative": sum(table[1]),
                }
            )  # fmt: skip
    return found


def _finite(alpha: float) -> float | None:
    return None if np.isinf(alpha) else alpha
