"""Megakaryocytes beside nuclei in one table: joined in each block, their own nuclei taken out when blocks are merged.

A lobe that the nuclei's network found inside a megakaryocyte is no cell. Which nuclei those are is settled when all
blocks are there, from outlines that do not depend on the cut, so no cut can change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.cells.schema import TOO_LARGE, TOO_LARGE_SEEDS

_MOST = 0.5


def join(nuclei: pa.Table, megakaryocytes: pa.Table) -> pa.Table:
    """Return the rows of a block's nuclei and of its megakaryocytes as one table of the latter's schema.

    Parameters
    ----------
    nuclei
        Schema ``MEASURED``.
    megakaryocytes
        The same, with an embedding where one was asked for.
    """
    columns = {name: nuclei.column(name) for name in nuclei.column_names}
    for field in megakaryocytes.schema:
        if field.name not in columns:
            columns[field.name] = pa.nulls(len(nuclei), field.type)
    plain = megakaryocytes.schema.with_metadata(None)
    parts = [pa.table(columns, schema=plain), megakaryocytes.replace_schema_metadata(None)]
    return pa.concat_tables(parts).replace_schema_metadata(_together(nuclei, megakaryocytes))


def _together(*tables: pa.Table) -> dict[bytes, bytes]:
    """Return the metadata on cells that are too large, of two tables."""
    found = [table.schema.metadata or {} for table in tables]
    n = sum(int(metadata.get(TOO_LARGE, 0)) for metadata in found)
    seeds = [metadata.get(TOO_LARGE_SEEDS, b"[]")[1:-1] for metadata in found]
    return {TOO_LARGE: str(n).encode(), TOO_LARGE_SEEDS: b"[" + b", ".join(s for s in seeds if s) + b"]"}


class Swallowed:
    """Takes the nuclei of megakaryocytes out of bands of a table.

    A nucleus goes when its middle lies in a megakaryocyte, or more than half of its area does.

    Parameters
    ----------
    parts
        The parquet parts of all blocks.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        found: list[bytes] = []
        for path in parts:
            part = pq.read_table(path, columns=["kind", "geometry"], filters=pc.field("kind") == "megakaryocyte")
            found += part.column("geometry").to_pylist()
        self._cells = shapely.from_wkb(np.array(found, object))
        shapely.prepare(self._cells)
        self._tree = shapely.STRtree(self._cells)

    def __call__(self, band: pa.Table) -> pa.Table:
        """Return a band without the nuclei that lie in a megakaryocyte."""
        inside = self._inside(band)
        return band.filter(pa.array(~inside)) if inside.any() else band

    def _inside(self, band: pa.Table) -> npt.NDArray[np.bool_]:
        inside = np.zeros(len(band), bool)
        rows = np.flatnonzero(pc.equal(band.column("kind"), "nucleus").to_numpy(zero_copy_only=False))
        if not len(self._cells) or not len(rows):
            return inside
        of, _ = self._tree.query(self._boxes(band, rows))
        rows = rows[np.unique(of)]
        nuclei = shapely.from_wkb(band.column("geometry").take(pa.array(rows)).to_numpy())
        middles = shapely.points(*(band.column(name).to_numpy()[rows] for name in ("x_px0", "y_px0")))
        of, cell = self._tree.query(nuclei, predicate="intersects")
        share = shapely.area(shapely.intersection(nuclei[of], self._cells[cell])) / shapely.area(nuclei[of])
        gone = (share > _MOST) | shapely.contains_properly(self._cells[cell], middles[of])
        inside[rows[of[gone]]] = True
        return inside

    @staticmethod
    def _boxes(band: pa.Table, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.object_]:
        """Return boxes that hold the nuclei for sure: an outline reaches no farther than half of its length."""
        x, y, x_um, y_um = (band.column(name).to_numpy()[rows] for name in ("x_px0", "y_px0", "x_um", "y_um"))
        # Both frames have one origin.
        px0_per_um = np.maximum(x / np.maximum(x_um, 1e-6), y / np.maximum(y_um, 1e-6))
        reach = 0.5 * band.column("perimeter_um").to_numpy()[rows] * px0_per_um + 1.0
        return np.asarray(shapely.box(x - reach, y - reach, x + reach, y + reach))
