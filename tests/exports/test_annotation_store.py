"""Annotation stores: what TIAToolbox reads in them, and its own writer beside ours."""

from __future__ import annotations

import functools
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from make_cells import make_cells

from wsi_pipeline.errors import DataError, OutputError
from wsi_pipeline.exports import annotation_store
from wsi_pipeline.exports.annotation_store import type_colours, type_names, types_in, write_annotations
from wsi_pipeline.taxonomies import load_taxonomy

TAXONOMIES = (load_taxonomy("pbc-blast"), load_taxonomy("red-cells"))


def _rows(store: Path, table: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(store)) as opened:
        return opened.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


@pytest.fixture(scope="module")
def store(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "annotations.db"
    assert write_annotations(cells, out, taxonomies=TAXONOMIES) == 600
    return out


def test_every_cell_is_an_annotation_with_its_outline(cells: Path, store: Path) -> None:
    table = pq.read_table(cells)
    rows = _rows(store, "annotations")
    assert [row[1] for row in rows] == table.column("cell_id").to_pylist()
    outlines = shapely.from_wkb(table.column("geometry").to_pylist())
    found = shapely.from_wkb([row[5] for row in rows])
    sound = shapely.is_valid(outlines)
    assert 0 < np.count_nonzero(~sound) < 60
    assert np.all(shapely.equals(found[sound], outlines[sound]))
    assert np.all(shapely.is_valid(found))
    assert np.all(shapely.get_type_id(found) == 3)


def test_properties_are_few_and_null_is_absent(cells: Path, store: Path) -> None:
    table = pq.read_table(cells).to_pylist()
    for row, properties in zip(table, (json.loads(str(r[6])) for r in _rows(store, "annotations")), strict=True):
        assert properties["kind"] == row["kind"]
        assert properties["truncated"] is row["truncated"]
        assert properties["area_um2"] == pytest.approx(row["area_um2"], abs=0.01)
        assert ("probability" in properties) == (row["class_probability"] is not None)
        assert ("nc_ratio" in properties) == (row["nc_ratio"] is not None)
    assert set(types_in(store)) >= {"red cell", "platelet", "segmented neutrophil"}


def test_tiatoolbox_writes_the_same_rows(
    cells: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiatoolbox.annotation.storage import Annotation, SQLiteStore

    from wsi_pipeline.exports.viewer import _sqlite_options

    monkeypatch.setattr(SQLiteStore, "compile_options", staticmethod(_sqlite_options))
    rows = _rows(store, "annotations")
    theirs = SQLiteStore(tmp_path / "theirs.db", compression=None)
    annotations = [Annotation(shapely.from_wkb(row[5]), json.loads(str(row[6]))) for row in rows]
    theirs.append_many(annotations, [str(row[1]) for row in rows])
    theirs.close()
    assert _rows(tmp_path / "theirs.db", "annotations") == rows
    assert _rows(tmp_path / "theirs.db", "rtree") == _rows(store, "rtree")
    assert _rows(tmp_path / "theirs.db", "metadata") == _rows(store, "metadata")
    ours = SQLiteStore(store)
    try:
        box = shapely.box(500, 500, 900, 900)
        near = ours.query(box, where='props["type"]=="red cell"')
        outlines = shapely.from_wkb([row[5] for row in rows])
        red = np.array([json.loads(str(row[6]))["type"] == "red cell" for row in rows])
        expected = {
            str(row[1]) for row, here in zip(rows, shapely.intersects(outlines, box) & red, strict=True) if here
        }
        assert set(near) == expected
        assert 0 < len(expected) < 600
    finally:
        ours.close()


def test_batches_do_not_show(cells: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_store, "iter_cells", functools.partial(annotation_store.iter_cells, batch_rows=41))
    told: list[tuple[int, int]] = []
    write_annotations(cells, tmp_path / "x.db", taxonomies=TAXONOMIES, progress=lambda *n: told.append(n))
    assert _rows(tmp_path / "x.db", "annotations") == _rows(store, "annotations")
    assert len(told) == 15
    assert told[-1] == (600, 600)


def test_cells_without_area_are_left_out_and_ids_have_no_gap(tmp_path: Path) -> None:
    table = pq.read_table(make_cells(tmp_path / "cells.parquet", 5, size_px0=(500, 500)))
    outlines = table.column("geometry").to_pylist()
    outlines[1], outlines[3] = None, shapely.Polygon([(0, 0), (5, 5), (0, 0)]).wkb
    table = table.set_column(table.column_names.index("geometry"), "geometry", pa.array(outlines, pa.binary()))
    pq.write_table(table, tmp_path / "cells.parquet")
    assert write_annotations(tmp_path / "cells.parquet", tmp_path / "x.db", taxonomies=TAXONOMIES) == 3
    assert [row[0] for row in _rows(tmp_path / "x.db", "annotations")] == [1, 2, 3]


def test_no_cells(tmp_path: Path) -> None:
    empty = make_cells(tmp_path / "cells.parquet", 0, size_px0=(10, 10))
    assert write_annotations(empty, tmp_path / "x.db", taxonomies=TAXONOMIES) == 0
    assert types_in(tmp_path / "x.db") == []


@given(st.text(max_size=40))
def test_types_are_safe_in_expressions_and_in_html(name: str) -> None:
    """The viewer evaluates ``props["type"]=="<type>"`` as Python and shows properties as HTML."""
    plain = annotation_store._plain(name)
    assert plain
    assert not set(plain) & set("\"'\\<>&;\n\r{}`$")
    assert eval(f'"{plain}"', {"__builtins__": {}}) == plain


def test_a_class_that_no_taxonomy_lists_keeps_its_code(tmp_path: Path) -> None:
    table = pq.read_table(make_cells(tmp_path / "cells.parquet", 2, size_px0=(500, 500)))
    names = pa.array(['x"] or __import__("os")', "<b>mine</b>"])
    pq.write_table(
        table.set_column(table.column_names.index("class_name"), "class_name", names), tmp_path / "c.parquet"
    )
    write_annotations(tmp_path / "c.parquet", tmp_path / "x.db", taxonomies=TAXONOMIES)
    assert types_in(tmp_path / "x.db") == ["b mine /b", "x or __import__( os )"]


def test_the_first_taxonomy_names_and_colours_a_class() -> None:
    names, colours = type_names(TAXONOMIES), type_colours(TAXONOMIES)
    for cell in TAXONOMIES[0].classes:
        assert names[cell.code] in colours
    assert colours[names["eosinophil"]] == TAXONOMIES[0].get("eosinophil").color
    assert set(names) >= {cell.code for cell in TAXONOMIES[1].classes}


def test_an_older_store_stays_when_writing_fails(store: Path, tmp_path: Path) -> None:
    before = store.read_bytes()
    pq.write_table(pa.table({"cell_id": ["a"], "class_name": ["b"], "geometry": [b"xx"]}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="not WKB"):
        write_annotations(tmp_path / "bad.parquet", store, taxonomies=TAXONOMIES)
    assert store.read_bytes() == before
    assert not list(store.parent.glob(".*"))


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"no database at all, but long enough to be read as one" * 40)
    with pytest.raises(OutputError, match="not a readable annotation store"):
        types_in(tmp_path / "x.db")
