"""A bag of cells as the members of a model read it: what each cell is, by labels where there are any, or without.

A label that a folder or a reader gave is preferred to the classifier's answer. A cohort to come may have none, so every
subject with labels is also trained on as it would look without: two views of the same cells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt

from wsi_pipeline.config import Specimen
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features import Vocabulary, slide_features
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.predictions.slide_features.groups import (
    IMMATURE,
    countable,
    groups_of,
    labelled_immature,
    member,
)

LEAST_LABELLED = 0.5
"""Share of cells that must carry a label for a subject to count as labelled."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What each of ``n`` cells is.

    Parameters
    ----------
    classes
        ``(n, C)``: one where a label says it, else the classifier's probabilities.
    countable, immature
        ``(n,)`` probability that a cell is of the denominator, and that it is a blast or a precursor, not erythroid.
    """

    classes: FloatArray
    countable: FloatArray
    immature: FloatArray


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A bag in the order of its ids, with what is not in its cells.

    Parameters
    ----------
    counts
        Routine counts by analyte, canonical units; empty without any.
    """

    bag: CellBag
    counts: Mapping[str, float] = field(default_factory=dict)
    _features: dict[tuple[Vocabulary, str], FloatArray] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """Return the view that answers, and where it rests on labels the one without them."""
        own = self.bag.probabilities.astype(np.float64)
        told, immature = self.bag.given >= 0, labelled_immature(self.bag)
        if not told.any() and not np.isfinite(immature).any():
            return (_view(self.bag, own),)
        mixed = own.copy()
        mixed[told] = np.eye(own.shape[1])[self.bag.given[told]]
        labelled = _view(self.bag, mixed)
        known = np.isfinite(immature)
        return (replace(labelled, immature=np.where(known, immature, labelled.immature)), _view(self.bag, own))

    @cached_property
    def embedding(self) -> FloatArray:
        """Return the embeddings, ``(n, d)`` float64; ``(n, 0)`` without any."""
        found = self.bag.embedding
        return np.empty((len(self.bag), 0)) if found is None else found.astype(np.float64)

    def unlabelled(self) -> Subject:
        """Return the subject as it looks without the labels that folders or readers gave."""
        bag = replace(self.bag, given=np.full(len(self.bag), -1, np.int64), given_labels=None)
        return replace(self, bag=bag)

    def features(self, vocabulary: Vocabulary, weights: FloatArray) -> FloatArray:
        """Return the slide features of resamples, ``(B, d)``; cells count ``weights`` times ``(B, n)``."""
        key = (vocabulary, hashlib.sha256(weights.tobytes()).hexdigest())
        if key not in self._features:
            rows = np.arange(len(self.bag))
            # Of resamples only the last ones are kept.
            for old in [k for k in self._features if len(self._features[k]) > 1]:
                del self._features[old]
            self._features[key] = np.stack(
                [
                    slide_features(self.bag.take(np.repeat(rows, own.astype(np.int64))), vocabulary=vocabulary).values
                    for own in weights
                ]
            )
        return self._features[key]

    @property
    def labelled(self) -> bool:
        """Tell whether enough cells carry a label for the members that read nothing else."""
        labels = self.bag.given_labels
        return labels is not None and len(labels) > 0 and float((labels != "").mean()) >= LEAST_LABELLED

    @property
    def n_cells(self) -> int:
        """Return the cells of the denominator, each taken for what it most likely is."""
        view = self.views[0]
        inside = countable(self.bag.taxonomy, self.bag.classes, cast("Specimen", self.bag.specimen))
        return int(inside[view.classes.argmax(axis=1)].sum()) if len(self.bag) else 0


def _view(bag: CellBag, classes: FloatArray) -> View:
    inside = countable(bag.taxonomy, bag.classes, cast("Specimen", bag.specimen))
    immature = member(bag.classes, groups_of(bag.taxonomy, bag.classes).get(IMMATURE, ()))
    return View(classes=classes, countable=classes @ inside, immature=classes @ immature)


def subjects_of(
    bags: Sequence[CellBag], *, counts: npt.NDArray[np.float64] | None = None, count_names: Sequence[str] = ()
) -> list[Subject]:
    """Return bags as subjects.

    Parameters
    ----------
    counts, count_names
        ``(n, k)`` routine counts in canonical units, NaN where missing, and their analytes; None without any.
    """
    if counts is None:
        return [Subject(bag=bag.in_order()) for bag in bags]
    return [
        Subject(
            bag=bag.in_order(),
            counts={name: v for name, v in zip(count_names, row, strict=True) if np.isfinite(v)},
        )
        for bag, row in zip(bags, counts.tolist(), strict=True)
    ]
