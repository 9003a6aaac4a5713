"""What the linear members read of a subject: composition, labels, appearance of cells, routine counts.

Appearance is the mean of the embeddings of some cells; labels, where there are any, say which cells, and the classifier
what a cell of the class usually looks like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_features.groups import MATURE, groups_of, member
from wsi_pipeline.predictions.slide_models.frame import CellFrame
from wsi_pipeline.predictions.slide_models.subject import LEAST_LABELLED, Subject, View
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names

HALF_CELL = 0.5
"""Added to every denominator."""
SHRINKAGE = 5.0
"""Cells of no deviation that are added to every mean, so that a mean of few cells says little."""

PARTS = ("all", "immature", "beyond-class", "contrast", "neutrophils")


class Input(Protocol):
    """A way to turn the cells of a subject, counted ``weights`` times ``(B, n)``, into numbers ``(B, d)``."""

    def applies(self, subject: Subject) -> bool:
        """Tell whether the subject has what is read."""

    def read(self, subject: Subject, view: View, weights: FloatArray) -> FloatArray:
        """Return the numbers; no NaN."""

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays."""

    def settings(self) -> dict[str, Any]:
        """Return the rest, JSON values only, with ``reads``: the input's kind."""

    @property
    def names(self) -> tuple[str, ...]:
        """Return a name for each number."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Share of each class, per cell of the denominator."""

    classes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"share of {name}" for name in self.classes)

    def applies(self, subject: Subject) -> bool:
        return len(subject.bag) > 0

    def read(self, subject: Subject, view: View, weights: FloatArray) -> FloatArray:
        found: FloatArray = weights @ view.classes / (weights @ view.countable + HALF_CELL)[:, None]
        return found

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {}

    def settings(self) -> dict[str, Any]:
        return {"reads": "composition", "classes": list(self.classes)}


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Share of each label ``TAXONOMY/CLASS`` that folders or readers gave, per labelled cell.

    A label of another taxonomy that means the same counts as the same. Subjects are read where at least half of their
    cells carry a label that the training had: of other names nothing was learnt.
    """

    labels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"share of label {name}" for name in self.labels)

    def applies(self, subject: Subject) -> bool:
        given = subject.bag.given_labels
        if given is None or not subject.labelled:
            return False
        return bool(self._told(given).any(axis=1).mean() >= LEAST_LABELLED)

    def read(self, subject: Subject, view: View, weights: FloatArray) -> FloatArray:
        given = subject.bag.given_labels
        if given is None:
            return np.zeros((len(weights), len(self.names)))
        counts = weights @ self._told(given).astype(np.float64)
        found: FloatArray = counts / (weights @ (given != "").astype(np.float64) + HALF_CELL)[:, None]
        return found

    def _told(self, given: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
        """Return whether each cell carries each label ``(n, labels)``."""
        names, place = np.unique(given, return_inverse=True)
        same = np.array([[_same_label(str(name), own) for own in self.labels] for name in names], bool)
        return same.reshape(len(names), len(self.labels))[place]

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {}

    def settings(self) -> dict[str, Any]:
        return {"reads": "labels", "labels": list(self.labels)}


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Mean of the embeddings of some cells, on the axes of a :class:`CellFrame`.

    Parts: ``all`` cells of the denominator; ``immature`` ones; ``beyond-class``, immature ones less the mean of their
    class, so that composition stays out; ``contrast``, the same less that of mature cells, which takes off what stain
    does to all cells alike; ``neutrophils``, less the mean of their class.
    """

    part: str
    frame: CellFrame

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"appearance of {self.part} {i}" for i in range(self.frame.dim))

    def applies(self, subject: Subject) -> bool:
        return subject.bag.embedding is not None and len(subject.bag) > 0

    def read(self, subject: Subject, view: View, weights: FloatArray) -> FloatArray:
        if self.part in ("all", "immature"):
            return _mean(self.frame.cells(subject), view.countable if self.part == "all" else view.immature, weights)
        cells = self.frame.beyond_class(subject)
        if self.part == "neutrophils":
            return _mean(cells, view.classes @ self._mask("neutrophils"), weights)
        found = _mean(cells, view.immature, weights)
        return (
            found if self.part == "beyond-class" else found - _mean(cells, view.classes @ self._mask(MATURE), weights)
        )

    def _mask(self, group: str) -> FloatArray:
        classes = self.frame.classes
        return member(classes, groups_of(self.frame.taxonomy, classes).get(group, ()))

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return self.frame.tensors()

    def settings(self) -> dict[str, Any]:
        return {"reads": "appearance", "part": self.part, **self.frame.settings()}


@dataclass(frozen=True, kw_only=True)
class RoutineCounts:
    """Routine counts; logarithms of 1 + the value, the training median where one is missing."""

    analytes: tuple[str, ...]
    medians: FloatArray

    @property
    def names(self) -> tuple[str, ...]:
        return self.analytes

    def applies(self, subject: Subject) -> bool:
        known = subject.counts or {}
        return sum(name in known for name in self.analytes) * 2 >= len(self.analytes)

    def read(self, subject: Subject, view: View, weights: FloatArray) -> FloatArray:
        known = subject.counts or {}
        row = np.array([known.get(name, m) for name, m in zip(self.analytes, self.medians.tolist(), strict=True)])
        return np.tile(np.log1p(np.maximum(row, 0.0)), (len(weights), 1))

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        return {"medians": self.medians}

    def settings(self) -> dict[str, Any]:
        return {"reads": "routine-counts", "analytes": list(self.analytes)}


@cache
def _same_label(one: str, other: str) -> bool:
    """Tell whether two labels ``TAXONOMY/CLASS`` mean the same cells."""
    if one == other:
        return True
    first, second = (_meaning(*label.split("/", 1)) if "/" in label else "" for label in (one, other))
    return bool(first) and first == second


def _meaning(taxonomy: str, code: str) -> str:
    if taxonomy not in taxonomy_names():
        return ""
    known = load_taxonomy(taxonomy)
    return (known.get(code).meaning or "") if code in known.codes else ""


def _mean(cells: FloatArray, inside: FloatArray, weights: FloatArray) -> FloatArray:
    own = weights * inside[None]
    found: FloatArray = own @ cells / (own.sum(axis=1, keepdims=True) + SHRINKAGE)
    return found


def input_of(settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> Input:
    """Return an input from what :meth:`Input.settings` and :meth:`Input.tensors` gave.

    Raises
    ------
    ModelError
        They are of none.
    """
    reads = settings.get("reads")
    if reads == "composition":
        return Composition(classes=tuple(map(str, settings["classes"])))
    if reads == "labels":
        return Labels(labels=tuple(map(str, settings["labels"])))
    if reads == "appearance" and settings["part"] in PARTS:
        return Appearance(part=str(settings["part"]), frame=CellFrame.load(settings, tensors))
    if reads == "routine-counts":
        analytes = tuple(map(str, settings["analytes"]))
        medians = np.asarray(tensors["medians"], np.float64)
        if medians.shape != (len(analytes),) or not np.isfinite(medians).all():
            raise ModelError("the medians of its routine counts are damaged")
        return RoutineCounts(analytes=analytes, medians=medians)
    raise ModelError(f"a member reads {reads!r}, which no member of this package does")
