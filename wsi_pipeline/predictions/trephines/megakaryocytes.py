"""The megakaryocytes of a slide's ``cells.parquet``, with what follows from their measures.

- Hyperchromasia: ``nucleus_od`` of the megakaryocyte over the median, of all whole nuclei of the slide, of their mean
  density of the three channels. 1 is as dark as the other nuclei. Stain and scanner cancel.
- Bare: the nucleus fills :data:`BARE_NC` of the cell or more. At that share the rim of a cell of 20 um is 0.8 um wide,
  under two pixels of the working resolution; less cytoplasm cannot be told from none. Naked megakaryocyte nuclei are a
  feature of primary myelofibrosis (WHO, revised 4th edition, 2017).

Measures are NaN where they were not taken, and of cells that an edge cuts: part of them was not seen. Such cells count,
and have a place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.trephines.window import FloatArray

BARE_NC = 0.85
LEAST_NUCLEI = 20
"""Nuclei that the usual density needs."""

TAKEN = (
    "area_um2", "perimeter_um", "circularity", "solidity", "eccentricity", "nucleus_area_um2", "nc_ratio",
    "nucleus_lobes", "nucleus_concavities", "nucleus_solidity", "nucleus_form_factor", "nucleus_eccentricity",
    "nucleus_od", "nucleus_od_sd", "nucleus_chromatin", "nucleus_glcm_contrast", "nucleus_glcm_homogeneity",
    "nucleus_glcm_entropy", "cell_od_red", "cell_od_green", "cell_od_blue",
)  # fmt: skip
"""Columns of the table that are read."""
DERIVED: Mapping[str, str] = {"diameter_um": "um", "hyperchromasia": "1", "bare": "1"}
"""What follows from them, with its unit; ``diameter_um`` is that of the disc of equal area, ``bare`` 0 or 1."""
MEASURES: tuple[str, ...] = (*TAKEN, *DERIVED)
_UNITS = {feature.name: feature.unit for feature in FEATURES}
UNITS: Mapping[str, str] = {name: DERIVED.get(name) or _UNITS[name] for name in MEASURES}

_DENSITIES = ("cell_od_red", "cell_od_green", "cell_od_blue")
_PLACED = ("cell_id", "x_um", "y_um", "x_px0", "y_px0", "truncated", "geometry")


@dataclass(frozen=True, kw_only=True)
class Megakaryocytes:
    """The ``n`` megakaryocytes of a slide, in the order of its table.

    Parameters
    ----------
    points_um
        ``(n, 2)`` middles, x and y.
    boxes_px0
        ``(n, 4)`` bounding boxes in level-0 pixels: left, top, right, bottom.
    measures
        ``(n,)`` by name, for every name of :data:`MEASURES`.
    embedding
        ``(n, d)``; None where the table has none.
    nuclei_od
        Median density of the slide's other nuclei; NaN of fewer than :data:`LEAST_NUCLEI`.
    n_nuclei
        Whole nuclei behind it.
    """

    cell_ids: npt.NDArray[np.str_]
    points_um: FloatArray
    boxes_px0: FloatArray
    truncated: npt.NDArray[np.bool_]
    measures: Mapping[str, FloatArray]
    embedding: FloatArray | None
    nuclei_od: float
    n_nuclei: int

    def __len__(self) -> int:
        return len(self.cell_ids)

    def matrix(self, names: tuple[str, ...]) -> FloatArray:
        """Return some measures, ``(n, names)``."""
        return np.stack([self.measures[name] for name in names], axis=1) if names else np.empty((len(self), 0))


def read_megakaryocytes(cells: Path) -> Megakaryocytes:
    """Return the megakaryocytes of a table, read row group by row group.

    Raises
    ------
    DataError
        The file is no table of cells of this package.
    """
    densities: list[FloatArray] = []
    tables: list[pa.Table] = []
    try:
        with pq.ParquetFile(cells) as source:
            names = set(source.schema_arrow.names)
            missing = {"kind", *_PLACED, *_DENSITIES} - names
            if missing:
                raise DataError(f"{cells} is no table of cells of a section: it lacks {', '.join(sorted(missing))}")
            wanted = [n for n in source.schema_arrow.names if n in {*_PLACED, *TAKEN, "embedding"}]
            empty = pa.schema([source.schema_arrow.field(n) for n in wanted]).empty_table()
            for group in range(source.num_row_groups):
                band = source.read_row_group(group, columns=["kind", "truncated", *_DENSITIES])
                kind = band.column("kind")
                densities.append(_densities(band.filter(pa.compute.equal(kind, "nucleus"))))
                large = pa.compute.equal(kind, "megakaryocyte")
                if pa.compute.any(large).as_py():
                    tables.append(source.read_row_group(group, columns=wanted).filter(large))
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{cells} cannot be read as a table of cells: {error}") from None
    od = np.concatenate(densities) if densities else np.empty(0)
    usual = float(np.median(od)) if len(od) >= LEAST_NUCLEI else np.nan
    return _megakaryocytes(pa.concat_tables([empty, *tables]), usual, len(od))


def _densities(nuclei: pa.Table) -> FloatArray:
    whole = ~nuclei.column("truncated").fill_null(False).to_numpy().astype(bool)
    mean = np.mean([_numbers(nuclei, name) for name in _DENSITIES], axis=0)
    found: FloatArray = mean[whole & np.isfinite(mean)]
    return found


def _megakaryocytes(table: pa.Table, usual_od: float, n_nuclei: int) -> Megakaryocytes:
    truncated = table.column("truncated").fill_null(False).to_numpy().astype(bool)
    nothing = np.full(len(table), np.nan)
    measures = {
        name: np.where(truncated, np.nan, _numbers(table, name)) if name in table.column_names else nothing
        for name in TAKEN
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        measures["diameter_um"] = 2 * np.sqrt(measures["area_um2"] / np.pi)
        measures["hyperchromasia"] = measures["nucleus_od"] / usual_od if usual_od > 0 else nothing
    nc = measures["nc_ratio"]
    measures["bare"] = np.where(np.isfinite(nc), (nc >= BARE_NC).astype(np.float64), np.nan)
    outlines = shapely.from_wkb(table.column("geometry").to_numpy(zero_copy_only=False))
    return Megakaryocytes(
        cell_ids=np.asarray(table.column("cell_id").to_pylist(), np.str_),
        points_um=np.stack([_numbers(table, "x_um"), _numbers(table, "y_um")], axis=1),
        boxes_px0=shapely.bounds(outlines).reshape(-1, 4),
        truncated=truncated,
        measures=measures,
        embedding=_embedding(table),
        nuclei_od=usual_od,
        n_nuclei=n_nuclei,
    )


def _embedding(table: pa.Table) -> FloatArray | None:
    if "embedding" not in table.column_names or table.column("embedding").null_count == len(table):
        return None
    column = table.column("embedding").combine_chunks()
    found = np.full((len(table), column.type.list_size), np.nan)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    found[there] = column.drop_null().flatten().to_numpy().reshape(-1, column.type.list_size)
    return found


def _numbers(table: pa.Table, name: str) -> FloatArray:
    return np.asarray(table.column(name).cast(pa.float64()).to_numpy(), np.float64)
