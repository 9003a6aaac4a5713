"""Groups of classes that features are of, told by what a class means, so that they exist in every taxonomy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from wsi_pipeline.config import Specimen
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features.feature import FloatArray
from wsi_pipeline.taxonomies import load_taxonomy, taxonomy_names

IMMATURE, MATURE, BLASTS, PROMYELOCYTES = "immature", "mature", "all_blasts", "all_promyelocytes"
_PROMYELOCYTES = ("promyelocyte", "promyelocyte_any", "abnormal_promyelocyte", "auer_bundle_promyelocyte")
_NOT_TOLD = ("not_identifiable", "young_unidentified", "other_cell", "white_cell", "other_object")
"""Meanings that leave open what a cell is."""

DEFINITIONS: Mapping[str, str] = {
    IMMATURE: "blasts and precursors of all lineages but the erythroid one",
    MATURE: "mature cells of all lineages but the erythroid and the megakaryocytic one",
    BLASTS: "blasts of any lineage",
    PROMYELOCYTES: "promyelocytes, normal or abnormal",
}
"""Groups that no taxonomy names; the others are its roll-ups."""


@cache
def groups_of(taxonomy: str, classes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return the classes of each group: :data:`DEFINITIONS`, then the taxonomy's roll-ups; empty ones are left out."""
    own = load_taxonomy(taxonomy)
    told = [c for c in own.classes if c.code in classes]
    made = {
        IMMATURE: [c.code for c in told if c.maturity in ("blast", "precursor") and c.lineage != "erythroid"],
        MATURE: [c.code for c in told if c.maturity == "mature" and c.lineage not in ("erythroid", "megakaryocytic")],
        BLASTS: [c.code for c in told if c.maturity == "blast"],
        PROMYELOCYTES: [c.code for c in told if c.meaning in _PROMYELOCYTES],
    }
    groups = made | {name: [c for c in codes if c in classes] for name, codes in own.roll_ups.items()}
    return {name: tuple(codes) for name, codes in groups.items() if codes}


@cache
def countable(taxonomy: str, classes: tuple[str, ...], specimen: Specimen) -> FloatArray:
    """Return 1 for classes in the denominator of a specimen, else 0, ``(classes,)``; all where there is none."""
    own = load_taxonomy(taxonomy)
    inside = set(own.countable(specimen)) if specimen in own.denominators else set(classes)
    return np.array([float(c in inside) for c in classes])


def member(classes: Sequence[str], group: Sequence[str]) -> FloatArray:
    """Return 1 for the classes of a group, else 0, ``(classes,)``."""
    inside = set(group)
    return np.array([float(c in inside) for c in classes])


def immature_weight(bag: CellBag) -> FloatArray:
    """Return the probability that each cell is immature by the classifier, ``(n,)``: blast or precursor, not erythroid.

    Labels that folders or readers gave do not enter: subjects without labels get the same weights.
    """
    group = groups_of(bag.taxonomy, bag.classes).get(IMMATURE, ())
    return (bag.probabilities.astype(np.float64) * member(bag.classes, group)).sum(axis=1)


def labelled_immature(bag: CellBag) -> FloatArray:
    """Return whether each cell is immature by the label that a folder or a reader gave, ``(n,)``; NaN without one.

    Of labels that the classifier has no class for, too: a promyelocyte of a set that puts those of APL among them is
    immature, though it is not known which promyelocyte it is.
    """
    if bag.given_labels is None:
        return np.full(len(bag), np.nan)
    names, place = np.unique(bag.given_labels, return_inverse=True)
    told = np.array([_is_immature(str(name)) for name in names])
    found: FloatArray = told[place]
    return found


@cache
def _is_immature(label: str) -> float:
    taxonomy, _, code = label.partition("/")
    known = load_taxonomy(taxonomy) if taxonomy in taxonomy_names() else None
    if known is None or code not in known.classifier_classes:
        return np.nan
    if known.get(code).meaning in _NOT_TOLD:
        return np.nan
    return float(code in groups_of(taxonomy, known.classifier_classes).get(IMMATURE, ()))
