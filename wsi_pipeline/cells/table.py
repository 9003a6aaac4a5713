"""The cell table of a slide: the merged cells with the answers of the classifier, written band by band."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.ahead import ahead
from wsi_pipeline.cells.merge import strings
from wsi_pipeline.cells.schema import CELLS_FILE, EMBEDDING, ROW_GROUP, fixed_list, table_schema
from wsi_pipeline.taxonomies.attributes import COLUMN

Naming = Callable[[pa.Table], pa.Table]
"""Gives the red cells of a band their class (:class:`~wsi_pipeline.cells.red_cells.RedCellPass`)."""


class Adding(Protocol):
    """Adds columns to typed bands (:class:`~wsi_pipeline.cells.dysplasia.DysplasiaPass`)."""

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        """The columns."""

    def __call__(self, band: pa.Table) -> pa.Table:
        """Return a band with them."""


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def write_classes(
    path: Path,
    classes: Sequence[str],
    probabilities: npt.NDArray[np.float32],
    embedding: npt.NDArray[np.float16] | None,
    evidence: Mapping[str, npt.NDArray[np.float32]] = MappingProxyType({}),
    attributes: Mapping[str, npt.NDArray[np.float32]] = MappingProxyType({}),
) -> None:
    """Write the classifier's answers to one chunk: classes, evidence, attributes, and the embedding if asked for."""
    columns = {name: pa.array(probabilities[:, i]) for i, name in enumerate(classes)}
    columns |= {name: pa.array(values) for name, values in evidence.items()}
    columns |= {f"{COLUMN}{name}": pa.array(values) for name, values in attributes.items()}
    if embedding is not None:
        columns["embedding"] = fixed_list(embedding)
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


class _ClassStream:
    """The answers of all chunks as one sequence."""

    def __init__(self, chunks: Sequence[Path]) -> None:
        self._paths = list(chunks)
        self._table: pa.Table | None = None

    def take(self, n: int) -> pa.Table:
        pieces = []
        while n > 0:
            if self._table is None or len(self._table) == 0:
                self._table = pq.read_table(self._paths.pop(0))
            piece = self._table.slice(0, n)
            self._table = self._table.slice(len(piece))
            pieces.append(piece)
            n -= len(piece)
        return pa.concat_tables(pieces)


@dataclass(frozen=True, kw_only=True)
class TableSummary:
    """Counts and means of a finished table.

    Attributes
    ----------
    kinds, classes
        Cells by kind and by class.
    answered
        Of the cells the classifier saw, those by its answer; empty without a classifier. Fewer than ``classes`` of
        the same name where the segmentation names a kind alike (platelets).
    truncated
        Cells cut by an edge or too large.
    mean_cell_probability, mean_flow_error
        Over all cells; None without cells.
    """

    kinds: dict[str, int]
    classes: dict[str, int]
    answered: dict[str, int]
    truncated: int
    mean_cell_probability: float | None
    mean_flow_error: float | None


def write_cells(
    table: Path,
    chunks: Sequence[Path],
    out: Path,
    *,
    classes: Sequence[str],
    embedding_dim: int | None,
    evidence: Sequence[str] = (),
    attributes: Sequence[str] = (),
    name_red: Naming | None = None,
    add: Adding | None = None,
) -> TableSummary:
    """Write ``cells.parquet`` from the merged table and the classifier's chunks, and count.

    Parameters
    ----------
    table
        As :func:`merge_blocks` wrote it.
    chunks
        As :func:`write_classes` wrote them, in order; empty when there is no classifier.
    classes
        Names of the classifier's classes; empty without a classifier.
    embedding_dim
        Length of the embedding when it is to be written.
    evidence
        Columns of evidence that the chunks have.
    attributes
        Codes of the attributes the classifier answers.
    name_red
        Names the red cells of each band.
    add
        Adds columns to each band.
    """
    schema = table_schema(classes, embedding_dim, evidence, attributes)
    stream = _ClassStream(chunks)
    source = pq.ParquetFile(table)
    groups = (source.read_row_group(i) for i in range(source.num_row_groups))
    typed = (_typed(group, stream, classes, embedding_dim, evidence, attributes, schema) for group in groups)
    return write_typed(named(typed, name_red), out, schema, answered=bool(classes), add=add)


def typed_white(
    table: Path, chunks: Sequence[Path], *, classes: Sequence[str], columns: Sequence[str]
) -> Iterator[pa.Table]:
    """Yield some columns of the white cells of a merged table, with the classifier's answer as ``class_name``.

    Parameters
    ----------
    table, chunks, classes
        As for :func:`write_cells`.
    columns
        Of the merged table, ``class_name`` not among them.
    """
    stream, names = _ClassStream(chunks), np.asarray(classes, object)
    with pq.ParquetFile(table) as source:
        for group in range(source.num_row_groups):
            band = source.read_row_group(group, columns=["kind", *columns])
            white = band.filter(pa.compute.equal(band.column("kind"), "white"))
            if len(white):
                answers = stream.take(len(white))
                best = np.stack([answers.column(c).to_numpy() for c in classes], axis=1).argmax(axis=1)
                yield white.append_column("class_name", pa.array(names[best], pa.string()))


def named(bands: Iterator[pa.Table], name_red: Naming | None) -> Iterator[pa.Table]:
    """Yield bands with their red cells named, or as they are."""
    return bands if name_red is None else (name_red(band) for band in bands)


def write_typed(
    bands: Iterator[pa.Table], out: Path, schema: pa.Schema, *, answered: bool, add: Adding | None = None
) -> TableSummary:
    """Write typed rows as ``cells.parquet``, and count.

    Parameters
    ----------
    bands
        In table order; each starts a row group.
    answered
        Whether a classifier has seen the white cells.
    add
        Adds columns after those of the schema.
    """
    if add is not None:
        schema = pa.schema([*schema, *add.fields], metadata=schema.metadata)
        bands = map(add, bands)
    kinds: Counter[str] = Counter()
    named: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    truncated, probability, error = 0, 0.0, 0.0
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, schema, **CELLS_FILE) as writer:
        for band in ahead(bands):
            writer.write_table(band, row_group_size=ROW_GROUP)
            kinds.update(_count(band.column("kind")))
            named.update(_count(band.column("class_name")))
            if answered:
                seen.update(_count(band.filter(pa.compute.equal(band.column("kind"), "white")).column("class_name")))
            truncated += int(np.count_nonzero(band.column("truncated").to_numpy()))
            probability += float(np.sum(band.column("cell_probability").to_numpy(), dtype=np.float64))
            error += float(np.sum(band.column("flow_error").to_numpy(), dtype=np.float64))
    n = sum(kinds.values())
    return TableSummary(
        kinds=dict(sorted(kinds.items())),
        classes=dict(sorted(named.items())),
        answered=dict(sorted(seen.items())),
        truncated=truncated,
        mean_cell_probability=probability / n if n else None,
        mean_flow_error=error / n if n else None,
    )


def _typed(
    band: pa.Table,
    stream: _ClassStream,
    classes: Sequence[str],
    embedding_dim: int | None,
    evidence: Sequence[str],
    attributes: Sequence[str],
    schema: pa.Schema,
) -> pa.Table:
    """Add class columns to a band: the classifier's for white cells, null for the rest."""
    columns = {name: band.column(name) for name in band.column_names}
    if classes:
        n = len(band)
        white = np.flatnonzero(pa.compute.equal(band.column("kind"), "white").to_numpy())
        probabilities = np.full((n, len(classes)), np.nan, np.float32)
        answers = stream.take(len(white)) if len(white) else None
        if answers is not None:
            probabilities[white] = np.stack([answers.column(c).to_numpy() for c in classes], axis=1)
            best = probabilities[white].argmax(axis=1)
            names = strings(band.column("class_name"))
            support = band.column("class_probability").to_numpy().copy()
            names[white] = np.asarray(classes, object)[best]
            support[white] = probabilities[white].max(axis=1)
            columns["class_name"] = pa.array(names, pa.string())
            columns["class_probability"] = pa.array(support, pa.float32())
        absent = np.ones(n, bool)
        absent[white] = False
        for i, name in enumerate(classes):
            columns[f"p_{name}"] = pa.array(probabilities[:, i], mask=absent)
        for name in evidence:
            values = np.full(n, np.nan, np.float32)
            if answers is not None:
                values[white] = answers.column(name).to_numpy()
            columns[name] = pa.array(values, mask=absent)
        for name in attributes:
            values = np.full(n, np.nan, np.float32)
            if answers is not None:
                values[white] = answers.column(f"{COLUMN}{name}").to_numpy()
            columns[f"{COLUMN}{name}"] = pa.array(values, mask=np.isnan(values))
        if embedding_dim is not None and EMBEDDING not in columns:
            taken = np.full(n, -1)
            taken[white] = np.arange(len(white))
            index = pa.array(taken, mask=absent)
            empty = pa.nulls(n, pa.list_(pa.float16(), embedding_dim))
            columns["embedding"] = (
                answers.column("embedding").combine_chunks().take(index) if answers is not None else empty
            )
    return pa.table([columns[field.name] for field in schema], schema=schema)
