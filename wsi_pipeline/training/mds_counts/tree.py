"""From rows to a readable tree: CART, pruned as much as cross-validation allows.

Method: Breiman, Friedman, Olshen, Stone. Classification and Regression Trees, 1984: Gini splits, cost-complexity
pruning (chapter 3), the one-standard-error rule (section 3.4.3), equal priors of both labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.tree import DecisionTreeClassifier

from wsi_pipeline.predictions.mds_counts import MdsTree, Node, Split, TreeAnalyte
from wsi_pipeline.training.mds_counts.rows import LabelledRows

LEAST_ROWS = 7
"""Rows of a leaf at least, the default of rpart (Therneau, Atkinson): fewer say nothing about patients to come."""
_MOST_ALPHAS = 40
_DECIMALS = 17
_HALF = 0.5 + 1e-9
"""A leaf with as much of one label as of the other is not positive, whichever way its weights are rounded."""

Folds = Sequence[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
"""Training and held-out rows of each fold."""


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """What cross-validation says of each complexity.

    Parameters
    ----------
    alphas
        Candidate prices of a leaf, ascending: geometric means of the prices at which the tree of all rows shrinks,
        and infinity for the root alone.
    errors
        Mean of both labels' error rates on held-out patients, averaged over repeats.
    standard_error
        Binomial standard error of the lowest error, by patients and not by repeats.
    chosen
        Index of the largest alpha whose error is within one standard error of the lowest.
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]
    standard_error: float
    chosen: int

    @property
    def alpha(self) -> float:
        return self.alphas[self.chosen]


def medians(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the median of each column without its missing values, 0 for a column without values."""
    return np.array([np.median(known) if (known := column[~np.isnan(column)]).size else 0.0 for column in values.T])


def filled(values: npt.NDArray[np.float64], by: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the values with the missing ones replaced by the training medians.

    So a missing value goes where most training patients go. scikit-learn's own treatment would send it where it parts
    the labels best: it would learn who was measured, which is a habit of the laboratory and no finding.
    """
    return np.where(np.isnan(values), by, values)


def grow(rows: LabelledRows, alpha: float, *, depth: int | None = None) -> DecisionTreeClassifier:
    """Return scikit-learn's tree of the rows, pruned with ``alpha`` (infinity leaves the root)."""
    stump = np.isinf(alpha)
    classifier = DecisionTreeClassifier(
        min_samples_leaf=len(rows.positive) if stump else LEAST_ROWS,
        ccp_alpha=0.0 if stump else alpha,
        max_depth=depth,
        random_state=0,
    )
    return classifier.fit(filled(rows.values, medians(rows.values)), rows.positive, sample_weight=rows.weights)


def prune(rows: LabelledRows, repeats: Sequence[Folds]) -> Pruning:
    """Choose the complexity by repeated cross-validation and the one-standard-error rule.

    Parameters
    ----------
    repeats
        Arrangements of folds; a patient's rows are on one side of each.
    """
    fill = medians(rows.values)
    path = grow(rows, 0.0).cost_complexity_pruning_path(
        filled(rows.values, fill), rows.positive, sample_weight=rows.weights
    )
    steps = np.unique(np.clip(path.ccp_alphas, 0, None))
    if len(steps) > _MOST_ALPHAS:
        steps = steps[np.linspace(0, len(steps) - 1, _MOST_ALPHAS).round().astype(int)]
    alphas = np.append(np.sqrt(steps[:-1] * steps[1:]), np.inf)
    assessed = np.zeros(len(rows.positive), dtype=bool)
    assessed[rows.first] = True
    wrong = np.zeros((len(alphas), 2))
    for folds in repeats:
        for train, held_out in folds:
            part = rows.take(train)
            test = held_out[assessed[held_out]]
            held = filled(rows.values[test], medians(part.values))
            for i, alpha in enumerate(alphas):
                model = grow(part, float(alpha))
                missed = (model.predict_proba(held)[:, 1] > _HALF) != rows.positive[test]
                wrong[i] += [missed[~rows.positive[test]].sum(), missed[rows.positive[test]].sum()]
    n_positive, n = rows.counts
    totals = np.array([n - n_positive, n_positive])
    rates = wrong / (totals * len(repeats))
    errors = rates.mean(axis=1)
    best = int(errors.argmin())
    standard_error = float(np.sqrt((rates[best] * (1 - rates[best]) / totals).sum()) / 2)
    chosen = int(np.flatnonzero(errors <= errors[best] + standard_error).max())
    return Pruning(
        alphas=tuple(alphas.tolist()), errors=tuple(errors.tolist()), standard_error=standard_error, chosen=chosen
    )


def to_tree(classifier: DecisionTreeClassifier, rows: LabelledRows, *, trained_on: str) -> MdsTree:
    """Return scikit-learn's tree in the package's own layout.

    Each threshold becomes the number of fewest decimals near it that parts the node's training rows alike, so the tree
    on paper is the tree that answers.

    Parameters
    ----------
    rows
        Those that the classifier was fitted on.
    """
    fitted = classifier.tree_
    fill = medians(rows.values)
    values = filled(rows.values, fill)
    visits = classifier.decision_path(values).toarray().astype(bool)
    order: list[int] = []
    waiting = [0]
    while waiting:
        number = waiting.pop()
        order.append(number)
        if fitted.children_left[number] >= 0:
            waiting += [int(fitted.children_right[number]), int(fitted.children_left[number])]
    place = {number: i for i, number in enumerate(order)}
    nodes = []
    for number in order:
        here = visits[:, number]
        split = None
        left, right = int(fitted.children_left[number]), int(fitted.children_right[number])
        if left >= 0:
            column = int(fitted.feature[number])
            threshold = fewest_decimals(
                float(values[visits[:, left], column].max()), float(values[visits[:, right], column].min())
            )
            split = Split(
                analyte=rows.analytes[column].name, threshold=threshold, below=place[left], above=place[right],
                missing="below" if fill[column] <= threshold else "above",
            )  # fmt: skip
        nodes.append(
            Node(
                positives=len(np.unique(rows.patients[here & rows.positive])),
                patients=len(np.unique(rows.patients[here])),
                split=split,
            )
        )
    return MdsTree(
        positive=rows.positive_name, negative=rows.negative_name, cut=rows.cut, trained_on=trained_on,
        simulated=rows.simulated, analytes=_analytes(rows), nodes=tuple(nodes),
    )  # fmt: skip


def fewest_decimals(low: float, high: float) -> float:
    """Return the number of fewest decimals that is ``low`` or more and under ``high``, near their middle."""
    middle = low + (high - low) / 2
    for decimals in range(_DECIMALS):
        if low <= (found := round(middle, decimals)) < high:
            return found + 0.0  # no minus zero
    return low


def _analytes(rows: LabelledRows) -> tuple[TreeAnalyte, ...]:
    found = []
    for analyte, column in zip(rows.analytes, rows.values.T, strict=True):
        known = column[~np.isnan(column)]
        low, middle, high = (float(f(known)) if known.size else 0.0 for f in (np.min, np.median, np.max))
        found.append(
            TreeAnalyte(
                name=analyte.name, label={k: analyte.label[k] for k in ("en", "fr")},
                short={k: analyte.short[k] for k in ("en", "fr")}, unit=analyte.unit, lowest=low, median=middle,
                highest=high, known=known.size / len(column),
            )
        )  # fmt: skip
    return tuple(found)
