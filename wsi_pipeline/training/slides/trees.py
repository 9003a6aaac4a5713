"""Fit the members of slide-level models that read slide features: forest, boosted trees, and one tree on paper."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.slide_features import Vocabulary
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.predictions.slide_models.trees import BoosterMember, FeatureColumns, TreeMember
from wsi_pipeline.training.mds_counts.tree import fewest_decimals, filled, medians

IntArray = npt.NDArray[np.int64]

_TREPHINE = ("megakaryocyte", "phenotype", "arrangement", "cellularity", "mekanet")
_FAMILIES = ("composition", "ratio", "morphology", "attribute", "dysplasia", "red", *_TREPHINE)
"""Stain, doubt and embeddings are left out: they tell laboratories apart before patients."""
_ON_PAPER = ("composition", "ratio", "attribute", "dysplasia", "red", "phenotype", "arrangement", "cellularity")
_LABELS = ("given.", "label.")
_LEAST_KNOWN = 0.5
_DEPTH, _LEAST_LEAF = 3, 5

_BOOSTED = {
    "eta": 0.05,
    "max_depth": 2,
    "min_child_weight": 2,
    "subsample": 0.7,
    "colsample_bytree": 0.2,
    "lambda": 5.0,
}
_FOREST = {
    "eta": 1.0,
    "max_depth": 5,
    "min_child_weight": 1,
    "subsample": 0.7,
    "colsample_bynode": 0.15,
    "lambda": 1.0,
    "num_parallel_tree": 200,
}
_ROUNDS = {"boosted": 120, "forest": 1}


def feature_columns(vocabulary: Vocabulary, values: FloatArray, *, paper: bool = False) -> FeatureColumns:
    """Return the features to learn from, of training subjects' ``values`` ``(n, d)``: those that most of them have.

    What folders or readers said is left out, for others may not have it.

    Parameters
    ----------
    paper
        Only what a person can read off a slide.
    """
    families = _ON_PAPER if paper else _FAMILIES
    known = np.isfinite(values).mean(axis=0) >= _LEAST_KNOWN
    varies = np.array([np.unique(v[np.isfinite(v)]).size > 1 for v in values.T])
    columns = [
        i
        for i, f in enumerate(vocabulary.features)
        if f.family in families and known[i] and varies[i] and not f.name.startswith(_LABELS)
        and not (paper and f.name.startswith("posterior."))
    ]  # fmt: skip
    return FeatureColumns(vocabulary=vocabulary, columns=tuple(columns))


def feature_values(vocabulary: Vocabulary, subjects: Sequence[Subject]) -> FloatArray:
    """Return the features of subjects, ``(n, d)``."""
    return np.concatenate([s.features(vocabulary, np.ones((1, len(s.bag)))) for s in subjects])


def fit_booster(
    name: str, features: FeatureColumns, values: FloatArray, labels: IntArray, *, n_classes: int, seed: int
) -> BoosterMember:
    """Return ``forest`` or ``boosted`` trees of features ``values`` ``(n, d)``, all of the vocabulary."""
    import xgboost

    settings = {
        **(_FOREST if name == "forest" else _BOOSTED),
        "objective": "multi:softprob",
        "num_class": n_classes,
        "seed": seed,
        "nthread": 1,
        "tree_method": "hist",
    }
    data = xgboost.DMatrix(values[:, list(features.columns)], label=labels)
    return BoosterMember(name=name, features=features, booster=xgboost.train(settings, data, _ROUNDS[name]))


def fit_tree(
    features: FeatureColumns, values: FloatArray, labels: IntArray, *, n_classes: int, seed: int
) -> TreeMember:
    """Return a tree of at most three questions, each leaf of five patients or more (Breiman et al., CART, 1984)."""
    from sklearn.tree import DecisionTreeClassifier

    x = values[:, list(features.columns)]
    fill = medians(x)
    x = filled(x, fill)
    fitted = DecisionTreeClassifier(
        max_depth=_DEPTH, min_samples_leaf=_LEAST_LEAF, class_weight="balanced", random_state=seed
    ).fit(x, labels)
    tree = fitted.tree_
    visits = fitted.decision_path(x).toarray().astype(bool)
    counts = np.stack([np.bincount(labels[here], minlength=n_classes) for here in visits.T]).astype(np.float64)
    inner = tree.children_left >= 0
    threshold = np.zeros(tree.node_count)
    for node in np.flatnonzero(inner).tolist():
        column = int(tree.feature[node])
        low, high = (x[visits[:, int(child[node])], column] for child in (tree.children_left, tree.children_right))
        threshold[node] = fewest_decimals(float(low.max()), float(high.min()))
    return TreeMember(
        name="tree",
        features=features,
        column=np.where(inner, tree.feature, -1).astype(np.int64),
        threshold=threshold,
        below=np.where(inner, tree.children_left, 0).astype(np.int64),
        above=np.where(inner, tree.children_right, 0).astype(np.int64),
        fill=fill,
        counts=counts,
    )
