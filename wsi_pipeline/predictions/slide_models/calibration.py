"""From a member's or a model's margins to probabilities, and from those to sets of classes with a stated coverage.

*Scaling*: one slope and an offset a class, a Platt scaling (Platt, 1999; for several classes Guo et al., ICML 2017),
fitted with a weak pull towards margins of a mean size of 1 and no offset, so that few patients cannot bend it.

*Sets*: cross-conformal (Vovk, Ann Math Artif Intell 74:9, 2015) within each class (Mondrian). The score of a patient
is one less the probability of the true class, answered by a model that did not see it. A class stays in the set while
at least a share ``1 - coverage`` of its own training patients, and the subject itself, score as high. The coverage is
aimed at, not guaranteed: the subject is answered by the mean of the folds' models, no training patient was, and weights
and scaling are fitted to the same answers. A class of fewer than ``coverage / (1 - coverage)`` subjects (9 at 90 %) is
never left out, for nothing can be said of it.

The likeliest class is always in the set. Where no class scores as its own patients do, the likeliest stands alone only
if its probability reaches the coverage; otherwise the set holds every class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.counts.ensemble import softmax
from wsi_pipeline.predictions.slide_features.feature import FloatArray, IntArray

_PULL = 1.0
"""Penalty on the logarithm of the slope and on the offsets, in patients."""


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Probabilities ``softmax(slope * margins + offsets)``; offsets ``(classes,)``."""

    slope: float
    offsets: FloatArray

    def probabilities(self, margins: FloatArray) -> FloatArray:
        """Return probabilities of margins, both ``(..., classes)``."""
        return softmax(self.scaled(margins))

    def scaled(self, margins: FloatArray) -> FloatArray:
        """Return calibrated margins."""
        return self.slope * margins + self.offsets

    def to_json(self) -> dict[str, Any]:
        """Return what a file holds."""
        return {"slope": self.slope, "offsets": self.offsets.tolist()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any], n_classes: int) -> Scaling:
        """Return what :meth:`to_json` wrote."""
        slope, offsets = float(record["slope"]), np.asarray(record["offsets"], np.float64)
        if not 0 <= slope < 1e6 or offsets.shape != (n_classes,) or not np.isfinite(offsets).all():
            raise ModelError("its calibration is damaged")
        return cls(slope=slope, offsets=offsets)


def fit_scaling(margins: FloatArray, labels: IntArray) -> Scaling:
    """Return the scaling of margins ``(n, classes)`` of patients that the model did not see; labels ``(n,)``."""
    from scipy.optimize import minimize

    n, k = margins.shape
    spread = float(np.abs(margins).mean()) or 1.0
    rows = np.arange(n)

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        slope = np.exp(theta[0]) / spread
        scaled = slope * margins + theta[1:]
        p = softmax(scaled)
        error = p.copy()
        error[rows, labels] -= 1.0
        value = -np.log(np.maximum(p[rows, labels], 1e-12)).sum() + _PULL * 0.5 * float(theta @ theta)
        gradient = np.r_[(error * slope * margins).sum(), error.sum(axis=0)] + _PULL * theta
        return float(value), gradient

    found = minimize(loss, np.zeros(1 + k), jac=True, method="L-BFGS-B", bounds=[(-6.0, 4.0)] + [(-8.0, 8.0)] * k).x
    return Scaling(slope=float(np.exp(found[0]) / spread), offsets=found[1:] - found[1:].mean())


@dataclass(frozen=True, kw_only=True)
class ConformalSets:
    """Scores of the training patients of each class, sorted, each from a model that did not see them."""

    scores: tuple[FloatArray, ...]
    coverage: float

    def classes_of(self, probabilities: FloatArray) -> tuple[int, ...]:
        """Return the classes in the set of one subject, probabilities ``(classes,)``; the likeliest is among them."""
        kept = set()
        for c, own in enumerate(self.scores):
            score = 1 - float(probabilities[c])
            as_high = len(own) - int(np.searchsorted(own, score - 1e-12, side="left"))
            if self._stays(as_high, len(own)):
                kept.add(c)
        likeliest = int(probabilities.argmax())
        if not kept and probabilities[likeliest] < self.coverage:
            return tuple(range(len(self.scores)))
        return tuple(sorted(kept | {likeliest}))

    @property
    def never_left_out(self) -> tuple[int, ...]:
        """Return the classes of too few subjects to say anything of."""
        return tuple(c for c, own in enumerate(self.scores) if self._stays(0, len(own)))

    def _stays(self, as_high: int, n: int) -> bool:
        return as_high + 1 > (1 - self.coverage) * (n + 1) + 1e-9

    def to_json(self) -> dict[str, Any]:
        """Return what a file holds."""
        return {"coverage": self.coverage, "scores": [own.tolist() for own in self.scores]}

    @classmethod
    def fit(cls, probabilities: FloatArray, labels: IntArray, coverage: float) -> ConformalSets:
        """Return the sets of probabilities ``(n, classes)`` of patients that the model did not see."""
        own = 1 - probabilities[np.arange(len(labels)), labels]
        k = probabilities.shape[1]
        return cls(scores=tuple(np.sort(own[labels == c]) for c in range(k)), coverage=coverage)

    @classmethod
    def from_json(cls, record: Mapping[str, Any], n_classes: int) -> ConformalSets:
        """Return what :meth:`to_json` wrote."""
        scores = tuple(np.asarray(own, np.float64) for own in record["scores"])
        coverage = float(record["coverage"])
        damaged = any(own.ndim != 1 or not np.isfinite(own).all() or (np.diff(own) < 0).any() for own in scores)
        if damaged or len(scores) != n_classes or not 0.5 <= coverage < 1:
            raise ModelError("its conformal scores are damaged")
        return cls(scores=scores, coverage=coverage)
