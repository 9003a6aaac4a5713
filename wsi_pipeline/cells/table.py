"""The cell table of a slide: blocks merged into one order that no cut can change, then typed.

Rows are ordered by the fixed lattice cell of ``ORDER_CELL_PX`` working pixels, then by seed (y, x). The merge and
the final write stream band by band.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.ahead import ahead
from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cells.megakaryocytes import Swallowed
from wsi_pipeline.cells.schema import (
    EMBEDDING,
    KIND_CLASS,
    MEASURED,
    TOO_LARGE,
    TOO_LARGE_SEEDS,
    embedding_field,
    fixed_list,
    table_schema,
)
from wsi_pipeline.segmentation.dye import NO_RED_CELLS, RedDye, red_dye, white_in_name_only
from wsi_pipeline.taxonomies.attributes import COLUMN
from wsi_pipeline.tiling import ORDER_CELL_PX, Block

ROW_GROUP = 16384
"""Most rows of a row group, which readers hold in memory."""

# Values of the other columns are a cell's own: a dictionary of them is thrown away after it was built.
_REPEATED = ["kind", "class_name", "block"]
CELLS_FILE: dict[str, Any] = {"compression": "zstd", "use_dictionary": _REPEATED}
"""How tables of cells are written."""
_MERGED_FILE: dict[str, Any] = {"compression": "lz4", "use_dictionary": _REPEATED}
"""The merged table is written to be read once: fast, not small."""

TARGETS = pa.schema([("x_px0", pa.float64()), ("y_px0", pa.float64())])
"""Cells to classify: centre of the cell, level-0 pixels; one row group a chunk."""


@dataclass(frozen=True, kw_only=True)
class MergedTable:
    """What a merge found.

    Attributes
    ----------
    n_cells, n_targets
        Rows in the table, and cells to classify.
    n_chunks
        Row groups of the targets file.
    n_too_large
        Cells that reach ``segmentation.max_cell_diameter_um``, so part of them may be missing.
    """

    n_cells: int
    n_targets: int
    n_chunks: int
    n_too_large: int = 0


Keep = Callable[[npt.NDArray[np.int32], npt.NDArray[np.int32]], npt.NDArray[np.bool_]]
"""Says of seeds (x, y; working pixels) whether their cells are wanted."""
Naming = Callable[[pa.Table], pa.Table]
"""Gives the red cells of a band their class (:class:`~wsi_pipeline.cells.red_cells.RedCellPass`)."""


class Adding(Protocol):
    """Adds columns to typed bands (:class:`~wsi_pipeline.cells.dysplasia.DysplasiaPass`)."""

    @property
    def fields(self) -> tuple[pa.Field, ...]:
        """The columns."""

    def __call__(self, band: pa.Table) -> pa.Table:
        """Return a band with them."""


def _bands(
    parts: Sequence[tuple[Block, Path]], columns: Sequence[str] = MEASURED.names, keep: Keep | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of each lattice row, ordered; parts come in raster order of their blocks."""
    waiting = list(parts)
    held: list[tuple[Block, pa.Table]] = []
    band = 0
    while waiting or held:
        if not held and waiting:
            band = max(band, waiting[0][0].core.y0 // ORDER_CELL_PX)
        low, high = band * ORDER_CELL_PX, (band + 1) * ORDER_CELL_PX
        while waiting and waiting[0][0].core.y0 < high:
            block, path = waiting.pop(0)
            part = _read_part(path, columns)
            held.append((block, part if keep is None else kept_rows(part, keep)))
        rows = []
        for _, table in held:
            y = table.column("seed_y").to_numpy()
            inside = np.flatnonzero((y >= low) & (y < high))
            if inside.size:
                first, n = int(inside[0]), len(inside)
                together = int(inside[-1]) - first + 1 == n  # as stages write them; a slice copies nothing
                rows.append(table.slice(first, n) if together else table.take(inside))
        if rows:
            merged = pa.concat_tables(rows)
            y, x = merged.column("seed_y").to_numpy(), merged.column("seed_x").to_numpy()
            yield merged.take(np.lexsort((x, y, x // ORDER_CELL_PX)))
        held = [(block, table) for block, table in held if block.core.y1 > high]
        band += 1


def _read_part(path: Path, columns: Sequence[str]) -> pa.Table:
    # read_table would look for a data set of many files first, which takes as long as reading a few columns.
    with pq.ParquetFile(path, pre_buffer=False) as part:
        return part.read(columns=list(columns))


def kept_rows(table: pa.Table, keep: Keep) -> pa.Table:
    """Return the wanted rows of a table."""
    return table.filter(pa.array(keep(table.column("seed_x").to_numpy(), table.column("seed_y").to_numpy())))


_DYE = ("kind", "class_probability", "mean_red", "mean_green", "mean_blue", "area_um2", "seed_y", "seed_x")


def dye_of(parts: Sequence[tuple[Block, Path]], background: npt.NDArray[np.uint8], keep: Keep | None = None) -> RedDye:
    """Return the dye of the slide's red cells; sums run in the order of the table, so no cut can change them."""
    dye = NO_RED_CELLS
    for band in _bands(parts, _DYE, keep):
        dye = dye + red_dye(*_votes(band), band.column("area_um2").to_numpy(), background)
    return dye


def _votes(band: pa.Table) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return kind, support and mean colour of the cells of a band."""
    colour = np.stack([band.column(f"mean_{name}").to_numpy() for name in ("red", "green", "blue")], axis=1)
    return _strings(band.column("kind")), band.column("class_probability").to_numpy(), colour


def _strings(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return strings of few values; each value becomes one Python string."""
    coded = column.combine_chunks().dictionary_encode()
    return np.asarray(coded.dictionary.to_pylist(), object)[coded.indices.to_numpy()]


def _count(column: pa.ChunkedArray) -> dict[str, int]:
    counts = column.value_counts()
    return dict(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True))


def _settled(band: pa.Table, background: npt.NDArray[np.uint8], dye: RedDye) -> pa.Table:
    """Return a band whose white cells that are red cells by their dye are called so, and measured as such."""
    kind, support, colour = _votes(band)
    red = white_in_name_only(kind, support, colour, background, dye)
    white = (kind == "white") & ~red
    columns = {name: band.column(name) for name in band.column_names}

    def clear(where: npt.NDArray[np.bool_], names: Iterable[str]) -> None:
        for name in names if where.any() else ():
            none = pa.scalar(None, MEASURED.field(name).type)
            columns[name] = pa.compute.if_else(pa.array(where), none, columns[name])

    clear(white, _only_of("red", "white"))
    if red.any():
        names = _strings(columns["class_name"])
        columns["kind"] = pa.array(np.where(red, "red", kind), pa.string())
        columns["class_name"] = pa.array(np.where(red, KIND_CLASS["red"], names), pa.string())
        # What the votes left for anything but a white cell.
        columns["class_probability"] = pa.array(np.where(red, 1 - support, support), pa.float32())
        clear(red, (*_only_of("white", "red"), "nucleus"))
    return pa.table(columns, schema=band.schema.with_metadata(None))


def _only_of(kind: str, other: str) -> tuple[str, ...]:
    """Return the features that cells of a kind have and those of another have not."""
    return tuple(f.name for f in FEATURES if f.applies_to(kind) and not f.applies_to(other))


def merge_blocks(
    parts: Sequence[tuple[Block, Path]],
    table: Path,
    targets: Path,
    *,
    chunk_cells: int,
    background: npt.NDArray[np.uint8],
    keep: Keep | None = None,
    dye: RedDye | None = None,
    embedding_dim: int | None = None,
    swallowed: Swallowed | None = None,
) -> MergedTable:
    """Merge the parts of all blocks into one ordered table and list the white cells to classify.

    What only the whole slide can tell is settled here: white cells that carry the dye of its red cells alone become
    red (:mod:`wsi_pipeline.segmentation.dye`).

    Parameters
    ----------
    parts
        Blocks in raster order and their parquet parts (schema ``MEASURED``).
    table, targets
        Files to write.
    chunk_cells
        Cells in a chunk of ``targets``.
    background
        ``(3,)`` colour of empty glass on the slide.
    keep
        Which cells go into the table; all when None.
    dye
        Of the slide's red cells; that of the cells kept when None.
    embedding_dim
        Length of the embeddings that the parts have.
    swallowed
        Takes out the nuclei that lie in megakaryocytes.
    """
    schema = MEASURED if embedding_dim is None else MEASURED.append(embedding_field(embedding_dim))
    dye = dye_of(parts, background, keep) if dye is None else dye
    n_cells = n_targets = n_chunks = 0
    pending = np.empty((0, 2))
    with (
        atomic_path(table) as table_tmp,
        atomic_path(targets) as targets_tmp,
        pq.ParquetWriter(table_tmp, schema, **_MERGED_FILE) as rows_out,
        pq.ParquetWriter(targets_tmp, TARGETS, compression="zstd") as targets_out,
    ):

        def flush(centres: npt.NDArray[np.float64]) -> None:
            columns = [pa.array(centres[:, 0]), pa.array(centres[:, 1])]
            targets_out.write_table(pa.Table.from_arrays(columns, schema=TARGETS))

        bands = _bands(parts, schema.names, keep)
        if swallowed is not None:
            bands = map(swallowed, bands)
        for band in ahead(_settled(measured, background, dye) for measured in bands):
            rows_out.write_table(band, row_group_size=ROW_GROUP)
            n_cells += len(band)
            white = band.filter(pa.compute.equal(band.column("kind"), "white"))
            centres = np.stack([white.column(c).to_numpy() for c in ("x_px0", "y_px0")], axis=1)
            n_targets += len(centres)
            pending = np.concatenate([pending, centres])
            while len(pending) >= chunk_cells:
                flush(pending[:chunk_cells])
                pending = pending[chunk_cells:]
                n_chunks += 1
        if len(pending):
            flush(pending)
            n_chunks += 1
    n_large = sum(n_too_large(path, keep) for _, path in parts)
    return MergedTable(n_cells=n_cells, n_targets=n_targets, n_chunks=n_chunks, n_too_large=n_large)


def n_too_large(part: Path, keep: Keep | None) -> int:
    """Return how many of a block's cells reach the largest diameter, of those wanted."""
    found = pq.read_schema(part).metadata or {}
    if keep is None:
        return int(found.get(TOO_LARGE, 0))
    seeds = np.array(json.loads(found.get(TOO_LARGE_SEEDS, b"[]")), np.int32).reshape(-1, 2)
    return int(np.count_nonzero(keep(seeds[:, 0], seeds[:, 1])))


def read_targets(path: Path, chunk: int) -> npt.NDArray[np.float64]:
    """Return ``(n, 2)`` centres of a chunk, level-0 pixels."""
    table = pq.ParquetFile(path).read_row_group(chunk)
    return np.stack([table.column(c).to_numpy() for c in ("x_px0", "y_px0")], axis=1)


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
            names = _strings(band.column("class_name"))
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
