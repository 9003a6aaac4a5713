"""What the cells are: shares of classes and groups, and ratios, by the classifier and by the labels given.

Counting the likeliest class and averaging the probabilities differ where the classifier doubts; the mean of calibrated
probabilities is the less biased ("probabilistic classify and count": Bella et al., ICDM 2010, doi
10.1109/ICDM.2010.75). Ratios are logarithms of counts with half a cell added to each side (Haldane, Ann. Hum. Genet.
20:309, 1956; Anscombe, Biometrika 43:461, 1956), so that a side without a cell gives a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import cast

import numpy as np

from wsi_pipeline.config import Specimen
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features.feature import Columns, FloatArray, SlideFeature
from wsi_pipeline.predictions.slide_features.groups import (
    BLASTS,
    DEFINITIONS,
    IMMATURE,
    MATURE,
    PROMYELOCYTES,
    countable,
    groups_of,
    member,
)
from wsi_pipeline.predictions.slide_features.words import Words
from wsi_pipeline.taxonomies import load_taxonomy

HALF_CELL = 0.5

RATIOS = {
    "me": ("granulocytic", "erythroid", "M:E ratio, granulocytes and precursors over nucleated red cells"),
    "immature_mature": (IMMATURE, MATURE, "immature over mature cells"),
    "nl": ("neutrophils", "lymphocytes", "neutrophils over lymphocytes"),
    "promyelocyte_blast": (PROMYELOCYTES, BLASTS, "promyelocytes over blasts"),
}

_SOURCES = {
    "posterior": "mean probability by the classifier",
    "answered": "cells of which it is the likeliest class",
    "given": "cells that a folder or reader gave it to, where the classifier has the class",
}


def features(words: Words) -> Iterator[SlideFeature]:
    """Yield shares, then ratios, of each source."""
    for source, taxonomy, classes in _sources(words):
        how = _SOURCES.get(source, f"cells that a folder gave it to, in the words of {taxonomy}")
        own = load_taxonomy(taxonomy)
        for name, codes in _units(taxonomy, classes).items():
            what = own.get(name).name_en if name in classes else DEFINITIONS.get(name, f"roll-up {', '.join(codes)}")
            yield SlideFeature(
                name=f"{source}.{name}",
                family="composition",
                unit="1",
                description=f"{what}: {how}, per cell of the denominator; n: the denominator",
            )
        for name in _ratios(taxonomy, classes):
            yield SlideFeature(
                name=f"{source}.ratio_{name}",
                family="ratio",
                unit="log2",
                description=f"{RATIOS[name][2]}: {how}, half a cell added to each side; n: cells of both sides",
            )


def add_values(bag: CellBag, words: Words, columns: Columns) -> None:
    """Add the values in the order of :func:`features`."""
    for source, taxonomy, classes in _sources(words):
        counts, n_cells = _counts(bag, source, taxonomy, classes)
        inside = countable(taxonomy, classes, cast("Specimen", bag.specimen))
        whole = float(counts @ inside)
        n = float(n_cells @ inside)
        for mask in _masks(taxonomy, classes):
            columns.add(float(counts @ mask) / whole if n else np.nan, n)
        for a, b in _ratio_masks(taxonomy, classes):
            above, below, cells = float(counts @ a), float(counts @ b), float(n_cells @ a + n_cells @ b)
            columns.add(np.log2((above + HALF_CELL) / (below + HALF_CELL)) if n_cells.any() else np.nan, cells)


def _sources(words: Words) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name, taxonomy and classes of each source of counts."""
    for source in _SOURCES:
        yield source, words.taxonomy, words.classes
    for name in words.label_sets:
        yield f"label.{name}", name, load_taxonomy(name).classifier_classes


def _units(taxonomy: str, classes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return classes, then groups of two or more that are not the same as a group before."""
    units: dict[str, tuple[str, ...]] = {c: (c,) for c in classes}
    for name, codes in groups_of(taxonomy, classes).items():
        if len(codes) > 1 and name not in units and set(codes) not in map(set, units.values()):
            units[name] = codes
    return units


def _ratios(taxonomy: str, classes: tuple[str, ...]) -> list[str]:
    groups = groups_of(taxonomy, classes)
    return [name for name, (a, b, _) in RATIOS.items() if a in groups and b in groups]


@cache
def _masks(taxonomy: str, classes: tuple[str, ...]) -> tuple[FloatArray, ...]:
    return tuple(member(classes, codes) for codes in _units(taxonomy, classes).values())


@cache
def _ratio_masks(taxonomy: str, classes: tuple[str, ...]) -> tuple[tuple[FloatArray, FloatArray], ...]:
    groups = groups_of(taxonomy, classes)
    sides = (RATIOS[name][:2] for name in _ratios(taxonomy, classes))
    return tuple((member(classes, groups[a]), member(classes, groups[b])) for a, b in sides)


def _counts(bag: CellBag, source: str, taxonomy: str, classes: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
    """Return expected cells of each class, and the whole cells behind them, ``(classes,)`` each."""
    if source == "posterior":
        answered = np.bincount(bag.likeliest, minlength=len(classes)).astype(np.float64)
        return bag.probabilities.sum(axis=0, dtype=np.float64), answered
    if source == "answered":
        counts = np.bincount(bag.likeliest, minlength=len(classes)).astype(np.float64)
    elif source == "given":
        counts = np.bincount(bag.given[bag.given >= 0], minlength=len(classes)).astype(np.float64)
    else:
        labels = np.empty(0, np.str_) if bag.given_labels is None else bag.given_labels
        found, times = np.unique(labels, return_counts=True)
        told = dict(zip(found.tolist(), times.tolist(), strict=True))
        counts = np.array([float(told.get(f"{taxonomy}/{c}", 0)) for c in classes])
    return counts, counts
