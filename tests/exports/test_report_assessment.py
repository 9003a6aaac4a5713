"""The report of an evaluation: whole, self-contained, escaped, with the baseline beside every figure."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page import Page

from wsi_pipeline.exports.report import write_assessment
from wsi_pipeline.exports.report.assessment import estimate, p_value
from wsi_pipeline.exports.report.curves import HEIGHT, WIDTH, Line, line_chart
from wsi_pipeline.predictions.assessment import BASELINE, Candidate, Estimate, Plan, Study, run_study
from wsi_pipeline.predictions.assessment.leakage import Finding

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'


class _Rule:
    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        p = 1 / (1 + np.exp(-2 * np.nan_to_num(features[:, 0])))
        return np.stack([1 - p, p], axis=1)


@pytest.fixture(scope="module")
def study() -> Study:
    rng = np.random.default_rng(0)
    sick = np.arange(60) % 2 == 1
    features = rng.normal(size=(60, 2)) + 1.2 * sick[:, None]
    features[0, 1] = np.nan
    return run_study(
        features,
        [EVIL if s else "well" for s in sick],
        [Candidate(name=f"rule {EVIL}", fit=lambda x, y, seed: _Rule())],
        centres=[f"c{EVIL}" if i % 3 else "north" for i in range(60)],
        classes=["well", EVIL],
        feature_names=["MCV_fL", EVIL],
        plan=Plan(folds=3, repeats=2, replicates=50, null_repeats=1, fractions=(0.3, 1.0)),
    )


def _write(study: Study, folder: Path) -> Page:
    write_assessment(study, folder / "evaluation.html", title=f"Counts {EVIL}", notes=[f"Two centres. {EVIL}"])
    return Page((folder / "evaluation.html").read_text())


def test_it_is_whole_self_contained_and_escaped(study: Study, tmp_path: Path) -> None:
    page = _write(study, tmp_path)
    for tag in ("script", "img", "link", "iframe", "object"):
        assert not page.of(tag), tag
    for name, attrs in page.tags:
        for key, value in attrs.items():
            assert not key.startswith("on"), (name, key)
            assert "://" not in str(value), (name, key)
    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "default-src 'none'" in str(page.of("meta"))
    for words in (
        "Research use only", "What to doubt", "Null check", "AUC by class", "DeLong interval", "Operating points",
        "specificity of at least 0.95", "Calibration", "Net benefit", "Coverage", "Confusion", "Centre by centre",
        "Trained elsewhere", "Would more patients help?", "MCV_fL", "Seed 0", "evaluation.json",
    ):  # fmt: skip
        assert words in page.text, words
    shown = estimate(study.assessments[0].per_class[1].auc)
    assert re.fullmatch(r"0\.\d{3} \(0\.\d{3} to \d\.\d{3}\)", shown)
    assert shown in page.text


def test_the_json_beside_it_is_the_study(study: Study, tmp_path: Path) -> None:
    _write(study, tmp_path)
    first = (tmp_path / "evaluation.html").read_bytes()
    assert json.loads((tmp_path / "evaluation.json").read_text()) == study.document()
    _write(study, tmp_path)
    assert (tmp_path / "evaluation.html").read_bytes() == first


def test_the_baseline_stands_in_every_table_of_figures(study: Study, tmp_path: Path) -> None:
    html = (_write(study, tmp_path), (tmp_path / "evaluation.html").read_text())[1]
    tables = re.findall(r"<table>.*?</table>", html, flags=re.S)
    candidate_tables = [t for t in tables if ">Candidate</th>" in t and "Shuffle" not in t]
    assert len(candidate_tables) >= 9
    assert all(BASELINE in t for t in candidate_tables)
    assert html.count('<span class="badge">baseline</span>') > 20


def test_it_can_be_read_by_ear_and_by_keyboard(study: Study, tmp_path: Path) -> None:
    page = _write(study, tmp_path)
    charts = [a for a in page.of("svg") if a.get("aria-hidden") != "true"]
    assert len(charts) == 3 * 2 + 1 + 1 + 2
    assert all(a.get("role") == "img" and "60 subjects" in str(a["aria-label"]) for a in charts)
    assert all(a.get("scope") in ("col", "row") for a in page.of("th"))
    regions = [a for name, a in page.tags if a.get("role") == "region"]
    assert regions
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in regions)


def test_what_was_found_is_said_first(study: Study, tmp_path: Path) -> None:
    assert "No sign of leakage was found" in _write(study, tmp_path).text
    doubtful = replace(study, findings=(Finding(kind="identical-rows", count=2, message="2 subjects are the same."),))
    page = _write(doubtful, tmp_path)
    assert "2 subjects are the same." in page.text
    assert "No sign of leakage" not in page.text


def test_numbers_in_words() -> None:
    assert estimate(Estimate(value=0.5, lower=0.25, upper=0.75)) == "0.500 (0.250 to 0.750)"
    assert estimate(Estimate(value=1.0, lower=None, upper=None)) == "1.000 (no interval)"
    assert estimate(Estimate(value=None, lower=None, upper=None)) == "undefined"
    assert [p_value(p) for p in (None, 0.0004, 0.05)] == ["–", "< 0.001", "0.050"]


def test_lines_stay_within_their_frame() -> None:
    chart = line_chart(
        [
            Line(name="a", points=[(0, -5), (1, 5)], band=[(0, -6, -4), (1, 4, 6)]),
            Line(name="b", points=[]),
            Line(name="c", points=[(0, 0.5)], reference=True),
        ],
        title="t",
        x_label="x",
        y_label="y",
        percent=True,
    )
    numbers = [float(v) for s in chart.strokes for v in re.findall(r"[\d.]+", s.path + s.area)]
    assert numbers
    assert all(0 <= v <= max(WIDTH, HEIGHT) for v in numbers)
    assert [label for _, label in chart.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    a, b, _ = chart.strokes
    assert a.colour != b.colour
    assert a.dash != b.dash
    assert b.path == ""
