"""The red cells of a slide at its end: named in the table, counted, given to summary, QuPath and report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wsi_pipeline.cells.red_cell_model import UNCATEGORISED, load_red_cell_classifier
from wsi_pipeline.cells.red_cells import DIAMETER_STEP_UM, RedCellPass, RedReference, scan
from wsi_pipeline.cells.schema import KIND_CLASS
from wsi_pipeline.config import PipelineConfig
from wsi_pipeline.predictions.red_cells import RedCellDifferential, red_cell_differential
from wsi_pipeline.taxonomies import Taxonomy, load_taxonomy


def red_pass(classifier: str | None, table: Path | None) -> RedCellPass | None:
    """Return the pass that names the red cells of a slide, or None without a classifier.

    Parameters
    ----------
    table
        The cells whose medians are the slide's usual red cell; None for a slide without any.
    """
    if classifier is None:
        return None
    reference = RedReference.of(() if table is None else scan(table))
    return RedCellPass(classifier=load_red_cell_classifier(classifier), reference=reference)


def red_taxonomy(red: RedCellPass | None) -> Taxonomy | None:
    """Return the taxonomy of the shapes."""
    return None if red is None else load_taxonomy(red.classifier.taxonomy)


def without_shapes(classes: Mapping[str, int], red: RedCellPass | None) -> dict[str, int]:
    """Return counts by class in which all red cells are ``red_cell``, as differential and indices know them."""
    shapes = set() if red is None else set(red.counts)
    out = {name: n for name, n in classes.items() if name not in shapes}
    if found := sum(n for name, n in classes.items() if name in shapes):
        out[KIND_CLASS["red"]] = out.get(KIND_CLASS["red"], 0) + found
    return dict(sorted(out.items()))


def red_shapes(red: RedCellPass | None, config: PipelineConfig) -> RedCellDifferential | None:
    """Return the red-cell differential of a finished pass."""
    if red is None:
        return None
    return red_cell_differential(
        red.counts,
        dict(red.left_out),
        card=red.classifier.card,
        uncategorised=UNCATEGORISED,
        outside=red.outside(),
        specimen=config.specimen,
        config=config.predictions,
    )


def red_sizes(red: RedCellPass) -> dict[str, Any]:
    """Return how large the judged red cells lie on the glass: diameters, areas, and the histogram of diameters.

    Not MCV nor RDW, which are of volumes in suspension.
    """
    n, d, dd, a, aa = red.sums.tolist()
    half = int((np.cumsum(red.diameters) * 2 >= n).argmax()) if n else 0
    return {
        "n": int(n),
        "diameter_um": {"mean": d / n, "median": (half + 0.5) * DIAMETER_STEP_UM, "cv_percent": _cv(n, d, dd)}
        if n
        else None,
        "area_um2": {"mean": a / n, "cv_percent": _cv(n, a, aa)} if n else None,
        "histogram": {"from_um": 0.0, "step_um": DIAMETER_STEP_UM, "counts": red.diameters.tolist()},
        "note": "of cells spread on glass; not MCV or RDW, which are of volumes in suspension",
    }


def _cv(n: float, total: float, squares: float) -> float:
    mean = total / n
    return 100 * math.sqrt(max(0.0, squares / n - mean * mean)) / mean
