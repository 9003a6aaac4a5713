"""Cells of a slide as a SpatialData: outlines as shapes, measures as the table that annotates them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.exports._stream import ObjectArray, geometries, iter_cells, polygonal
from wsi_pipeline.exports.anndata_table import cells_anndata, need
from wsi_pipeline.exports.finished_run import RunSlide
from wsi_pipeline.exports.ngff_pyramid import replaced_folder

SHAPES = "cells"
"""Name of the outlines."""


def write_spatialdata(slide: RunSlide, out: Path) -> int:
    """Write a slide's cells as a SpatialData Zarr store; return how many.

    Parameters
    ----------
    out
        The folder to write, for example ``spatialdata.zarr``; replaced when complete.

    Raises
    ------
    ConfigError
        spatialdata is not installed.
    DataError
        The table cannot be read or lacks a column.

    Notes
    -----
    Outlines are in level-0 pixels; the coordinate system ``global`` is micrometres from the level-0 origin. The
    table ``table`` is :func:`~wsi_pipeline.exports.anndata_table.cells_anndata`'s. Cells without area are in neither.
    """
    need("spatialdata", "export spatialdata")
    batches = iter_cells(slide.cells, ("geometry",))
    shapes = np.concatenate([geometries(batch.column("geometry"), slide.cells, first) for first, batch in batches])
    for i in np.flatnonzero(~(shapely.is_valid(shapes) & (shapely.get_type_id(shapes) == 3))):
        shapes[i] = polygonal(shapes[i])
    kept = np.flatnonzero(shapely.area(shapes) > 0)
    with replaced_folder(out) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what its packages will change in their next versions
        _write(slide, shapes[kept], kept, temporary)
    return len(kept)


def _write(slide: RunSlide, shapes: ObjectArray, rows: npt.NDArray[np.intp], out: Path) -> None:
    import geopandas as gpd
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Scale

    table = cells_anndata([slide])[rows].copy()
    table.obs["region"] = SHAPES
    table.obs["region"] = table.obs["region"].astype("category")
    outlines = gpd.GeoDataFrame(geometry=shapes, index=table.obs["cell_id"].to_numpy())
    to_um = Scale(np.array(slide.mpp), axes=("x", "y"))
    data = SpatialData(
        shapes={SHAPES: ShapesModel.parse(outlines, transformations={"global": to_um})},
        tables={"table": TableModel.parse(table, region=SHAPES, region_key="region", instance_key="cell_id")},
    )
    data.write(out)
