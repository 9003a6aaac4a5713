"""The slide's vector of types and attributes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wsi_pipeline.predictions.attributes import attribute_counts, attribute_rates, attributes_csv
from wsi_pipeline.predictions.intervals import wilson


def test_cells_of_a_class_with_an_attribute_are_counted_over_those_of_the_class(tmp_path: Path) -> None:
    table = pa.table(
        {
            "kind": ["white"] * 7 + ["red"],
            "class_name": ["monocyte"] * 5 + ["lymphocyte"] * 2 + ["red_cell"],
            "truncated": [False] * 4 + [True] + [False] * 3,
            "attr_vacuoles": pa.array([0.9, 0.5, 0.49, 0.1, 0.9, 0.2, None, None], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "cells.parquet", row_group_size=3)
    pairs = [("monocyte", "vacuoles"), ("lymphocyte", "vacuoles"), ("blast", "vacuoles")]
    counts = attribute_counts(tmp_path / "cells.parquet", pairs)
    assert counts == dict(zip(pairs, [(2, 4), (0, 1), (0, 0)], strict=True))
    mono, lymph, blast = attribute_rates(counts, 0.95)
    assert (mono.percent, mono.lower, mono.upper) == (50, *(100 * v for v in wilson(2, 4)))
    assert lymph.upper == pytest.approx(100 * wilson(0, 1)[1])
    assert (blast.percent, blast.lower) == (None, None)
    rows = list(csv.DictReader(io.StringIO(attributes_csv((mono, blast), "s"))))
    assert [row["percent"] for row in rows] == ["50.0000", ""]
    assert mono.to_dict()["class"] == "monocyte"
