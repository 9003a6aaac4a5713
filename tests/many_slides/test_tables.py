"""The tables of a run that are those of its slides, one below the other."""

from __future__ import annotations

from pathlib import Path

from wsi_pipeline.many_slides.tables import _join, prediction_row


def test_tables_of_slides_stand_below_one_header(tmp_path: Path) -> None:
    parts = [tmp_path / name for name in ("a.csv", "missing.csv", "b.csv", "empty.csv")]
    parts[0].write_text("slide_id,class\na,x\na,y\n", encoding="utf-8")
    parts[2].write_text("slide_id,class\nb,x\n", encoding="utf-8")
    parts[3].write_text("slide_id,class\n", encoding="utf-8")
    _join(tmp_path / "out.csv", parts)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "slide_id,class\na,x\na,y\nb,x\n"
    _join(tmp_path / "out.csv", parts[1:2])
    assert not (tmp_path / "out.csv").exists()


def test_names_of_patients_are_no_formulas_in_a_spreadsheet() -> None:
    row = prediction_row({"subject_id": "=HYPERLINK(1)", "model": "+m", "trained_on": "@x", "abstained": True})
    assert (row["subject_id"], row["model"], row["trained_on"]) == ("'=HYPERLINK(1)", "'+m", "'@x")
    assert prediction_row({"subject_id": None, "model": "criteria", "trained_on": "criteria"})["subject_id"] == ""
