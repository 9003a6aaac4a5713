"""How the cells look: quantiles of their morphology by group, and how the slide is stained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.slide_features.feature import MIN_CELLS, Columns, FloatArray, SlideFeature
from wsi_pipeline.predictions.slide_features.groups import BLASTS, IMMATURE, PROMYELOCYTES, groups_of, member
from wsi_pipeline.predictions.slide_features.words import Words

GROUPS = (IMMATURE, BLASTS, PROMYELOCYTES, "neutrophils", "lymphocytes", "monocytes")
"""Groups whose morphology is given, where the taxonomy has them; membership is by the likeliest class."""
MEASURES = (
    "area_um2", "nc_ratio", "nucleus_form_factor", "nucleus_solidity", "nucleus_lobes", "nucleus_chromatin",
    "cytoplasm_azure", "cytoplasm_eosin", "cytoplasm_granularity",
)  # fmt: skip
STAIN = ("cell_od_red", "cell_od_green", "cell_od_blue")
QUANTILES = (0.1, 0.5, 0.9)

_UNITS = {f.name: f.unit for f in FEATURES}


def features(words: Words) -> Iterator[SlideFeature]:
    """Yield the quantiles of each measure of each group, then the medians of the densities."""
    for group in _groups(words):
        for measure in MEASURES:
            for q in QUANTILES:
                yield SlideFeature(
                    name=f"morphology.{group}.{measure}.q{round(100 * q)}",
                    family="morphology",
                    unit=_UNITS[measure],
                    description=f"{round(100 * q)} % quantile of {measure} in {group}; n: measured cells of the group",
                )
    for measure in STAIN:
        yield SlideFeature(
            name=f"stain.{measure}",
            family="stain",
            unit=_UNITS[measure],
            description=f"median of {measure} of all nucleated cells; n: measured cells",
        )


def add_values(bag: CellBag, words: Words, columns: Columns) -> None:
    """Add the values in the order of :func:`features`."""
    place = {name: i for i, name in enumerate(bag.morphology_names)}
    likeliest = bag.likeliest
    wanted = [place[measure] for measure in MEASURES]
    for codes in _groups(words).values():
        rows = member(bag.classes, codes)[likeliest] > 0
        values = bag.morphology[rows][:, wanted].astype(np.float64)
        for column in values.T:
            _add_quantiles(column, QUANTILES, columns)
    for measure in STAIN:
        _add_quantiles(bag.morphology[:, place[measure]].astype(np.float64), (0.5,), columns)


def _groups(words: Words) -> dict[str, tuple[str, ...]]:
    groups = groups_of(words.taxonomy, words.classes)
    return {name: groups[name] for name in GROUPS if name in groups}


def _add_quantiles(values: FloatArray, levels: tuple[float, ...], columns: Columns) -> None:
    there = values[np.isfinite(values)]
    found = quantiles(there, levels) if len(there) >= MIN_CELLS else [np.nan] * len(levels)
    for value in found:
        columns.add(value, len(there))


def quantiles(values: FloatArray, levels: Sequence[float]) -> list[float]:
    """Return what ``numpy.quantile`` returns of ``(n,)`` numbers, to the last bit, in a fraction of its time.

    An interval of an answer asks for ten thousand quantiles of a few cells each.
    """
    ordered = np.sort(values)
    found = []
    for level in levels:
        place = (len(ordered) - 1) * level
        below = int(place)
        low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
        part = place - below
        found.append(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))
    return found
