"""Which values carry the answer: a random forest's importance of each, on patients it has not seen.

Method: Breiman, Machine Learning 45:5-32, 2001; used for MDS by Zhu et al., BMC Cancer 2022. Impurity importance is
known to favour values of many levels (Strobl et al., BMC Bioinformatics 8:25, 2007), so permutation stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier

from wsi_pipeline.predictions.assessment.auc import auc
from wsi_pipeline.training.mds_counts.rows import LabelledRows
from wsi_pipeline.training.mds_counts.tree import Folds, filled, medians

TREES = 300
_SHUFFLES = 10


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Of one analyte.

    Parameters
    ----------
    impurity_percent
        Share of the forest's fall in Gini impurity, of all rows; the analytes sum to 100.
    auc_drop, lowest, highest
        How much the AUC on held-out patients falls when the value is shuffled among them: mean over folds, and the
        least and most of the folds.
    """

    analyte: str
    impurity_percent: float
    auc_drop: float
    lowest: float
    highest: float


def forest(rows: LabelledRows, *, seed: int) -> RandomForestClassifier:
    """Return a forest of the rows, missing values filled with medians, each patient and label weighing alike."""
    model = RandomForestClassifier(TREES, min_samples_leaf=2, random_state=seed, n_jobs=1)
    return model.fit(filled(rows.values, medians(rows.values)), rows.positive, sample_weight=rows.weights)


def assess_forest(
    rows: LabelledRows, folds: Folds, *, seed: int
) -> tuple[npt.NDArray[np.float64], tuple[Importance, ...]]:
    """Return each row's probability from the fold that did not see its patient, and the importance of the analytes.

    Importance is measured on the first row of each held-out patient, from the most to the least by the fall in AUC.
    """
    probability = np.full(len(rows.positive), np.nan)
    first = np.zeros(len(rows.positive), dtype=bool)
    first[rows.first] = True
    drops = []
    for train, test in folds:
        part = rows.take(train)
        model = forest(part, seed=seed)
        held = filled(rows.values[test], medians(part.values))
        probability[test] = model.predict_proba(held)[:, 1]
        seen = first[test]
        drops.append(permutation_drops(model, held[seen], rows.positive[test][seen], seed=seed))
    impurity = 100 * forest(rows, seed=seed).feature_importances_
    table = np.array(drops)
    found = [
        Importance(
            analyte=analyte.name, impurity_percent=float(impurity[i]), auc_drop=float(table[:, i].mean()),
            lowest=float(table[:, i].min()), highest=float(table[:, i].max()),
        )
        for i, analyte in enumerate(rows.analytes)
    ]  # fmt: skip
    return probability, tuple(sorted(found, key=lambda one: (-one.auc_drop, one.analyte)))


def permutation_drops(
    model: RandomForestClassifier, values: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], *, seed: int
) -> npt.NDArray[np.float64]:
    """Return how much the AUC falls when each column is shuffled, mean of ten shuffles, ``(analytes,)``.

    All shuffles are asked in one call, which is what takes the time of many small ones away.
    """
    random = np.random.default_rng(seed)
    n, columns = values.shape
    copies = np.broadcast_to(values, (columns, _SHUFFLES, n, columns)).copy()
    for column in range(columns):
        for shuffle in range(_SHUFFLES):
            copies[column, shuffle, :, column] = random.permutation(values[:, column])
    scores = model.predict_proba(copies.reshape(-1, columns))[:, 1].reshape(columns, _SHUFFLES, n)
    whole = auc(model.predict_proba(values)[:, 1], positive)
    return np.array([whole - np.mean([auc(one, positive) for one in of_column]) for of_column in scores])
