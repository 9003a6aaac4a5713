"""The three families of the counts ensemble, each fitted as an XGBoost model.

*Boosted*: shallow trees, many rounds, on engineered columns. *Forest*: deep trees side by side on the values alone.
*Smooth*: trees that imitate a kernel logistic regression, also between patients: of every patient moved copies are made
(a part of the way to a near patient, with noise and missing values), and the trees learn the kernel model's log-odds
there (distillation: Hinton et al., arXiv:1503.02531, 2015). It brings what trees on few hundred patients lack, a smooth
answer, and remains a tree model whose contributions are exact.

All are fitted by one thread, so that a seed gives the same trees on any number of cores.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.counts.ensemble import Ensemble, Member
from wsi_pipeline.predictions.counts.features import FloatArray, engineered, from_symmetrised, symmetrised

IntArray = npt.NDArray[np.int64]

_COPIES, _NEIGHBOURS = 6, 12
_NOISE, _MISSING = 0.05, 0.1
_FLOOR = 0.005
"""Least probability the imitated model may give, so that log-odds stay finite."""


def fit_ensemble(values: FloatArray, labels: IntArray, seed: int) -> Ensemble:
    """Return the ensemble fitted to values ``(n, 14)`` and labels ``(n,)``, indices of the three classes."""
    return Ensemble(
        [
            _boosted(values, labels, seed),
            _forest(values, labels, seed),
            _smooth(values, labels, seed),
        ]
    )


def plain_refit(values: FloatArray, labels: IntArray, seed: int) -> Ensemble:
    """Return what the ensemble is compared with: one XGBoost model of the values, depth 3, 150 rounds of 0.1."""
    from xgboost import XGBClassifier

    found = XGBClassifier(max_depth=3, learning_rate=0.1, n_estimators=150, random_state=seed, n_jobs=1)
    return Ensemble([Member(name="plain", columns="values", booster=found.fit(values, labels).get_booster())])


def _boosted(values: FloatArray, labels: IntArray, seed: int) -> Member:
    from xgboost import XGBClassifier

    found = XGBClassifier(
        max_depth=3,
        learning_rate=0.03,
        n_estimators=400,
        subsample=0.7,
        colsample_bytree=0.5,
        min_child_weight=3,
        reg_lambda=3,
        random_state=seed,
        n_jobs=1,
    )
    return Member(name="boosted", columns="engineered", booster=found.fit(engineered(values), labels).get_booster())


def _forest(values: FloatArray, labels: IntArray, seed: int) -> Member:
    from xgboost import XGBRFClassifier

    found = XGBRFClassifier(
        n_estimators=50,
        max_depth=9,
        min_child_weight=1,
        subsample=0.7,
        colsample_bynode=0.35,
        reg_lambda=0.5,
        random_state=seed,
        n_jobs=1,
    )
    return Member(name="forest", columns="values", booster=found.fit(values, labels).get_booster())


def _smooth(values: FloatArray, labels: IntArray, seed: int) -> Member:
    from sklearn.impute import SimpleImputer
    from sklearn.kernel_approximation import Nystroem
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from xgboost import XGBRegressor

    kernel = Nystroem(gamma=0.05, n_components=min(200, len(values)), random_state=seed)
    teacher = make_pipeline(
        SimpleImputer(strategy="median"), StandardScaler(), kernel, LogisticRegression(C=5.0, max_iter=3000)
    )
    scaled = symmetrised(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a column that is missing throughout stays out of the kernel model
        teacher.fit(scaled, labels)
        moved = np.concatenate([scaled, *_moved(scaled, np.random.default_rng(seed))])
        taught = np.log(np.clip(teacher.predict_proba(moved), _FLOOR, 1.0))
    found = XGBRegressor(
        max_depth=5,
        learning_rate=0.08,
        n_estimators=200,
        subsample=0.6,
        colsample_bynode=0.5,
        min_child_weight=5,
        random_state=seed,
        n_jobs=1,
    )
    found.fit(from_symmetrised(moved), taught - taught.mean(axis=1, keepdims=True))
    return Member(name="smooth", columns="values", booster=found.get_booster())


def _moved(scaled: FloatArray, rng: np.random.Generator) -> list[FloatArray]:
    """Return copies of patients ``(n, 14)`` on even scales, each moved towards a near patient of its own."""
    from sklearn.neighbors import NearestNeighbors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a column that is missing throughout there is no median
        middle, spread = np.nanmedian(scaled, axis=0), np.nanstd(scaled, axis=0)
    middle, spread = np.nan_to_num(middle), np.where(spread > 0, spread, 1.0)
    full = np.where(np.isnan(scaled), middle, scaled)
    near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS, len(full))).fit(full / spread)
    neighbours = near.kneighbors(full / spread, return_distance=False)
    copies = []
    for _ in range(_COPIES):
        other = neighbours[np.arange(len(full)), rng.integers(1, neighbours.shape[1], len(full))]
        part = rng.random((len(full), 1)) / 2
        copy = full * (1 - part) + full[other] * part + rng.normal(0.0, _NOISE, full.shape) * spread
        copy[rng.random(full.shape) < _MISSING] = np.nan
        copies.append(copy)
    return copies
