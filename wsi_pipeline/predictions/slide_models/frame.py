"""Embeddings of cells on axes that a training part fixed: centred, less the mean of the class, and whitened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_models.member import array
from wsi_pipeline.predictions.slide_models.subject import Subject

_RIDGE = 0.1
"""Part of the mean variance that is added to every direction, so that quiet ones are not blown up."""
_PRIOR_CELLS = 20.0
"""Cells of the common mean that are added to each class mean."""


@dataclass(frozen=True, kw_only=True)
class CellFrame:
    """Axes for the embeddings of a classifier.

    Parameters
    ----------
    taxonomy, classes
        Of the classifier.
    middle
        ``(d,)`` mean embedding.
    means
        ``(C, d)`` mean embedding of each class.
    basis
        ``(d, k)``: principal directions of what embeddings vary by within classes, each divided by its spread.
    """

    taxonomy: str
    classes: tuple[str, ...]
    middle: FloatArray
    means: FloatArray
    basis: FloatArray

    @property
    def dim(self) -> int:
        """Return k."""
        return int(self.basis.shape[1])

    def cells(self, subject: Subject) -> FloatArray:
        """Return ``(n, k)``: how each cell differs from the mean cell."""
        found: FloatArray = (subject.embedding - self.middle) @ self.basis
        return found

    def beyond_class(self, subject: Subject) -> FloatArray:
        """Return ``(n, k)``: how each cell differs from the mean of what the classifier takes it for.

        Labels do not enter: with the mean of another class taken off, a wrong one would read as a strange look.
        """
        found: FloatArray = (subject.embedding - subject.views[-1].classes @ self.means) @ self.basis
        return found

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays."""
        return {"frame.middle": self.middle, "frame.means": self.means, "frame.basis": self.basis}

    def settings(self) -> dict[str, Any]:
        """Return the rest."""
        return {"taxonomy": self.taxonomy, "classes": list(self.classes)}

    @classmethod
    def load(cls, settings: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> CellFrame:
        """Return the frame of a file."""
        classes = tuple(map(str, settings["classes"]))
        means = array(tensors, "frame.means", (len(classes), None))
        middle = array(tensors, "frame.middle", (means.shape[1],))
        basis = array(tensors, "frame.basis", (means.shape[1], None))
        return cls(taxonomy=str(settings["taxonomy"]), classes=classes, middle=middle, means=means, basis=basis)

    @classmethod
    def fit(cls, subjects: Sequence[Subject], dim: int) -> CellFrame:
        """Return axes fitted to subjects, each of which weighs the same however many cells it has."""
        first = subjects[0].bag
        d, n_classes = subjects[0].embedding.shape[1], len(first.classes)
        shares = [1.0 / max(len(s.bag), 1) for s in subjects]
        scale = float(np.mean([len(s.bag) for s in subjects]))
        sums, mass = np.zeros((n_classes, d)), np.zeros(n_classes)
        for subject, share in zip(subjects, shares, strict=True):
            q = subject.views[-1].classes
            sums += scale * share * (q.T @ subject.embedding)
            mass += scale * share * q.sum(axis=0)
        middle = sums.sum(axis=0) / max(mass.sum(), 1e-9)
        means = (sums + _PRIOR_CELLS * middle) / (mass + _PRIOR_CELLS)[:, None]
        spread = np.zeros((d, d))
        for subject, share in zip(subjects, shares, strict=True):
            rest = subject.embedding - subject.views[-1].classes @ means
            spread += share * (rest.T @ rest)
        spread /= len(subjects)
        values, vectors = np.linalg.eigh(spread)
        order = np.argsort(-values)[: min(dim, d)]
        vectors = vectors[:, order] * np.where(vectors[np.abs(vectors[:, order]).argmax(axis=0), order] < 0, -1.0, 1.0)
        basis = np.ascontiguousarray(vectors) / np.sqrt(
            np.maximum(values[order], 0) + _RIDGE * max(float(values.mean()), 1e-12)
        )
        return cls(taxonomy=first.taxonomy, classes=first.classes, middle=middle, means=means, basis=basis)
