"""Recovery of planted fractions: figures known by hand, and the whole way from the pixels of a small cohort."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.cohort import run_cohort
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.recovery import Recovery, evaluate_recovery
from wsi_pipeline.evaluation.recovery_tables import recovery_csv, recovery_metrics, recovery_table
from wsi_pipeline.simulation import make_cohort

HEADER = (
    "patient,slide_id,group,label,drawn_blast,drawn_promyelocyte,drawn_dysplastic,n_white,n_blast,n_promyelocyte,"
    "n_segmented_neutrophil,n_band_neutrophil,n_hypogranular\n"
)


def entry(percent: float | None, low: float | None, high: float | None, **names: str) -> dict[str, Any]:
    return {**names, "percent": percent, "lower": low, "upper": high}


def write(folder: Path, *, blasts: float = 32.0) -> tuple[Path, Path]:
    """Write two patients: 30 % blasts drawn, 25 of 100 placed; none drawn, none placed."""
    cohort, run = folder / "cohort", folder / "run"
    cohort.mkdir(parents=True)
    (cohort / "truth.csv").write_text(
        HEADER + "a,a,aml,aml,0.30,0.01,0.2,100,25,1,30,20,5\nb,b,normal,normal,0,0,0.0,200,0,0,100,0,0\n"
    )
    for name, value in (("a", blasts), ("b", 2.0)):
        (run / "slides" / name).mkdir(parents=True)
        summary = {
            "differential": [
                entry(value, value - 3, value + 3, **{"class": "blast"}),
                entry(1.0, 0.0, 4.0, **{"class": "promyelocyte"}),
            ],
            "differential_corrected": {"rows": [entry(value - 2, 0.0, value + 5, **{"class": "blast"})]},
            "dysplasia": {
                "rows": [
                    entry(12.0, 8.0, 25.0, measure="dysplastic_fraction"),
                    entry(None, None, None, measure="hypogranular"),
                ]
            }
            if name == "a"
            else None,
        }
        (run / "slides" / name / "summary.json").write_text(json.dumps(summary))
    return run, cohort


def of(found: Sequence[Recovery], fraction: str, how: str, truth: str, group: str = "all") -> Recovery:
    return next(r for r in found if (r.fraction, r.how, r.truth, r.group) == (fraction, how, truth, group))


def test_figures_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    run, cohort = write(tmp_path)
    evaluation = evaluate_recovery(run, cohort)
    found = evaluation.summaries
    raw = of(found, "blast", "raw", "drawn")
    assert (raw.n, raw.abstained, raw.covered) == (2, 0, 2)  # 29-35 holds 30, -1-5 holds 0
    assert raw.bias.value == pytest.approx((2 + 2) / 2)
    placed = of(found, "blast", "raw", "placed")
    assert placed.covered == 1  # 25 is not in 29-35
    assert placed.error.value == pytest.approx((7 + 2) / 2)
    assert of(found, "blast", "corrected", "drawn").covered == 2
    assert of(found, "promyelocyte", "corrected", "drawn").abstained == 2
    assert of(found, "promyelocyte", "corrected", "drawn").coverage.value is None
    dysplastic = of(found, "dysplastic", "raw", "drawn")
    assert (dysplastic.n, dysplastic.abstained, dysplastic.covered) == (1, 1, 1)
    assert of(found, "dysplastic", "raw", "placed").bias.value == pytest.approx(12 - 10)
    assert of(found, "hypogranular", "raw", "drawn").n == 0
    assert of(found, "blast", "raw", "drawn", "aml").n == 1
    assert "dysplastic" in recovery_table(evaluation)
    json.dumps(recovery_metrics(evaluation), allow_nan=False)
    table = list(csv.DictReader(recovery_csv(evaluation).splitlines()))
    assert len(table) == 2 * 6
    assert table[0]["value"] == "32.0000"
    (run / "slides" / "b" / "summary.json").unlink()
    assert "1 patients of the cohort are not in the run: b" in recovery_table(evaluate_recovery(run, cohort))


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    run, cohort = write(tmp_path)
    with pytest.raises(DataError, match=r"truth.csv cannot be read"):
        evaluate_recovery(run, tmp_path)
    with pytest.raises(DataError, match="no slide of the cohort"):
        evaluate_recovery(tmp_path, cohort)
    good = (cohort / "truth.csv").read_text()
    (cohort / "truth.csv").write_text(good.replace("drawn_blast", "blasts"))
    with pytest.raises(DataError, match="no column drawn_blast"):
        evaluate_recovery(run, cohort)
    (cohort / "truth.csv").write_text(good.replace("0.30", "many"))
    with pytest.raises(DataError, match="row of a holds no number"):
        evaluate_recovery(run, cohort)
    (cohort / "truth.csv").write_text(HEADER)
    with pytest.raises(DataError, match="lists no patients"):
        evaluate_recovery(run, cohort)


def test_a_small_cohort_is_recovered_from_its_pixels_and_says_that_it_is_simulated(tmp_path: Path) -> None:
    made = make_cohort(tmp_path / "cohort", patients=5, seed=11, area_mm2=0.06, stain_variation=0, blur_variation=0)
    # The column is forgotten: the slides say it themselves.
    rows = made.manifest.read_text().splitlines()
    forgot = made.manifest.with_name("forgot.csv")
    forgot.write_text("\n".join(line.rsplit(",", 1)[0] for line in (rows[0], *rows[1:4])) + "\n")
    result = run_cohort(
        [forgot], tmp_path / "run", "blood_smear",
        overrides={
            "predictions.min_cells": 20, "predictions.target_cells": 20, "cells.red_classifier": None,
            "runtime.workers": 1, "exports.qupath": False,
        },
    )  # fmt: skip
    assert [s["simulated"] for s in result.summaries] == [True] * 3
    assert json.loads((tmp_path / "run" / "run.json").read_text())["simulated"] is True
    assert "SIMULATED" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "SIMULATED" in (tmp_path / "run" / "slides" / "sim0001" / "report.html").read_text(encoding="utf-8")
    evaluation = evaluate_recovery(tmp_path / "run", tmp_path / "cohort")
    assert evaluation.not_run == ("sim0004", "sim0005")
    raw = {(r.patient, r.fraction): r for r in evaluation.reported if r.how == "raw"}
    normal, aml, apl = (raw[f"sim000{i}", "blast"] for i in (1, 2, 3))
    assert normal.value is not None
    assert aml.value is not None
    assert apl.value is not None
    assert normal.value < 8
    assert aml.value > 15
    promyelocytes = raw["sim0003", "promyelocyte"].value
    assert promyelocytes is not None
    assert promyelocytes > apl.value
    assert of(evaluation.summaries, "blast", "raw", "placed").n == 3
