"""Answers of models in reports: what is said, of which cells, and where criteria say otherwise."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fake_slide import FakeMpp, FakeSlide, summary, write_summary
from make_cells import FakeTaxonomy, make_cells
from page import Page, self_contained

from wsi_pipeline.exports.report import write_cohort_report, write_slide_report
from wsi_pipeline.exports.report.behind import SHOWN, behind_answers, cells_asked, told_apart
from wsi_pipeline.exports.report.select import cells_by_id
from wsi_pipeline.exports.report.summary import Answer
from wsi_pipeline.predictions import EvidenceCell, ModelEvidence, ModelProbability, Prediction, Proportion

EVIL = '"><script>alert(1)</script>{{ 7*7 }}'


def prediction(**changes: Any) -> Prediction:
    """An answer of a model, APL with 0.9."""
    basis = ModelProbability(name="calibrated probability of APL", fraction=0.9, lower=0.7, upper=0.97, confidence=0.95)
    values: dict[str, Any] = {
        "slide_id": "slide-1", "level": "slide", "subject_id": "P1", "task": "apl", "class_name": "apl",
        "basis": basis, "abstained": False, "reason": "", "n_cells": 210, "model": "toy", "trained_on": "12 patients",
        "wording": "The cells look like APL.",
        "evidence": ModelEvidence(probabilities={"apl": 0.9, "aml_other": 0.1}, limits=("It has not seen ALL.",)),
    }  # fmt: skip
    return Prediction(**{**values, **changes})


def criteria(class_name: str, task: str = "aml") -> Answer:
    basis = Proportion(name="blasts", k=2, n=200, confidence=0.95)
    changes = {"task": task, "class_name": class_name, "basis": basis, "model": "criteria", "evidence": None}
    return Answer.model_validate(prediction(**changes).to_dict())


def answer(**changes: Any) -> Answer:
    return Answer.model_validate(prediction(**changes).to_dict())


@pytest.fixture
def slide() -> FakeSlide:
    rng = np.random.default_rng(1)
    return FakeSlide(pixels=rng.integers(0, 255, (2000, 3000, 3), dtype=np.uint8), mpp=FakeMpp(x=0.25, y=0.25))


def test_a_model_and_criteria_have_the_same_row() -> None:
    row = prediction().row()
    assert (row["class"], row["probability"], row["lower"], row["upper"]) == ("apl", 0.9, 0.7, 0.97)
    entry = prediction().to_dict()
    assert entry["probability_of"] == "calibrated probability of APL"
    assert entry["probabilities"] == {"apl": 0.9, "aml_other": 0.1}
    by_criteria = prediction(evidence=None).to_dict()
    assert set(entry) - set(by_criteria) == {"probabilities", "evidence", "flags", "limits", "simulated"}


def test_a_slides_report_shows_the_answer_and_the_cells_behind_it(
    tmp_path: Path, slide: FakeSlide, fake_taxonomy: FakeTaxonomy
) -> None:
    cells = make_cells(tmp_path / "cells.parquet", 300, size_px0=(3000, 2000))
    table = pq.read_table(cells, columns=["cell_id", "kind"]).to_pydict()
    white = [i for i, kind in zip(table["cell_id"], table["kind"], strict=True) if kind == "white"]
    asked = (*(EvidenceCell(cell_id=i, weight=0.05) for i in white[:14]), EvidenceCell(cell_id="gone", weight=0.01))
    evidence = ModelEvidence(
        probabilities={"apl": 0.9, "aml_other": 0.1}, cells=asked, flags=("The stain is unusual.",),
        limits=("It has not seen ALL.",), simulated=True,
    )  # fmt: skip
    data = summary({"lymphocyte": 60, "blast": 40})
    data["predictions"].append(prediction(evidence=evidence, model=EVIL).to_dict())
    write_summary(tmp_path, data)
    write_slide_report(tmp_path, slide=slide, taxonomy=fake_taxonomy, specimen="blood_smear")
    page = Page((tmp_path / "report.html").read_text())
    self_contained(page)
    for words in (
        "Acute promyelocytic leukaemia", "The cells look like APL.", "calibrated probability of APL: 90.0 %",
        "70.0 – 97.0", "210 cells", "Unusual: The stain is unusual.", "What it cannot know: It has not seen ALL.",
        "SIMULATED", "Cells behind the models' answers", EVIL,
    ):  # fmt: skip
        assert words in page.text.replace("< ", "<"), words
    assert page.text.count("5.00 % ·") == SHOWN


def test_only_the_weightiest_are_shown_and_what_is_missing_is_counted(tmp_path: Path) -> None:
    cells = make_cells(tmp_path / "cells.parquet", 100, size_px0=(3000, 2000))
    ids = pq.read_table(cells, columns=["cell_id"]).column("cell_id").to_pylist()
    found = cells_by_id(cells, [ids[7], ids[3], "gone"])
    assert set(found) == {ids[7], ids[3]}
    assert found[ids[7]].picked.row == 7
    weighed = tuple(EvidenceCell(cell_id=f"c{k}", weight=0.1) for k in range(20))
    one = answer(evidence=ModelEvidence(probabilities={"apl": 1.0}, cells=weighed))
    assert cells_asked([one]) == {f"c{k}" for k in range(SHOWN)}
    (behind,) = behind_answers([one, criteria("below_range")], {})
    assert (behind.cells, behind.missing) == ((), SHOWN)


@pytest.mark.parametrize(
    ("by_criteria", "by_model", "differ"),
    [
        ("below_range", "aml", True),
        ("aml_range", "aml", False),
        ("aml_range", "normal", True),
        ("below_range", "normal", False),
        ("below_range", "aml|normal", False),
        ("aml_range", "of_a_user", False),
    ],
)
def test_where_criteria_and_models_differ(by_criteria: str, by_model: str, differ: bool) -> None:
    found = told_apart([criteria(by_criteria), answer(task="aml", class_name=by_model)])
    assert bool(found) is differ
    silent = answer(task="aml", class_name="", basis=None, abstained=True, reason="too-few-cells")
    assert told_apart([criteria(by_criteria), silent]) == []


def test_the_cohort_keeps_criteria_and_models_apart(tmp_path: Path) -> None:
    answers = [
        prediction(task="aml", class_name="aml_range", model="criteria", evidence=None),
        prediction(task="aml", class_name="normal"),
        prediction(task="apl", class_name="", basis=None, abstained=True, reason="contradicts-aml"),
        prediction(level="patient", slide_id=""),
    ]
    (tmp_path / "slides.csv").write_text("slide_id,path,specimen,status,reason\nslide-1,x.svs,blood_smear,ok,\n")
    with (tmp_path / "predictions.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(answers[0].row()))
        writer.writeheader()
        writer.writerows(one.row() for one in answers)
    pooled = [prediction(level="patient", slide_id="", subject_id=who).to_dict() for who in ("P1", "P2")]
    patients = [
        {"subject_id": "P1", "specimen": "blood_smear", "slide_ids": ["a", "b"], "predictions": pooled[:1]},
        {"subject_id": "P2", "specimen": "blood_smear", "slide_ids": ["c"], "predictions": pooled[1:]},
    ]
    (tmp_path / "patients.json").write_text(json.dumps({"patients": patients}))
    write_cohort_report(tmp_path)
    page = Page((tmp_path / "report.html").read_text())
    self_contained(page)
    assert "Blasts in AML range" in page.text
    assert "Normal" in page.text
    assert "contradicts the answer to: Acute myeloid leukaemia" in page.text
    assert "calibrated probability of APL: 90.0 % (70.0 – 97.0)" in page.text
    links = {str(a["href"]) for a in page.of("a") if str(a["href"]).startswith("patients/")}
    assert links == {"patients/P1.html"}
    for who in ("P1", "P2"):
        patient = Page((tmp_path / "patients" / f"{who}.html").read_text())
        self_contained(patient)
        assert patient.text.count("The cells look like APL.") == 1
