"""What was planted on the slides of a simulated trephine cohort, in the measures that a run reports.

Shape and arrangement are measured by the code of the run itself, on the true outlines and in the true marrow: what
differs between the two is then what pixels, detection and delineation did, and no difference of definitions.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from scipy import ndimage

from wsi_pipeline.cells.features import NAMES
from wsi_pipeline.cells.morphology import measure_morphology
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.polygons import Outlines
from wsi_pipeline.predictions.trephines.arrangement import arrangement
from wsi_pipeline.predictions.trephines.window import MarrowWindow
from wsi_pipeline.regions.rasterise import rasterise
from wsi_pipeline.simulation.trephine_cohort import MPP, read_core_truth
from wsi_pipeline.units import Box

SHAPE = ("area_um2", "nucleus_area_um2", "nucleus_solidity", "nucleus_concavities", "nucleus_lobes")
"""Columns of single megakaryocytes, of which a slide has the mean; the last three are three views of lobulation."""
MEASURES: Mapping[str, str] = {
    "per_mm2": "megakaryocytes per mm2 of marrow",
    "area_um2": "mean area of a megakaryocyte, um2",
    "nucleus_area_um2": "mean area of its nucleus, um2",
    "concave": "lobulation: mean share of the nucleus's convex hull that it does not fill, 1 - solidity",
    "nucleus_concavities": "lobulation: mean concavities of the nucleus",
    "nucleus_lobes": "lobulation: mean lobes of the nucleus",
    "clustered": "share in clusters (DBSCAN)",
    "nearest_um": "mean distance to the nearest, edge-corrected, um",
    "cellularity": "haematopoietic over haematopoietic and fat area, percent",
}
"""What is compared, in words."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """What lies on a slide.

    Attributes
    ----------
    figures
        By name of :data:`MEASURES`; NaN where the slide has nothing to tell it by.
    kinds
        ``(n,)`` kind of each megakaryocyte.
    truncated
        ``(n,)``.
    outlines
        Of the megakaryocytes, level-0 pixels.
    """

    figures: Mapping[str, float]
    kinds: npt.NDArray[np.object_]
    truncated: npt.NDArray[np.bool_]
    outlines: Outlines


def read_planted(slides: Path, slide_id: str) -> Planted:
    """Return what was planted on a slide of a cohort.

    Raises
    ------
    DataError
        Its truth is missing or damaged.
    """
    core = read_core_truth(slides / f"{slide_id}.truth.json")
    path = slides / f"{slide_id}.truth.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["kind"] == "megakaryocyte"]
        cells = shapely.from_wkt(np.array([row["outline"] for row in rows], object))
        nuclei = shapely.from_wkt(np.array([row["nucleus"] for row in rows], object))
        points = np.array([(float(row["x_px0"]), float(row["y_px0"])) for row in rows]).reshape(-1, 2)
        window = MarrowWindow(marrow=_in_um(core["marrow"]), bone=_in_um(core["bone"]))
        outlines = Outlines.measure(np.array([row["outline"] for row in rows], object))
        truncated = np.array([row["truncated"] == "true" for row in rows], bool)
        kinds = np.array([row["variant"] for row in rows], object)
    except (OSError, KeyError, ValueError, TypeError, csv.Error, shapely.errors.ShapelyError) as error:
        raise DataError(
            f"{path} is not the truth of a trephine ({error}); remove it, and make the slide anew"
        ) from None
    figures = {**_arrangement(points * MPP, window), **_shapes(cells[~truncated], nuclei[~truncated])}
    cellularity = core["cellularity"]
    figures["cellularity"] = np.nan if cellularity is None else 100 * float(cellularity)
    figures = {name: figures[name] for name in MEASURES}
    return Planted(figures=figures, kinds=kinds, truncated=truncated, outlines=outlines)


def _in_um(wkt: str) -> shapely.Geometry:
    return shapely.transform(shapely.from_wkt(wkt), lambda xy: xy * MPP)


def _arrangement(points_um: npt.NDArray[np.float64], window: MarrowWindow) -> dict[str, float]:
    if window.area_um2 <= 0:
        return dict.fromkeys(("per_mm2", "clustered", "nearest_um"), np.nan)
    found = arrangement(points_um, window)
    return {"per_mm2": found.per_mm2, "clustered": found.clustered_share, "nearest_um": found.nearest.mean}


def _shapes(cells: npt.NDArray[np.object_], nuclei: npt.NDArray[np.object_]) -> dict[str, float]:
    """Return the means of :data:`SHAPE` over cells as the run measures them, each drawn alone on its own pixels."""
    columns = [NAMES.index(name) for name in SHAPE]
    values = [_measured(cell, nucleus)[columns] for cell, nucleus in zip(cells, nuclei, strict=True)]
    if not values:
        return dict.fromkeys((name for name in ("concave", *SHAPE) if name in MEASURES), np.nan)
    means = dict(zip(SHAPE, np.nanmean(np.stack(values), axis=0).tolist(), strict=True))
    return {"concave": 1 - means["nucleus_solidity"], **{name: means[name] for name in MEASURES if name in means}}


def _measured(cell: shapely.Geometry, nucleus: shapely.Geometry) -> npt.NDArray[np.float32]:
    x0, y0, x1, y1 = cell.bounds
    box = Box(x0=int(x0) - 1, y0=int(y0) - 1, x1=int(x1) + 2, y1=int(y1) + 2)
    masks = []
    for shape in (cell, nucleus):
        parts = shapely.get_parts(shape)
        mask = np.zeros((box.height, box.width), np.uint8)
        rasterise(parts[shapely.get_type_id(parts) == 3], np.ones(len(parts), np.uint8), mask, box)
        masks.append(mask)
    # A run fills the holes of the nuclear stain inside a cell (cells.measure), so what was planted is measured so too.
    inner = ndimage.binary_fill_holes(masks[1] > 0) & (masks[0] > 0)
    # Shape alone is asked for: what the pixels show plays no part.
    grey = np.full((box.height, box.width, 3), 200, np.uint8)
    return measure_morphology(masks[0].astype(np.int32), grey, mpp=MPP, nucleus=inner)[0]
