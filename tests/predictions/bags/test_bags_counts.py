"""Routine counts of subjects from a table without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.bags import counts_of


@dataclass(frozen=True)
class Someone:
    subject_id: str
    slide_ids: tuple[str, ...]
    patient: str = ""


def test_counts_are_found_by_slide_or_patient_in_canonical_units(tmp_path: Path) -> None:
    table = tmp_path / "counts.csv"
    table.write_text("patient,WBC (G/L),Platelets (G/L)\nP1,4.2,95\nP2,,110\nP3,50,80\n")
    subjects = [Someone("s1", ("s1",), "P1"), Someone("P2", ("a", "b"), "P2"), Someone("other", ("other",))]
    (first, second, third), _ = counts_of(table, subjects)
    assert first["WBC_G_L"] == 4.2
    assert "WBC_G_L" not in second
    assert len(second) == 1
    assert third == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [("patient,WBC (G/L)\nP9,4\n", "names none of the subjects"), ("patient,colour\nP1,red\n", "no routine counts")],
)
def test_tables_that_say_nothing_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        counts_of(tmp_path / "counts.csv", [Someone("P1", ("P1",), "P1")])
