"""Probabilities of attributes on their way into ``cells.parquet``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.cells.schema import MEASURED, table_schema
from wsi_pipeline.cells.table import typed_white, write_cells, write_classes

P = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
TOLD = {"vacuoles": np.array([0.7, np.nan], np.float32)}


def merged(path: Path) -> Path:
    """Write a merged table of a red cell between two white ones."""
    columns = {}
    for field in MEASURED:
        if pa.types.is_string(field.type):
            columns[field.name] = pa.array(["x"] * 3)
        elif pa.types.is_binary(field.type):
            columns[field.name] = pa.array([b"x"] * 3)
        else:
            columns[field.name] = pa.array(np.zeros(3), pa.float64()).cast(field.type)
    columns["kind"] = pa.array(["white", "red", "white"])
    columns["class_name"] = pa.array(["white_cell", "red_cell", "white_cell"])
    pq.write_table(pa.table(columns, schema=MEASURED), path)
    return path


def test_attributes_stand_beside_the_classes_and_are_null_where_there_is_none(tmp_path: Path) -> None:
    table, chunk, out = merged(tmp_path / "table"), tmp_path / "chunk", tmp_path / "cells.parquet"
    write_classes(chunk, ("a", "b"), P, None, attributes=TOLD)
    write_cells(table, [chunk], out, classes=("a", "b"), embedding_dim=None, attributes=("vacuoles",))
    found = pq.read_table(out)
    assert found.schema.equals(table_schema(("a", "b"), None, attributes=("vacuoles",)))
    values = found.column("attr_vacuoles").to_pylist()
    assert values[1:] == [None, None]
    assert values[0] == np.float32(0.7)
    assert found.column("class_name").to_pylist() == ["a", "red_cell", "b"]
    (white,) = typed_white(table, [chunk], classes=("a", "b"), columns=["truncated", "area_um2"])
    assert white.column("class_name").to_pylist() == ["a", "b"]


def test_without_attributes_the_chunk_and_the_table_are_as_they_were(tmp_path: Path) -> None:
    write_classes(tmp_path / "plain", ("a", "b"), P, None)
    write_classes(tmp_path / "empty", ("a", "b"), P, None, attributes={})
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "empty").read_bytes()
    assert pq.read_schema(tmp_path / "plain").names == ["a", "b"]
    assert not [name for name in table_schema(("a",), 3).names if name.startswith("attr_")]
