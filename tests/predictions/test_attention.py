"""The table of what cells weighed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.attention import attention_table, read_attention, write_attention

IDS = np.array(["a", "b", "c", "d"], np.str_)


def test_ranks_begin_with_the_weightiest_and_ties_keep_their_order(tmp_path: Path) -> None:
    table = attention_table(IDS, {"m": np.array([0.1, 0.4, 0.1, 0.4])})
    assert table.column_names == ["cell_id", "attention_m", "rank_m"]
    assert table.column("rank_m").to_pylist() == [3, 1, 4, 2]
    write_attention(table, tmp_path / "attention.parquet")
    found = read_attention(tmp_path / "attention.parquet")
    assert list(found["m"]) == IDS.tolist()
    np.testing.assert_allclose(list(found["m"].values()), [0.1, 0.4, 0.1, 0.4], rtol=1e-6)


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_attention(attention_table(IDS, {"m": np.full(4, 0.25)}), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_is_no_such_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no")
    write_attention(attention_table(IDS, {}), tmp_path / "empty.parquet")
    for name in ("text.parquet", "empty.parquet", "missing.parquet"):
        with pytest.raises(DataError, match=name):
            read_attention(tmp_path / name)
