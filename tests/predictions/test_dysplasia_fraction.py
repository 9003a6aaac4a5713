"""The dysplastic fraction: its intervals, both lines, and when there is none."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from wsi_pipeline.predictions.dysplasia import DYSPLASIA_COLUMNS, FRACTION, Dysplasia, dysplasia
from wsi_pipeline.predictions.intervals import wilson

NORMAL = {"hypogranular": (5, 200), "pseudo_pelger": (2, 150), "dysplastic": (7, 200)}


def fraction(hypogranular: int, plump: int, n: int = 200, segmented: int = 150, **changes: Any) -> Dysplasia:
    counts = {
        "neutrophils": n, "segmented": segmented, "hypogranular": hypogranular, "pseudo_pelger": plump,
        "dysplastic": hypogranular + plump,
    }  # fmt: skip
    settings: dict[str, Any] = {
        "granules_hidden": "", "nuclei_hidden": "", "normal": NORMAL, "stain": {}, "reference": "test",
        "min_neutrophils": 100, "confidence": 0.95,
    }  # fmt: skip
    return dysplasia(counts, **{**settings, **changes})


@pytest.mark.parametrize(
    ("k", "published", "learnt"),
    [(60, "above", "above"), (24, "undecided", "above"), (16, "undecided", "undecided"), (0, "below", "below")],
)
def test_the_fraction_lies_above_below_or_across_both_lines(k: int, published: str, learnt: str) -> None:
    row = fraction(k, 0, normal={**NORMAL, "dysplastic": (7, 200)}).rows[-1]
    assert row.measure == FRACTION
    low, high = wilson(k, 200)
    assert (row.percent, row.lower, row.upper) == (k / 2, 100 * low, 100 * high)
    assert row.learnt_percent == pytest.approx(100 * wilson(7, 200)[1])
    assert row.published == published
    assert row.learnt == learnt


def test_too_few_neutrophils_or_a_faint_stain_leave_no_fraction() -> None:
    few = fraction(30, 0, n=99, segmented=80)
    assert {row.reason for row in few.rows} == {"too-few-neutrophils"}
    assert {row.percent for row in few.rows} == {None}
    assert few.wording == "No dysplastic fraction of 99 neutrophils."
    segmented = fraction(30, 0, n=150, segmented=99)
    assert [row.reason for row in segmented.rows] == ["", "too-few-neutrophils", ""]
    faint = fraction(0, 9, granules_hidden="eosin-faint")
    assert [row.reason for row in faint.rows] == ["eosin-faint", "", "eosin-faint"]
    assert faint.rows[1].count == 9, "what can be told is told"
    assert faint.rows[2].count == 0
    assert faint.rows[2].published is None


def test_the_table_has_a_row_a_measure_and_the_published_line_for_the_fraction_alone() -> None:
    rows = list(csv.DictReader(io.StringIO(fraction(40, 9).to_csv("slide 1"))))
    assert tuple(rows[0]) == DYSPLASIA_COLUMNS
    assert [row["measure"] for row in rows] == ["hypogranular", "pseudo_pelger", FRACTION]
    assert [row["published_percent"] for row in rows] == ["", "", "10"]
    assert [row["n"] for row in rows] == ["200", "150", "200"]
    assert rows[1]["percent"] == "6.0000"
    assert rows[2]["abstained"] == "false"
    found = fraction(40, 9)
    assert found.wording.startswith("24.5 % (")
    assert "published 10 % line" in found.wording
    assert found.to_dict()["rows"][2]["published_percent"] == 10
