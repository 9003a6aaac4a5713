"""Labels against answers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from wsi_pipeline.galleries import Comparison, GivenLabel, pool_comparisons, write_comparison
from wsi_pipeline.predictions.intervals import wilson

GIVEN = (
    GivenLabel(label="NEU", taxonomy="five-part", code="neutrophil", agrees=("band", "segmented")),
    GivenLabel(label="Neutrophils", taxonomy="five-part", code="neutrophil", agrees=("band", "segmented")),
    GivenLabel(label="odd", note="no taxonomy knows this name"),
)
LABELS = ["NEU", "NEU", "Neutrophils", "NEU", "odd", None]
ANSWERS = ["band", "segmented", "band", "blast", "blast", "band"]


def test_agreement_and_confusion_by_hand() -> None:
    found = Comparison.of(LABELS, ANSWERS, GIVEN, 0.95)
    assert [(c.name, c.n, c.n_agree, dict(c.answers)) for c in found.classes] == [
        ("neutrophil", 4, 3, {"band": 2, "blast": 1, "segmented": 1}),
        ("odd", 1, 0, {"blast": 1}),
    ]
    neutrophil, odd, total = found.rows()
    low, high = wilson(3, 4)
    assert neutrophil["percent"] == 75
    assert (neutrophil["lower"], neutrophil["upper"]) == pytest.approx((100 * low, 100 * high))
    assert odd["compared"] is False
    assert odd["percent"] is None
    assert odd["note"]
    assert (total["class"], total["n"], total["agree"]) == ("(all)", 4, 3)


def test_the_record_survives_json_and_patients_add_up() -> None:
    one = Comparison.of(LABELS, ANSWERS, GIVEN, 0.95)
    assert Comparison.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    pooled = pool_comparisons([one, one])
    assert pooled is not None
    assert [(c.name, c.n, c.n_agree) for c in pooled.classes] == [("neutrophil", 8, 6), ("odd", 2, 0)]


def test_tables_of_a_run_hold_run_and_patients_and_vanish_without_labels(tmp_path: Path) -> None:
    record = Comparison.of(LABELS, ANSWERS, GIVEN, 0.95).to_dict()
    write_comparison(tmp_path, [{"slide_id": "P1", "agreement": record}, {"slide_id": "P2", "agreement": None}])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "agreement.csv").read_text())))
    assert [(r["level"], r["slide_id"], r["class"], r["agree"]) for r in rows] == [
        ("run", "", "neutrophil", "3"),
        ("run", "", "odd", ""),
        ("run", "", "(all)", "3"),
        ("slide", "P1", "neutrophil", "3"),
        ("slide", "P1", "odd", ""),
        ("slide", "P1", "(all)", "3"),
    ]
    pairs = list(csv.DictReader(io.StringIO((tmp_path / "confusion.csv").read_text())))
    assert sum(int(r["count"]) for r in pairs if r["level"] == "run") == 5
    write_comparison(tmp_path, [{"slide_id": "P2"}])
    assert not (tmp_path / "agreement.csv").exists()
    assert not (tmp_path / "confusion.csv").exists()
