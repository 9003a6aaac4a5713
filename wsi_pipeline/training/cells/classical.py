"""Train the classical cell classifiers of :mod:`wsi_pipeline.cells.classical` on features of the training split."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError

SVM = {"C": 10.0, "gamma": "scale"}
TREES = {"max_depth": 4, "eta": 0.1, "subsample": 0.8, "colsample_bytree": 0.5, "lambda": 1.0}
MAX_ROUNDS, PATIENCE = 400, 20


def fit_classical(
    kind: str,
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    split: npt.NDArray[np.str_],
    n_classes: int,
    seed: int,
) -> tuple[dict[str, npt.NDArray[Any]], list[dict[str, float]]]:
    """Return the tensors of the model, and for boosted trees the loss on train and val by round.

    Parameters
    ----------
    kind
        ``features+svm`` (RBF kernel, C = 10, classes weighted by their inverse size) or ``features+xgboost`` (trees of
        depth 4, the number of rounds chosen on val).
    features
        ``(n, features)``, NaN where unknown.
    labels, split
        ``(n,)``.
    seed
        Of the trees' sampling.

    Raises
    ------
    DataError
        A class has no cell with features in train.
    """
    train, val = split == "train", split == "val"
    found = np.isfinite(features).any(axis=1)
    seen = np.bincount(labels[train & found], minlength=n_classes)
    if (seen == 0).any():
        raise DataError(
            f"in no training image of class number {', '.join(map(str, np.flatnonzero(seen == 0)))} was a cell found; "
            "are the microns per pixel right?"
        )
    known = train & found
    with np.errstate(invalid="ignore"):
        median = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else 0.0 for c in features[known].T])
    filled = np.where(np.isfinite(features), features, median)
    mean, spread = filled[known].mean(axis=0), filled[known].std(axis=0)
    spread[spread < 1e-9] = 1.0
    tensors: dict[str, npt.NDArray[Any]] = {
        "median": median.astype(np.float32), "mean": mean.astype(np.float32), "spread": spread.astype(np.float32)
    }  # fmt: skip
    if kind == "features+svm":
        from sklearn.svm import SVC

        x = ((filled - tensors["mean"]) / tensors["spread"]).astype(np.float32).astype(np.float64)
        machine = SVC(**SVM, class_weight="balanced", cache_size=200).fit(x[known], labels[known])
        tensors |= {
            "vectors": machine.support_vectors_,
            "dual": machine._dual_coef_,
            "bias": machine._intercept_,
            "per_class": machine.n_support_.astype(np.int64),
            "gamma": np.array([machine._gamma]),
        }
        return {name: np.ascontiguousarray(value) for name, value in tensors.items()}, []
    import xgboost

    counts = np.bincount(labels[train], minlength=n_classes)
    weight = np.sqrt(counts.sum() / np.maximum(counts, 1))[labels]
    parts = {
        name: xgboost.DMatrix(features[where], label=labels[where], weight=weight[where], nthread=1)
        for name, where in (("train", train), ("val", val))
    }
    curves: dict[str, dict[str, list[float]]] = {}
    booster = xgboost.train(
        {**TREES, "objective": "multi:softprob", "num_class": n_classes, "seed": seed, "nthread": 1,
         "tree_method": "hist", "eval_metric": "mlogloss"},
        parts["train"],
        MAX_ROUNDS,
        evals=[(parts["train"], "train"), (parts["val"], "val")],
        early_stopping_rounds=PATIENCE,
        evals_result=curves,
        verbose_eval=False,
    )  # fmt: skip
    booster = booster[: booster.best_iteration + 1]
    tensors["xgboost_json"] = np.frombuffer(bytes(booster.save_raw("json")), np.uint8).copy()
    losses = zip(curves["train"]["mlogloss"], curves["val"]["mlogloss"], strict=True)
    return tensors, [{"loss": a, "val_loss": b} for a, b in losses]
