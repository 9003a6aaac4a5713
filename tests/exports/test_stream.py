from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.exports._stream import iter_cells


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    """Arrow's read-ahead would keep every row group until the file is closed."""
    rows = pa.table({"geometry": [bytes([i % 251]) * 100_000 for i in range(400)]})
    pq.write_table(rows, tmp_path / "c.parquet", row_group_size=10, compression="none", use_dictionary=False)
    del rows
    before = pa.total_allocated_bytes()
    batches = iter_cells(tmp_path / "c.parquet", ("geometry",), batch_rows=10)
    held = [pa.total_allocated_bytes() - before for _ in batches]
    assert len(held) >= 40
    assert max(held) < 10_000_000, "the table holds 40 MB"


def test_rows_are_numbered_through(cells: Path) -> None:
    seen = 0
    for first, batch in iter_cells(cells, ("cell_id",), ("no_such_column",), batch_rows=70):
        assert first == seen
        assert batch.schema.names == ["cell_id"]
        seen += batch.num_rows
    assert seen == 600
