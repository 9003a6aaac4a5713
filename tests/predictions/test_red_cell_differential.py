"""The red-cell differential: shares, what errors leave of them, and when there is no answer."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from wsi_pipeline.config import PredictionsConfig
from wsi_pipeline.errors import ModelError
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.red_cells import RED_CELL_COLUMNS, RedCellDifferential, red_cell_differential

NORMAL, SCHISTOCYTE, NONE = "red_cell_normal", "schistocyte", "red_cell_uncategorised"


def card(false: int = 2, elsewhere: int | None = None, hit: int = 190) -> dict[str, Any]:
    """Of 2,000 normal cells ``false`` are taken for schistocytes, of 200 schistocytes ``hit`` are found."""
    positives = {"normal": [false, 2000], "other": [false, 2000]}
    if elsewhere is not None:
        positives["elsewhere"] = [elsewhere, 1000]
    return {
        "name": "test",
        "classes": [NORMAL, SCHISTOCYTE],
        "confusion": {
            "specimens": {
                "blood_smear": {
                    "classes": [NORMAL, SCHISTOCYTE],
                    "counts": [[2000 - false, false], [200 - hit, hit]],
                    "images": "drawn",
                }
            }
        },
        "errors": {"false_positives": {SCHISTOCYTE: positives}},
    }


def count(
    n: int, schistocytes: int, *, unsure: int = 0, outside: tuple[str, ...] = (), **how: Any
) -> RedCellDifferential:
    return red_cell_differential(
        {NORMAL: n - schistocytes - unsure, SCHISTOCYTE: schistocytes, NONE: unsure},
        {"truncated": 7},
        card=card(**how),
        uncategorised=NONE,
        outside=outside,
        specimen="blood_smear",
        config=PredictionsConfig(),
    )


def test_shares_are_of_judged_cells_and_their_intervals_wilsons() -> None:
    found = count(5000, 100, unsure=400)
    assert [row.count for row in found.rows] == [4500, 100, 400]
    row = found.rows[1]
    assert row.percent == pytest.approx(2)
    assert (row.lower, row.upper) == pytest.approx([100 * v for v in wilson(100, 5000)])
    value, lower, upper = row.corrected or (0, 0, 0)
    # Of 4,600 named cells 2.17 % are answered; errors of 0.1 % and 95 % give (2.17 - 0.1) / (95 - 0.1).
    assert value == pytest.approx(100 * (100 / 4600 - 0.001) / (0.95 - 0.001), abs=0.01)
    assert lower < value < upper
    assert upper - lower > row.upper - row.lower - 0.2
    assert found.rows[0].false_positives is None
    assert found.rows[2].corrected is None


@pytest.mark.parametrize(
    ("n", "schistocytes", "how", "answer", "reason"),
    [
        (10_000, 400, {}, "at-least-1-percent", None),
        (10_000, 20, {}, "below-1-percent", None),
        (10_000, 110, {}, None, "interval-spans-1-percent"),
        (1_500, 30, {"false": 40}, None, "within-false-positives"),
        (10_000, 400, {"elsewhere": 60}, None, "within-false-positives"),
        (999, 400, {}, None, "too-few-red-cells"),
        (10_000, 400, {"outside": ("cell_od_red",)}, None, "unlike-training"),
        (0, 0, {}, None, "too-few-red-cells"),
    ],
)
def test_one_percent_is_answered_only_where_the_errors_allow_it(
    n: int, schistocytes: int, how: dict[str, Any], answer: str | None, reason: str | None
) -> None:
    found = count(n, schistocytes, **how)
    assert (found.schistocytes["answer"], found.schistocytes["reason"]) == (answer, reason)
    assert found.schistocytes["wording"]
    if found.reason:
        assert all(row.corrected is None and row.above is None for row in found.rows)
    assert len(found.rows) == (3 if n else 0)


def test_the_worse_of_both_false_positive_rates_counts() -> None:
    own, other = count(5000, 100).rows[1], count(5000, 100, elsewhere=30).rows[1]
    assert own.false_positives == pytest.approx((0.1, 100 * wilson(2, 2000)[1]))
    assert other.false_positives == pytest.approx((3, 100 * wilson(30, 1000)[1]))
    assert (own.above, other.above) == (True, False)


def test_the_csv_has_four_decimals_and_empty_fields() -> None:
    text = count(5000, 100, unsure=400).to_csv("slide")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert tuple(lines[0]) == RED_CELL_COLUMNS
    assert [line["class"] for line in lines] == [NORMAL, SCHISTOCYTE, NONE]
    assert lines[1]["percent"] == "2.0000"
    assert lines[1]["above_false_positives"] == "true"
    assert lines[0]["false_positive_percent"] == lines[2]["corrected_percent"] == ""


def test_a_card_without_errors_is_refused() -> None:
    bare = {k: v for k, v in card().items() if k != "errors"}
    with pytest.raises(ModelError, match="nothing of the classifier's errors"):
        red_cell_differential(
            {NORMAL: 5}, {}, card=bare, uncategorised=NONE, specimen="blood_smear", config=PredictionsConfig()
        )
