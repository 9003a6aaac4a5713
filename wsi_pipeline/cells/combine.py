"""Put ordered tables that hold different cells of one slide together, in the one order of all tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.cells.merge import Keep, kept_rows
from wsi_pipeline.cells.schema import table_schema
from wsi_pipeline.cells.table import Adding, Naming, TableSummary, named, write_typed
from wsi_pipeline.tiling import ORDER_CELL_PX


def combine_cells(
    tables: Sequence[Path],
    out: Path,
    *,
    keep: Keep,
    classes: Sequence[str],
    embedding_dim: int | None,
    evidence: Sequence[str] = (),
    attributes: Sequence[str] = (),
    name_red: Naming | None = None,
    add: Adding | None = None,
) -> TableSummary:
    """Write ``cells.parquet`` from typed tables, and count.

    Parameters
    ----------
    tables
        As :func:`~wsi_pipeline.cells.table.write_cells` wrote them; no cell is in two.
    keep
        Which cells are taken.
    classes, embedding_dim, evidence, attributes, name_red, add
        As in :func:`~wsi_pipeline.cells.table.write_cells`.
    """
    schema = table_schema(classes, embedding_dim, evidence, attributes)
    return write_typed(named(_interleaved(tables, keep), name_red), out, schema, answered=bool(classes), add=add)


def _interleaved(tables: Sequence[Path], keep: Keep) -> Iterator[pa.Table]:
    """Yield the wanted rows of each lattice row, ordered; one row group of each table is held."""
    sources = [_Source(path) for path in tables]
    while waiting := [source.band for source in sources if source.band is not None]:
        band = min(waiting)
        rows = [group for source in sources for group in source.take(band)]
        merged = kept_rows(pa.concat_tables(rows), keep)
        if len(merged):
            y, x = merged.column("seed_y").to_numpy(), merged.column("seed_x").to_numpy()
            yield merged.take(np.lexsort((x, y, x // ORDER_CELL_PX)))


class _Source:
    """A table as its row groups, of which each lies in one lattice row."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._next = 0
        self._advance()

    def _advance(self) -> None:
        self._group = self._file.read_row_group(self._next) if self._next < self._file.num_row_groups else None
        self._next += 1

    @property
    def band(self) -> int | None:
        """Return the lattice row of the rows to come; None at the end."""
        return None if self._group is None else int(self._group.column("seed_y")[0].as_py()) // ORDER_CELL_PX

    def take(self, band: int) -> Iterator[pa.Table]:
        """Yield the row groups of a lattice row."""
        while self.band == band:
            yield self._group
            self._advance()
