"""Read ``cells.parquet`` batch by batch, so that memory does not grow with the number of cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.errors import DataError

BATCH_ROWS = 8192
"""Cells held at once."""

ObjectArray = npt.NDArray[np.object_]


def open_cells(path: Path, required: Sequence[str]) -> pq.ParquetFile:
    """Open a cell table and check that it has the columns an export needs.

    Raises
    ------
    DataError
        The file is missing, is not Parquet, or lacks a column.
    """
    try:
        # Arrow's read-ahead keeps what was read until the file is closed: memory would grow with the table.
        table = pq.ParquetFile(path, pre_buffer=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; run the slide again to make its cell table") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file ({error}); run the slide again") from None
    missing = [name for name in required if name not in table.schema_arrow.names]
    if missing:
        table.close()
        raise DataError(
            f"{path} has no column {', '.join(missing)}; found {', '.join(table.schema_arrow.names)}. "
            "It was not written by this version; run the slide again"
        )
    return table


def iter_cells(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, batch_rows: int = BATCH_ROWS
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield ``(number of the first row, batch)`` in table order with the columns asked for.

    Columns of ``optional`` are absent from the batches of a table that does not have them.
    """
    with open_cells(path, required) as table:
        names = table.schema_arrow.names
        columns = [*required, *(name for name in optional if name in names and name not in required)]
        first = 0
        try:
            for batch in table.iter_batches(batch_size=batch_rows, columns=columns):
                yield first, batch
                first += batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is damaged after row {first} ({error}); run the slide again") from None


def floats(batch: pa.RecordBatch, name: str) -> npt.NDArray[np.float64]:
    """Return a numeric column as float64 with NaN for nulls; all NaN when the table lacks it."""
    if name not in batch.schema.names:
        return np.full(batch.num_rows, np.nan)
    return np.asarray(batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)


def strings(batch: pa.RecordBatch, name: str) -> list[str]:
    """Return a text column, with an empty string for nulls; all empty when the table lacks it."""
    if name not in batch.schema.names:
        return [""] * batch.num_rows
    return [value or "" for value in batch.column(name).to_pylist()]


def geometries(column: pa.Array, path: Path, first_row: int) -> ObjectArray:
    """Decode a WKB column to shapely geometries; nulls stay None.

    Raises
    ------
    DataError
        A value is not WKB; the message names the rows of the batch.
    """
    wkb = column.to_numpy(zero_copy_only=False)
    try:
        return np.asarray(shapely.from_wkb(wkb), dtype=object)
    except (shapely.errors.ShapelyError, TypeError) as error:
        raise DataError(
            f"{path}: an outline in rows {first_row} to {first_row + len(wkb) - 1} is not WKB ({error}); "
            "run the slide again"
        ) from None


def polygonal(geometry: shapely.Geometry | None) -> shapely.Polygon | None:
    """Return the largest polygon inside a geometry, valid, or None when it holds no area.

    Self-crossing rings are taken apart by GEOS ``MakeValid`` (structure method, so overlapping lobes stay
    filled; where that leaves nothing of a ring that runs back along itself, the linework method); of equal parts the
    first is kept.
    """
    if geometry is None or geometry.is_empty:
        return None
    if geometry.is_valid:
        parts = _areas(geometry)
    else:
        parts = _areas(shapely.make_valid(geometry, method="structure", keep_collapsed=False))
        parts = parts or _areas(shapely.make_valid(geometry))
    return max(parts, key=lambda part: part.area) if parts else None


def _areas(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    """Return the polygons that a geometry, or a collection of polygons and multipolygons, is made of."""
    pieces = shapely.get_parts(shapely.get_parts(geometry))
    return [piece for piece in pieces if piece.geom_type == "Polygon" and piece.area > 0]
