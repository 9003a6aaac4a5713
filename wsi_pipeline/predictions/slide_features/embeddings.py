"""What the classifier's embedding says of all cells together, and of the immature ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from wsi_pipeline.config import Specimen
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features.feature import MIN_CELLS, Columns, FloatArray, SlideFeature
from wsi_pipeline.predictions.slide_features.groups import countable, immature_weight
from wsi_pipeline.predictions.slide_features.words import Words

_OF = {
    "all": "cells of the denominator, each weighted by the probability that it belongs there",
    "immature": "immature cells, each weighted by the probability that it is one",
}


def features(words: Words) -> Iterator[SlideFeature]:
    """Yield means, then standard deviations, of each direction, over all and over immature cells."""
    for of, what in _OF.items():
        for statistic, word in (("mean", "mean"), ("sd", "standard deviation")):
            for i in range(words.embedding_dim or 0):
                yield SlideFeature(
                    name=f"embedding.{of}.{statistic}.{i:03d}",
                    family="embedding",
                    unit="a.u.",
                    description=f"{word} of direction {i} of the embedding, of {what}; n: the sum of the weights",
                )


def add_values(bag: CellBag, words: Words, columns: Columns) -> None:
    """Add the values in the order of :func:`features`."""
    if words.embedding_dim is None or bag.embedding is None:
        return
    vectors = bag.embedding.astype(np.float64)
    inside = countable(bag.taxonomy, bag.classes, cast("Specimen", bag.specimen))
    for weight in ((bag.probabilities.astype(np.float64) * inside).sum(axis=1), immature_weight(bag)):
        n = float(weight.sum())
        for statistic in _moments(vectors, weight) if n >= MIN_CELLS else (np.full(words.embedding_dim, np.nan),) * 2:
            for value in statistic.tolist():
                columns.add(value, n)


def _moments(vectors: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return weighted mean and standard deviation of each direction; sums run cell by cell, in their order."""
    share = (weight / weight.sum())[:, None]
    mean = (share * vectors).sum(axis=0)
    return mean, np.sqrt((share * (vectors - mean) ** 2).sum(axis=0))
