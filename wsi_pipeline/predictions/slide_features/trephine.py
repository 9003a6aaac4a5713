"""What a trephine's megakaryocytes are like, how they lie, and how full the marrow is.

Of resampled cells shapes and phenotypes follow the cells; where they lie, and the marrow, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.bags.sections import PHENOTYPE
from wsi_pipeline.predictions.slide_features.feature import MIN_CELLS, Columns, Family, SlideFeature
from wsi_pipeline.predictions.slide_features.words import Words
from wsi_pipeline.predictions.trephines.megakaryocytes import UNITS
from wsi_pipeline.predictions.trephines.mekanet import UNITS as MEKANET

SECTION = "section"
"""Taxonomy of trephines."""

MEASURES = (
    "diameter_um", "nucleus_area_um2", "nc_ratio", "nucleus_lobes", "nucleus_concavities", "nucleus_solidity",
    "nucleus_form_factor", "hyperchromasia", "nucleus_chromatin", "circularity", "solidity",
)  # fmt: skip
QUANTILES = (0.1, 0.5, 0.9)
_BARE = "bare"

SAMPLE: Mapping[str, tuple[str, str]] = {
    "cellularity.percent": ("percent", "haematopoietic over haematopoietic and fat area; n: marrow spaces"),
    "arrangement.per_mm2": ("1/mm2", "megakaryocytes per mm2 of marrow"),
    "arrangement.nearest_um": ("um", "mean distance to the nearest megakaryocyte, edge-corrected"),
    "arrangement.nearest_cv": ("1", "its standard deviation over its mean"),
    "arrangement.clark_evans": ("1", "distance to the nearest over that of random points; below 1 is clustered"),
    "arrangement.pairs_within_radius": ("1", "pairs within the radius of clusters over those of random points"),
    "arrangement.clustered": ("1", "share of megakaryocytes in a cluster"),
    "arrangement.clustered_excess": ("1", "the same less that of random points"),
    "arrangement.cluster_size": ("count", "mean size of a cluster"),
    "arrangement.beside_bone": ("1", "share of megakaryocytes beside bone"),
    "arrangement.beside_bone_excess": ("1", "the same less that of random points"),
    "arrangement.bone_distance_relative": ("1", "mean distance from bone over that of random points"),
    **{f"mekanet.{name}": (unit, f"MekaNet's {name}, of bounding boxes") for name, unit in MEKANET.items()},
}
"""Figures of the sample, by name: unit, and what it is."""


def features(words: Words) -> Iterator[SlideFeature]:
    """Yield shapes, phenotypes, and the figures of the sample."""
    for measure in MEASURES:
        for q in QUANTILES:
            what = f"{round(100 * q)} % quantile of {measure} of megakaryocytes; n: measured ones"
            yield SlideFeature(
                name=f"megakaryocyte.{measure}.q{round(100 * q)}",
                family="megakaryocyte",
                unit=UNITS[measure],
                description=what,
            )
    what = "share of megakaryocytes with next to no cytoplasm; n: those with a measured nucleus"
    yield SlideFeature(name=f"megakaryocyte.{_BARE}", family="megakaryocyte", unit="1", description=what)
    for name in _phenotypes(words):
        what = f"share of the phenotype {name.removeprefix(PHENOTYPE)}; n: megakaryocytes with a phenotype"
        yield SlideFeature(name=name, family="phenotype", unit="1", description=what)
    for name, (unit, what) in SAMPLE.items():
        n = "" if "; n:" in what else "; n: megakaryocytes"
        yield SlideFeature(name=name, family=_family(name), unit=unit, description=f"{what}{n}")


def add_values(bag: CellBag, words: Words, columns: Columns) -> None:
    """Add the values in the order of :func:`features`."""
    place = {name: i for i, name in enumerate(bag.morphology_names)}
    for measure in MEASURES:
        values = bag.morphology[:, place[measure]].astype(np.float64)
        there = values[np.isfinite(values)]
        found = np.quantile(there, QUANTILES) if len(there) >= MIN_CELLS else np.full(len(QUANTILES), np.nan)
        for value in found.tolist():
            columns.add(value, len(there))
    _add_share(bag.morphology[:, place[_BARE]], columns)
    told = {name: bag.attributes[:, i] for i, name in enumerate(bag.attribute_names)}
    nothing = np.full(len(bag), np.nan, np.float32)
    for name in _phenotypes(words):
        _add_share(told.get(name, nothing), columns)
    for name in SAMPLE:
        columns.add(*bag.sample.get(name, (np.nan, 0)))


def _phenotypes(words: Words) -> list[str]:
    return [name for name in words.attributes if name.startswith(PHENOTYPE)]


def _family(name: str) -> Family:
    families: dict[str, Family] = {"cellularity": "cellularity", "arrangement": "arrangement", "mekanet": "mekanet"}
    return families[name.partition(".")[0]]


def _add_share(values: np.ndarray, columns: Columns) -> None:
    there = values[np.isfinite(values)]
    columns.add(there.mean() if len(there) >= MIN_CELLS else np.nan, len(there))
