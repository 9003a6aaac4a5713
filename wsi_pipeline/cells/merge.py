"""Blocks merged into one order that no cut can change.

Rows are ordered by the fixed lattice cell of ``ORDER_CELL_PX`` working pixels, then by seed (y, x). The merge streams
band by band.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.ahead import ahead
from wsi_pipeline.cells.features import FEATURES
from wsi_pipeline.cells.megakaryocytes import Swallowed
from wsi_pipeline.cells.schema import (
    KIND_CLASS,
    MEASURED,
    REPEATED,
    ROW_GROUP,
    TOO_LARGE,
    TOO_LARGE_SEEDS,
    embedding_field,
)
from wsi_pipeline.segmentation.dye import NO_RED_CELLS, RedDye, red_dye, white_in_name_only
from wsi_pipeline.tiling import ORDER_CELL_PX, Block

_MERGED_FILE: dict[str, Any] = {"compression": "lz4", "use_dictionary": REPEATED}
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
    return strings(band.column("kind")), band.column("class_probability").to_numpy(), colour


def strings(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Return strings of few values; each value becomes one Python string."""
    coded = column.combine_chunks().dictionary_encode()
    return np.asarray(coded.dictionary.to_pylist(), object)[coded.indices.to_numpy()]


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
        names = strings(columns["class_name"])
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
