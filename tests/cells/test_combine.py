"""Tables that hold different cells of a slide, put together: the same as one table made at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_table import cut, make_cells

from wsi_pipeline.cells.combine import combine_cells
from wsi_pipeline.cells.merge import dye_of, merge_blocks, n_too_large
from wsi_pipeline.cells.schema import MEASURED, TOO_LARGE, TOO_LARGE_SEEDS
from wsi_pipeline.cells.table import write_cells

GLASS = np.array([235, 236, 234], np.uint8)


def column_of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which of three groups of diagonal stripes a seed lies in."""
    return (x + y) // 170 % 3


@pytest.mark.parametrize("core_px", [700, 3000])
def test_groups_of_cells_combine_to_the_table_of_all(tmp_path: Path, core_px: int) -> None:
    parts = cut(make_cells(3, 4000), core_px, tmp_path / "parts")
    dye = dye_of(parts, GLASS, lambda x, y: column_of(x, y) == 0)
    assert 0 < dye.n_cells < dye_of(parts, GLASS).n_cells

    def table(name: str, keep: object) -> Path:
        files = tmp_path / f"{name}.parquet", tmp_path / f"{name}-targets.parquet"
        merge_blocks(parts, *files, chunk_cells=100, background=GLASS, keep=keep, dye=dye)  # type: ignore[arg-type]
        write_cells(files[0], [], out := tmp_path / f"{name}-typed.parquet", classes=(), embedding_dim=None)
        return out

    groups = [table(str(i), lambda x, y, i=i: column_of(x, y) == i) for i in range(3)]
    expected = pq.read_table(table("all", None))
    summary = combine_cells(
        groups, tmp_path / "out", keep=lambda x, y: np.full(len(x), True), classes=(), embedding_dim=None
    )
    assert pq.read_table(tmp_path / "out").equals(expected)
    assert sum(summary.kinds.values()) == 4000
    combine_cells(groups[:2], tmp_path / "out", keep=lambda x, y: x < 1800, classes=(), embedding_dim=None)
    x, y = (expected.column(f"seed_{axis}").to_numpy() for axis in "xy")
    assert pq.read_table(tmp_path / "out").equals(expected.filter((x < 1800) & (column_of(x, y) < 2)))


def test_no_tables_give_an_empty_one(tmp_path: Path) -> None:
    summary = combine_cells([], tmp_path / "out", keep=lambda x, y: x > 0, classes=("a",), embedding_dim=2)
    table = pq.read_table(tmp_path / "out")
    assert len(table) == 0
    assert {"p_a", "embedding"} <= set(table.column_names)
    assert summary.mean_cell_probability is None


def test_cells_too_large_are_counted_where_they_are_wanted(tmp_path: Path) -> None:
    metadata = {TOO_LARGE: "3", TOO_LARGE_SEEDS: "[[10, 1], [20, 2], [30, 3]]"}
    pq.write_table(MEASURED.empty_table().replace_schema_metadata(metadata), tmp_path / "part")
    assert n_too_large(tmp_path / "part", None) == 3
    assert n_too_large(tmp_path / "part", lambda x, y: (x > 10) & (y < 3)) == 1
    pq.write_table(MEASURED.empty_table(), tmp_path / "none")
    assert n_too_large(tmp_path / "none", lambda x, y: x > 0) == 0
