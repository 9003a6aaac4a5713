"""Whether two runs of one slide wrote the same, and where they first differ.

*Identical* are runs whose ``cells.parquet`` agrees bit by bit in every column but ``block``, in row groups and
metadata, and whose ``differential.csv``, ``differential_corrected.csv``, ``predictions.csv``, ``red_cells.csv``,
``megakaryocytes.csv``, ``phenotypes.csv``, ``regions.geojson`` and ``qupath.geojson.gz`` agree byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.evaluation.polygons import Outlines, match_polygons

MATCHED_IOU = 0.9
"""Cells of two runs that are not identical are the same cell from this intersection over union on."""

TABLES = ("differential.csv", "differential_corrected.csv", "predictions.csv")
SLIDE_TABLES = ("red_cells.csv", "megakaryocytes.csv", "phenotypes.csv", "fibrosis.csv")
FILES = ("regions.geojson", "qupath.geojson.gz")

_BATCH = 4096
_LONGEST_VALUE = 40


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Where a run first differs from the reference.

    Attributes
    ----------
    file
        Name of the artefact.
    column, row
        Column of ``cells.parquet`` and row from 0, or line of a CSV file from 1; None for a whole file.
    detail
        What differs, in words.
    """

    file: str
    column: str | None = None
    row: int | None = None
    detail: str = ""

    def __str__(self) -> str:
        where = "" if self.row is None else f", row {self.row}" if self.column else f", line {self.row}"
        return f"{self.file}{'' if self.column is None else f': {self.column}'}{where}" + (
            f" ({self.detail})" if self.detail else ""
        )


def first_difference(reference: Path, other: Path, slide_id: str) -> Difference | None:
    """Return where two runs' artefacts of a slide first differ, or None when they are identical.

    Parameters
    ----------
    reference, other
        Folders of finished runs.
    """
    parts = Path("slides", slide_id)
    found = _table_difference(reference / parts / "cells.parquet", other / parts / "cells.parquet")
    for name in TABLES:
        found = found or _file_difference(reference / name, other / name, by_line=True)
    for name in SLIDE_TABLES:
        found = found or _file_difference(reference / parts / name, other / parts / name, by_line=True)
    for name in FILES:
        found = found or _file_difference(reference / parts / name, other / parts / name, by_line=False)
    return found


def matched_share(reference: Path, other: Path, slide_id: str) -> float | None:
    """Return the share of cells matched one to one at ``MATCHED_IOU``, of the run with more; None without cells."""
    a, b = (_outlines(folder / "slides" / slide_id / "cells.parquet") for folder in (reference, other))
    if not len(a) or not len(b):
        return 0.0 if len(a) or len(b) else None
    match = match_polygons(a, b, ignored=np.zeros(len(a), bool), cut=np.zeros(len(b), bool), threshold=MATCHED_IOU)
    return float(np.count_nonzero(match.partner >= 0)) / max(len(a), len(b))


def _outlines(path: Path) -> Outlines:
    return Outlines.measure(np.asarray(pq.read_table(path, columns=["geometry"]).column(0).to_pylist(), object))


def _file_difference(reference: Path, other: Path, *, by_line: bool) -> Difference | None:
    if reference.is_file() != other.is_file():
        return Difference(file=reference.name, detail="missing in one of the runs")
    if not reference.is_file():
        return None
    a, b = reference.read_bytes(), other.read_bytes()
    if a == b:
        return None
    if not by_line:
        return Difference(file=reference.name, detail="bytes")
    mine, theirs = a.splitlines(), b.splitlines()
    line = next((i for i, (x, y) in enumerate(zip(mine, theirs, strict=False)) if x != y), min(len(mine), len(theirs)))
    return Difference(file=reference.name, row=line + 1)


def _table_difference(reference: Path, other: Path) -> Difference | None:
    a, b = pq.ParquetFile(reference), pq.ParquetFile(other)
    if not a.schema_arrow.equals(b.schema_arrow, check_metadata=True):
        return Difference(file=reference.name, detail="columns or metadata")
    names = [name for name in a.schema_arrow.names if name != "block"]
    row = 0
    for mine, theirs in _side_by_side(a, b, names):
        unlike = {name: _unlike(mine.column(name), theirs.column(name)) for name in names}
        places = {name: int(np.argmax(where)) for name, where in unlike.items() if where.any()}
        if places:
            column = min(places, key=lambda name: places[name])
            place = places[column]
            pair = [table.column(column)[place].as_py() for table in (mine, theirs)]
            # Of outlines the place says more than their bytes do.
            detail = "" if any(isinstance(value, bytes) for value in pair) else " against ".join(map(_short, pair))
            return Difference(file=reference.name, column=column, row=row + place, detail=detail)
        row += mine.num_rows
    rows = a.metadata.num_rows, b.metadata.num_rows
    if rows[0] != rows[1]:
        return Difference(file=reference.name, detail=f"{rows[0]:,} rows against {rows[1]:,}")
    groups = [[p.metadata.row_group(i).num_rows for i in range(p.num_row_groups)] for p in (a, b)]
    return None if groups[0] == groups[1] else Difference(file=reference.name, detail="row groups")


def _side_by_side(
    a: pq.ParquetFile, b: pq.ParquetFile, columns: list[str]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Yield the same rows of two tables, as far as both go, whatever their row groups."""
    streams = [p.iter_batches(batch_size=_BATCH, columns=columns) for p in (a, b)]
    mine, theirs = (next(stream, None) for stream in streams)
    while mine is not None and theirs is not None:
        n = min(mine.num_rows, theirs.num_rows)
        if n:
            yield mine.slice(0, n), theirs.slice(0, n)
        mine = mine.slice(n) if mine.num_rows > n else next(streams[0], None)
        theirs = theirs.slice(n) if theirs.num_rows > n else next(streams[1], None)


def _unlike(a: pa.Array, b: pa.Array) -> npt.NDArray[np.bool_]:
    """Return which values of two columns of one type and length differ in any bit."""
    missing, also = a.is_null().to_numpy(zero_copy_only=False), b.is_null().to_numpy(zero_copy_only=False)
    unlike = np.asarray(missing != also)
    both = ~missing & ~also
    differing = _bits(a.filter(pa.array(both))) != _bits(b.filter(pa.array(both)))
    unlike[both] = differing.any(axis=1) if differing.ndim == 2 else differing
    return unlike


def _bits(column: pa.Array) -> npt.NDArray[Any]:
    """Return values that are equal where their bits are: ``(n,)``, or ``(n, k)`` of a column of lists."""
    if pa.types.is_fixed_size_list(column.type):
        return _bits(column.flatten()).reshape(len(column), column.type.list_size)
    values = column.to_numpy(zero_copy_only=False)
    return values.view(f"u{values.itemsize}") if values.dtype.kind == "f" else values


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
