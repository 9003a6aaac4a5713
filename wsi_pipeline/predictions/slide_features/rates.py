"""How often: attributes and dysplasia among the cells that can have them, shapes of red cells, and doubt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_pipeline.cells.out_of_distribution import CUT_OFF
from wsi_pipeline.predictions.attributes import PRESENT
from wsi_pipeline.predictions.bags.bag import CellBag
from wsi_pipeline.predictions.bags.cells import FLAGS
from wsi_pipeline.predictions.slide_features.feature import MIN_RED_CELLS, Columns, SlideFeature
from wsi_pipeline.predictions.slide_features.words import Words
from wsi_pipeline.taxonomies import load_taxonomy

HYPOGRANULAR, PSEUDO_PELGER = FLAGS["hypogranular"], FLAGS["pseudo_pelger"]

_DYSPLASIA = {
    "hypogranular": "hypogranular neutrophils; n: judged neutrophils",
    "pseudo_pelger": "pseudo-Pelger neutrophils; n: judged segmented neutrophils",
    "fraction": "neutrophils that are either; n: judged neutrophils",
}
_SIZES = {
    "diameter_um": ("um", "mean equivalent diameter of red cells, spread on glass"),
    "diameter_um_cv": ("1", "its coefficient of variation: anisocytosis"),
    "area_um2_cv": ("1", "coefficient of variation of the area of red cells"),
}
_PLATELETS = "platelets_per_1000"


def features(words: Words) -> Iterator[SlideFeature]:
    """Yield attributes, dysplasia, red cells, doubt."""
    for name in words.attributes:
        what = f"cells with {name}, of those that can have it; n: the latter"
        yield SlideFeature(name=f"attribute.{name}", family="attribute", unit="1", description=what)
    for name, what in _DYSPLASIA.items():
        yield SlideFeature(name=f"dysplasia.{name}", family="dysplasia", unit="1", description=what)
    for name, (unit, what) in _SIZES.items():
        yield SlideFeature(name=f"red.{name}", family="red", unit=unit, description=f"{what}; n: judged red cells")
    for shape in _shapes():
        what = f"red cells called {shape}; n: judged red cells"
        yield SlideFeature(name=f"red.share_{shape}", family="red", unit="1", description=what)
    yield SlideFeature(
        name=f"red.{_PLATELETS}", family="red", unit="1", description="platelets per 1,000 red cells; n: red cells"
    )
    yield SlideFeature(
        name="doubt.entropy", family="doubt", unit="bit",
        description="mean entropy of the classifier's probabilities; n: nucleated cells",
    )  # fmt: skip
    yield SlideFeature(
        name="doubt.unusual", family="doubt", unit="1",
        description=f"cells more unusual than {100 * CUT_OFF:g} % of validation cells; n: cells with a score",
    )  # fmt: skip


def add_values(bag: CellBag, words: Words, columns: Columns) -> None:
    """Add the values in the order of :func:`features`."""
    told = {name: bag.attributes[:, i] for i, name in enumerate(bag.attribute_names)}
    nothing = np.full(len(bag), np.nan, np.float32)
    for name in words.attributes:
        _add_share(told.get(name, nothing), PRESENT, columns)
    granules, nuclei = told.get(HYPOGRANULAR, nothing), told.get(PSEUDO_PELGER, nothing)
    _add_share(granules, PRESENT, columns)
    _add_share(nuclei, PRESENT, columns)
    # Where granules can be told nuclei can, too; a band has no flag of nuclei and counts by its granules.
    _add_share(np.where(np.isfinite(granules), np.fmax(granules, nuclei), np.nan), PRESENT, columns)
    judged = bag.red.get("n", 0.0)
    for name in (*_SIZES, *(f"share_{shape}" for shape in _shapes())):
        columns.add(bag.red.get(name, np.nan) if judged >= MIN_RED_CELLS else np.nan, judged)
    red = bag.other_counts.get("red", 0)
    columns.add(1000 * bag.other_counts.get("platelet", 0) / red if red >= MIN_RED_CELLS else np.nan, red)
    p = bag.probabilities.astype(np.float64)
    entropy = -(p * np.log2(np.maximum(p, 1e-12))).sum(axis=1)
    columns.add(entropy.mean() if len(bag) else np.nan, len(bag))
    _add_share(
        nothing if bag.outlier is None else bag.outlier, np.nextafter(np.float32(CUT_OFF), np.float32(1)), columns
    )


def _add_share(values: np.ndarray, least: float, columns: Columns) -> None:
    there = values[np.isfinite(values)]
    columns.add((there >= least).mean() if len(there) else np.nan, len(there))


def _shapes() -> tuple[str, ...]:
    return load_taxonomy("red-cells").classifier_classes
