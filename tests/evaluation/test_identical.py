"""Two runs' artefacts compared: every bit counts but the block, and the first difference is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_pipeline.evaluation.identical import first_difference, matched_share

N = 9000
"""More rows than are compared at once."""

Columns = dict[str, Any]


def columns() -> Columns:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 5000, N), rng.uniform(0, 5000, N)
    p = rng.random(N).astype(np.float32)
    p[::3] = np.nan
    embedding = rng.normal(size=(N, 4)).astype(np.float16)
    return {
        "cell_id": [f"cell-{i}" for i in range(N)],
        "geometry": list(shapely.to_wkb(shapely.box(x, y, x + 20, y + 30))),
        "area_um2": np.full(N, 600, np.float32),
        "flow_error": p,
        "p_blast": [None if i % 2 else float(i) for i in range(N)],
        "block": ["0_0"] * N,
        "truncated": np.zeros(N, bool),
        "embedding": [None if i % 5 else list(row) for i, row in enumerate(embedding)],
    }


def write(folder: Path, values: Columns, row_group_size: int = 2500) -> Path:
    slide = folder / "slides" / "s"
    slide.mkdir(parents=True)
    fields = {"geometry": pa.binary(), "p_blast": pa.float32(), "embedding": pa.list_(pa.float16(), 4)}
    table = pa.table({name: pa.array(v, fields.get(name), from_pandas=False) for name, v in values.items()})
    pq.write_table(table, slide / "cells.parquet", row_group_size=row_group_size)
    for name in ("differential.csv", "differential_corrected.csv", "predictions.csv"):
        (folder / name).write_text("slide_id,class\ns,blast\n")
    (slide / "red_cells.csv").write_text("slide_id,class\ns,schistocyte\n")
    for name in ("regions.geojson", "qupath.geojson.gz"):
        (slide / name).write_bytes(b"{}")
    return folder


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write(tmp_path / "reference", columns())


def test_the_same_but_for_blocks_is_identical(reference: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", {**columns(), "block": ["1_7"] * N})
    assert first_difference(reference, other, "s") is None


def next_float(values: Columns) -> None:
    values["flow_error"][5002] = np.nextafter(values["flow_error"][5002], np.float32(2))


def minus_zero(values: Columns) -> None:
    values["p_blast"][0] = -0.0


def another_number_that_is_none(values: Columns) -> None:
    values["flow_error"].view(np.uint32)[3] += 1


def null(values: Columns) -> None:
    values["p_blast"][4242] = None


def embedding(values: Columns) -> None:
    values["embedding"][8990][3] += np.float16(0.5)


def text(values: Columns) -> None:
    values["cell_id"][17] = "another"


def flag(values: Columns) -> None:
    values["truncated"][8999] = True


@pytest.mark.parametrize(
    ("change", "column", "row"),
    [
        (next_float, "flow_error", 5002),
        (minus_zero, "p_blast", 0),
        (another_number_that_is_none, "flow_error", 3),
        (null, "p_blast", 4242),
        (embedding, "embedding", 8990),
        (text, "cell_id", 17),
        (flag, "truncated", 8999),
    ],
)
def test_the_first_differing_value_is_named(
    reference: Path, tmp_path: Path, change: Callable[[Columns], None], column: str, row: int
) -> None:
    values = columns()
    change(values)
    found = first_difference(reference, write(tmp_path / "other", values), "s")
    assert found is not None
    assert (found.file, found.column, found.row) == ("cells.parquet", column, row)
    assert str(found).startswith(f"cells.parquet: {column}, row {row} (")


def test_the_earliest_row_wins_over_the_earliest_column(reference: Path, tmp_path: Path) -> None:
    values = columns()
    text(values)
    minus_zero(values)
    found = first_difference(reference, write(tmp_path / "other", values), "s")
    assert found is not None
    assert (found.column, found.row) == ("p_blast", 0)


def test_fewer_rows_other_row_groups_and_other_columns(reference: Path, tmp_path: Path) -> None:
    shorter = write(tmp_path / "shorter", {name: v[: N - 1] for name, v in columns().items()})
    assert "9,000 rows against 8,999" in str(first_difference(reference, shorter, "s"))
    regrouped = write(tmp_path / "regrouped", columns(), row_group_size=3000)
    assert "row groups" in str(first_difference(reference, regrouped, "s"))
    values = columns()
    del values["embedding"]
    assert "columns" in str(first_difference(reference, write(tmp_path / "narrow", values), "s"))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("differential.csv", "differential.csv, line 2"),
        ("predictions.csv", "predictions.csv, line 2"),
        ("slides/s/red_cells.csv", "red_cells.csv, line 2"),
        ("slides/s/regions.geojson", "regions.geojson (bytes)"),
        ("slides/s/qupath.geojson.gz", "qupath.geojson.gz (bytes)"),
    ],
)
def test_the_first_differing_file_is_named(reference: Path, tmp_path: Path, name: str, said: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(reference, other)
    (other / name).write_text("slide_id,class\ns,other\n")
    assert str(first_difference(reference, other, "s")) == said
    (other / name).unlink()
    assert "missing" in str(first_difference(reference, other, "s"))


def test_matched_cells_are_those_of_nine_tenths_overlap(tmp_path: Path) -> None:
    x = np.arange(10) * 100.0

    def cells(shift: np.ndarray, n: int) -> Columns:
        values = {name: v[:n] for name, v in columns().items()}
        values["geometry"] = list(shapely.to_wkb(shapely.box(x[:n] + shift[:n], 0, x[:n] + shift[:n] + 40, 40)))
        return values

    a = write(tmp_path / "a", cells(np.zeros(10), 10))
    # A shift by 2 of 40 leaves an IoU of 0.905, one by 3 of 0.86.
    b = write(tmp_path / "b", cells(np.array([2.0] * 6 + [3.0] * 4), 8))
    assert matched_share(a, a, "s") == 1
    assert matched_share(a, b, "s") == pytest.approx(0.6)
    assert matched_share(b, a, "s") == pytest.approx(0.6)
    none = write(tmp_path / "none", cells(np.zeros(10), 0))
    assert matched_share(a, none, "s") == 0
    assert matched_share(none, none, "s") is None
