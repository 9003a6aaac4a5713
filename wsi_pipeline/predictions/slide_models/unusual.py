"""Subjects unlike those that a model was trained on: by stain, by the mix of cells, by how cells look.

For each of the three the Mahalanobis distance of the subject from the training patients, with the shrunken covariance
of Ledoit and Wolf (J Multivar Anal 88:365, 2004). The limit is the distance that 2 % of training patients passed when
they were left out; beyond it the answer carries a flag, beyond twice it there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.slide_features.feature import FloatArray, IntArray
from wsi_pipeline.predictions.slide_features.groups import IMMATURE, groups_of, member
from wsi_pipeline.predictions.slide_features.shape import STAIN
from wsi_pipeline.predictions.slide_models.member import array
from wsi_pipeline.predictions.slide_models.subject import Subject
from wsi_pipeline.sentences import say

SHARE = 0.02
"""Training patients beyond the limit."""
TWICE = 2.0
"""Limits beyond which there is no answer."""

WORDS = {"stain": say("stain"), "mix": say("mix of cells"), "embedding": say("look of the cells")}
_GROUPS = (IMMATURE, "neutrophils", "lymphocytes", "monocytes", "erythroid")
_DIRECTIONS = 5
_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the three: ``mean`` ``(d,)``, ``precision`` ``(d, d)``, the limit of the distance."""

    mean: FloatArray
    precision: FloatArray
    limit: float

    def distance(self, x: FloatArray) -> float:
        """Return the distance of ``(d,)`` in limits; 0 where something was not measured."""
        if not np.isfinite(x).all():
            return 0.0
        gap = x - self.mean
        return math.sqrt(max(float(gap @ self.precision @ gap), 0.0)) / self.limit


@dataclass(frozen=True, kw_only=True)
class Unusual:
    """The parts there are, and mean ``(d,)`` and axes ``(d, k)`` of the embedding; empty without embeddings."""

    parts: Mapping[str, Part]
    middle: FloatArray
    axes: FloatArray

    def distances(self, subject: Subject) -> dict[str, float]:
        """Return the distance of each part in limits: above 1 it is unlike the training patients."""
        return {name: part.distance(self._read(name, subject)) for name, part in self.parts.items()}

    def _read(self, name: str, subject: Subject) -> FloatArray:
        if name == "embedding":
            return (_mean_embedding(subject) - self.middle) @ self.axes
        return _stain(subject) if name == "stain" else _mix(subject)

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays."""
        found = {"middle": self.middle, "axes": self.axes}
        for name, part in self.parts.items():
            found |= {f"{name}.mean": part.mean, f"{name}.precision": part.precision}
        return found

    def limits(self) -> dict[str, float]:
        """Return the limit of each part."""
        return {name: part.limit for name, part in self.parts.items()}

    @classmethod
    def load(cls, limits: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Unusual:
        """Return what a file holds."""
        parts = {}
        for name, limit in limits.items():
            mean = array(tensors, f"{name}.mean", (None,))
            precision = array(tensors, f"{name}.precision", (len(mean), len(mean)))
            if name not in WORDS or not 0 < float(limit) < np.inf:
                raise ModelError("its limits of unusual subjects are damaged")
            parts[name] = Part(mean=mean, precision=precision, limit=float(limit))
        middle = array(tensors, "middle", (None,))
        return cls(parts=parts, middle=middle, axes=array(tensors, "axes", (len(middle), None)))

    @classmethod
    def fit(cls, subjects: Sequence[Subject], fold: IntArray) -> Unusual:
        """Return what the training subjects are like; ``fold`` ``(n,)`` says who is left out together."""
        vectors = np.stack([_mean_embedding(s) for s in subjects])
        middle, axes = _axes(vectors)
        parts = {}
        for name, x in (
            ("stain", np.stack([_stain(s) for s in subjects])),
            ("mix", np.stack([_mix(s) for s in subjects])),
        ):
            there = np.isfinite(x).all(axis=1)
            if _enough(int(there.sum()), x.shape[1]):
                known = x[there]
                parts[name] = _part(lambda rest, known=known: known, fold[there])  # type: ignore[misc]
        if _enough(len(vectors), axes.shape[1]):
            parts["embedding"] = _part(lambda rest: _projected(vectors, rest), fold)
        return cls(parts=parts, middle=middle, axes=axes)


def _enough(n: int, d: int) -> bool:
    return d > 0 and n >= 2 * d + 4


def _axes(vectors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the middle ``(d,)`` of embeddings ``(n, d)``, and the directions ``(d, k)`` that they vary most in."""
    middle = vectors.mean(axis=0) if vectors.shape[1] else np.zeros(0)
    return middle, np.ascontiguousarray(np.linalg.svd(vectors - middle, full_matrices=False)[2][:_DIRECTIONS].T)


def _projected(vectors: FloatArray, rest: npt.NDArray[np.bool_]) -> FloatArray:
    middle, axes = _axes(vectors[rest])
    found: FloatArray = (vectors - middle) @ axes
    return found


def _part(read: Callable[[npt.NDArray[np.bool_]], FloatArray], fold: IntArray) -> Part:
    """Return a part, and its limit from subjects left out; ``read`` gives all rows on what ``rest`` alone fixed."""
    held: list[float] = []
    for number in np.unique(fold):
        rest = fold != number
        if rest.sum() > 2:
            x = read(rest)
            own = Part(mean=x[rest].mean(axis=0), precision=_precision(x[rest]), limit=1.0)
            held += [own.distance(row) for row in x[~rest]]
    limit = float(np.quantile(held, 1 - SHARE, method="higher")) if held else 1.0
    whole = read(np.ones(len(fold), bool))
    return Part(mean=whole.mean(axis=0), precision=_precision(whole), limit=max(limit, _SPREAD))


def _precision(x: FloatArray) -> FloatArray:
    from sklearn.covariance import ledoit_wolf

    covariance = ledoit_wolf(x)[0]
    found: FloatArray = np.linalg.pinv(covariance + _SPREAD * np.eye(len(covariance)), hermitian=True)
    return found


def _stain(subject: Subject) -> FloatArray:
    """Return the medians of the optical densities ``(3,)``; NaN where no cell was measured."""
    place = {name: i for i, name in enumerate(subject.bag.morphology_names)}
    found = []
    for name in STAIN:
        column = subject.bag.morphology[:, place[name]] if name in place else np.empty(0)
        known = column[np.isfinite(column)].astype(np.float64)
        found.append(float(np.median(known)) if len(known) else np.nan)
    return np.array(found)


def _mix(subject: Subject) -> FloatArray:
    """Return square roots of shares of large groups, by the classifier alone."""
    bag, view = subject.bag, subject.views[-1]
    groups = groups_of(bag.taxonomy, bag.classes)
    counts = view.classes.sum(axis=0)
    whole = max(float(view.countable.sum()), 1.0)
    return np.array([np.sqrt(counts @ member(bag.classes, groups[g]) / whole) for g in _GROUPS if g in groups])


def _mean_embedding(subject: Subject) -> FloatArray:
    cells = subject.embedding
    return cells.mean(axis=0) if len(cells) else np.zeros(cells.shape[1])
