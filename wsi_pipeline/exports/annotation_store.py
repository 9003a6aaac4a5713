"""Write cells as an annotation store that TIAToolbox opens and its viewer draws over the slide.

The store is the SQLite file of ``tiatoolbox.annotation.storage.SQLiteStore``, version 1.0.1: a table of geometries
with their properties as JSON, and an R-tree of their bounds. It is written here batch by batch with the standard
library, since TIAToolbox's own writer makes each annotation an object, compresses it and measures it alone, and does
not start where Python's SQLite cannot load extensions. A test compares what both write.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.errors import OutputError
from wsi_pipeline.exports._stream import floats, geometries, iter_cells, open_cells, polygonal, strings
from wsi_pipeline.taxonomies import Taxonomy

_log = logging.getLogger(__name__)

# Property, column, decimals.
_MEASUREMENTS = (
    ("probability", "class_probability", 4),
    ("area_um2", "area_um2", 2),
    ("circularity", "circularity", 3),
    ("nucleus_area_um2", "nucleus_area_um2", 2),
    ("nc_ratio", "nc_ratio", 3),
    ("out_of_distribution", "out_of_distribution", 3),
)

# The viewer puts types into expressions that Python evaluates, and properties into HTML.
_UNSAFE = re.compile(r"[^\w .,()+/%-]+")

# As TIAToolbox writes it in its queries, which use the index only then.
_TYPE = "json_extract(properties, '$.\"type\"')"

_METADATA = {"version": "1.0.1", "compression": None, "compression_level": 9}
_TABLES = (
    "CREATE TABLE metadata (key TEXT UNIQUE, value TEXT)",
    "CREATE VIRTUAL TABLE rtree USING rtree(id, min_x, max_x, min_y, max_y)",
    "CREATE TABLE annotations(id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT, cx FLOAT NOT NULL, "
    "cy FLOAT NOT NULL, geometry BLOB, properties TEXT, area FLOAT NOT NULL)",
)


def write_annotations(
    cells: Path,
    out: Path,
    *,
    taxonomies: Sequence[Taxonomy],
    progress: Callable[[int, int], None] = lambda _, __: None,
) -> int:
    """Write a cell table as an annotation store.

    The table is streamed, so memory does not grow with the number of cells.

    Parameters
    ----------
    cells
        ``cells.parquet``; outlines in level-0 pixels, the store's too.
    out
        The file to write, for example ``annotations.db``; replaced when complete.
    taxonomies
        Names of the classes, for the property ``type``; the first that lists a class names it.
    progress
        Called with the rows that are done, and how many there are.

    Returns
    -------
    int
        Annotations written. A cell whose outline has no area is left out, with a warning in the log.

    Raises
    ------
    DataError
        The table cannot be read or lacks a column.
    OutputError
        This Python's SQLite has no R-tree, or the file cannot be written.

    Notes
    -----
    An annotation's key is the ``cell_id``. Properties: ``type`` (name of the class), ``kind``, ``truncated``, and,
    where the table has them, ``probability``, ``area_um2``, ``circularity``, ``nucleus_area_um2``, ``nc_ratio``,
    ``out_of_distribution``. A ring that crosses itself is replaced by its largest valid part.
    """
    names = type_names(taxonomies)
    required = ("cell_id", "geometry", "class_name")
    optional = ("kind", "truncated", *(column for _, column, _ in _MEASUREMENTS))
    written = dropped = 0
    with open_cells(cells, required) as table:
        n_rows = table.metadata.num_rows
    with atomic_path(out) as temporary, closing(sqlite3.connect(temporary)) as store:
        try:
            # A killed process leaves a temporary file, so no journal is needed.
            store.execute("PRAGMA journal_mode = OFF")
            store.execute("PRAGMA synchronous = OFF")
            for statement in _TABLES:
                store.execute(statement)
            store.executemany(
                "INSERT INTO metadata VALUES (?, ?)", [(key, json.dumps(value)) for key, value in _METADATA.items()]
            )
            for first, batch in iter_cells(cells, required, optional):
                rows, bounds = _rows(batch, cells, first, names, written)
                store.executemany("INSERT INTO annotations VALUES (?, ?, 'Polygon', ?, ?, ?, ?, ?)", rows)
                store.executemany("INSERT INTO rtree VALUES (?, ?, ?, ?, ?)", bounds)
                written += len(rows)
                dropped += batch.num_rows - len(rows)
                progress(first + batch.num_rows, n_rows)
            store.execute(f"CREATE INDEX type ON annotations({_TYPE})")
            store.commit()
            store.execute("ANALYZE")
        except sqlite3.Error as error:
            raise OutputError(f"{out} cannot be written: SQLite says {error}") from None
    if dropped:
        _log.warning("%s: %d cells without area are not in %s", cells, dropped, out)
    return written


def type_names(taxonomies: Sequence[Taxonomy]) -> dict[str, str]:
    """Return the name of each class as an annotation's ``type``."""
    classes = [cell for taxonomy in reversed(taxonomies) for cell in taxonomy.classes]
    return {cell.code: _plain(cell.name_en) for cell in classes}


def type_colours(taxonomies: Sequence[Taxonomy]) -> dict[str, tuple[int, int, int]]:
    """Return the colour of each ``type``, red, green and blue from 0 to 255."""
    classes = [cell for taxonomy in reversed(taxonomies) for cell in taxonomy.classes]
    return {_plain(cell.name_en): cell.color for cell in classes}


def types_in(store: Path) -> list[str]:
    """Return the types that occur in a store, sorted.

    Raises
    ------
    OutputError
        The file is no annotation store.
    """
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as opened:
            found = opened.execute(f"SELECT DISTINCT {_TYPE} FROM annotations").fetchall()
    except sqlite3.Error as error:
        raise OutputError(f"{store} is not a readable annotation store: SQLite says {error}") from None
    return sorted(str(name) for (name,) in found)


def _plain(name: str) -> str:
    return " ".join(_UNSAFE.sub(" ", name).split()) or "unclassified"


def _rows(
    batch: pa.RecordBatch, path: Path, first: int, names: dict[str, str], written: int
) -> tuple[list[tuple[Any, ...]], list[tuple[float, ...]]]:
    """Return the rows of the table of annotations and those of the R-tree; ids go on from ``written``."""
    shapes = geometries(batch.column("geometry"), path, first)
    for i in np.flatnonzero(~(shapely.is_valid(shapes) & (shapely.get_type_id(shapes) == 3))):
        shapes[i] = polygonal(shapes[i])
    kept = np.flatnonzero(shapely.area(shapes) > 0)
    shapes = shapes[kept]
    ids = range(written + 1, written + 1 + len(kept))
    centres = shapely.centroid(shapes)
    properties = list(_properties(batch.take(pa.array(kept)), names))
    keys = np.asarray(strings(batch, "cell_id"), object)[kept].tolist()
    x, y = shapely.get_x(centres).tolist(), shapely.get_y(centres).tolist()
    areas = shapely.area(shapes).tolist()
    rows = list(zip(ids, keys, x, y, shapely.to_wkb(shapes).tolist(), properties, areas, strict=True))
    x0, y0, x1, y1 = shapely.bounds(shapes).T.tolist()
    return rows, list(zip(ids, x0, x1, y0, y1, strict=True))


def _properties(batch: pa.RecordBatch, names: dict[str, str]) -> Iterator[str]:
    """Yield the properties of each cell as JSON; what a cell does not have is absent."""
    measured = [
        (name, np.round(floats(batch, column), decimals).tolist())
        for name, column, decimals in _MEASUREMENTS
        if column in batch.schema.names
    ]
    truncated: Sequence[Any] = [False] * batch.num_rows
    if "truncated" in batch.schema.names:
        truncated = batch.column("truncated").to_pylist()
    codes, kinds = strings(batch, "class_name"), strings(batch, "kind")
    for row in range(batch.num_rows):
        code = codes[row]
        found: dict[str, Any] = {"type": names[code] if code in names else _plain(code)}
        if kinds[row]:
            found["kind"] = _plain(kinds[row])
        found["truncated"] = bool(truncated[row])
        for name, values in measured:
            if values[row] == values[row]:  # no NaN
                found[name] = values[row]
        yield json.dumps(found, separators=(",", ":"))
