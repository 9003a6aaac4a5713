"""Ranking of reticulin tiles: loss, scale, figures, and a small training from slides to a model that loads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_pipeline.errors import ConfigError, DataError, ModelError
from wsi_pipeline.predictions.fibrosis import FibrosisModel, FibrosisNetwork, load_fibrosis_model
from wsi_pipeline.simulation.reticulin_cohort import make_reticulin_cohort
from wsi_pipeline.training.fibrosis.data import read_graded
from wsi_pipeline.training.fibrosis.fit import fit_scale, pairwise_loss
from wsi_pipeline.training.fibrosis.train import concordance, rank_figures, train_fibrosis


def test_pairs_in_order_cost_little_and_ties_least_when_equal():
    grades = torch.tensor([0.0, 1.0, 2.0])
    right = pairwise_loss(torch.tensor([-5.0, 0.0, 5.0]), grades, 0.1)
    wrong = pairwise_loss(torch.tensor([5.0, 0.0, -5.0]), grades, 0.1)
    assert right < 0.01 < 1 < wrong
    same = torch.tensor([1.0, 1.0])
    equal, apart = (pairwise_loss(torch.tensor(s), same, 0.1) for s in ([0.3, 0.3], [0.0, 3.0]))
    assert equal == pytest.approx(np.log(2), rel=1e-6)
    assert apart > equal


def test_the_scale_is_the_share_of_tiles_that_score_less():
    rng = np.random.default_rng(0)
    raw = rng.normal(size=4000)
    knots = np.array(fit_scale(raw, np.ones(4000)))
    assert (np.diff(knots, axis=0) > 0).all()
    assert (knots[0, 1], knots[-1, 1]) == (0.0, 1.0)
    assert np.interp(0.0, knots[:, 0], knots[:, 1]) == pytest.approx(0.5, abs=0.03)
    # A grade of few tiles weighs as much as one of many.
    two = np.concatenate([rng.normal(-3, 0.1, 900), rng.normal(3, 0.1, 100)])
    even = np.array(fit_scale(two, np.repeat([1 / 900, 1 / 100], [900, 100])))
    assert np.interp(0.0, even[:, 0], even[:, 1]) == pytest.approx(0.5, abs=0.05)
    alike = np.array(fit_scale(np.zeros(9), np.ones(9)))
    assert (alike[0, 1], alike[-1, 1], len(alike)) == (0, 1, 2)


def test_concordance_counts_pairs_of_different_grade():
    assert concordance(np.array([0.1, 0.2, 0.3]), np.array([0.0, 1.0, 2.0])) == 1
    assert concordance(np.array([0.3, 0.2, 0.1]), np.array([0.0, 1.0, 2.0])) == 0
    assert concordance(np.array([0.1, 0.1]), np.array([0.0, 1.0])) == 0.5
    assert np.isnan(concordance(np.array([0.1, 0.2]), np.array([1.0, 1.0])))


def test_figures_have_intervals_over_patients():
    grades = np.tile([0.0, 1.0, 2.0, 3.0], 8)
    values = grades + np.random.default_rng(1).normal(0, 0.5, 32)
    found = rank_figures(values, grades, np.arange(32) // 2)
    assert 0.5 < found.tau.lower < found.tau.value < found.tau.upper < 1
    assert found.concordance.value > 0.9


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight slides of two grades, so that each fold has both."""
    made = make_reticulin_cohort(tmp_path_factory.mktemp("fibres"), slides=8, seed=3, area_mm2=0.5)
    with made.truth.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["density_mm_per_mm2"]))
    lines = [f"slides/{row['slide_id']}.tiff,{0 if i < 4 else 2},{row['slide_id']},true" for i, row in enumerate(rows)]
    made.manifest.write_text("\n".join(["slide,grade,patient,simulated", *lines]) + "\n", encoding="utf-8")
    return made.manifest


@pytest.fixture(scope="module")
def weights(cohort: Path) -> Path:
    out = cohort.parent / "model" / "mine.safetensors"
    return train_fibrosis(cohort, out, folds=2, steps=6, per_slide=4)


def test_a_training_writes_weights_card_and_figures(weights: Path):
    model = load_fibrosis_model(str(weights))
    card = json.loads(weights.with_suffix(".json").read_text())
    assert (model.name, card["task"], card["simulated"], card["stain"]) == ("mine", "fibrosis", True, "reticulin")
    assert "SIMULATED" in weights.with_suffix(".md").read_text()
    metrics = json.loads(weights.with_suffix(".metrics.json").read_text())
    assert metrics["n"] == 8
    assert {"tau", "concordance"} == set(metrics["index"]) == set(metrics["dark_pixels"])


def test_scores_do_not_depend_on_company(weights: Path, cohort: Path):
    model = load_fibrosis_model(str(weights))
    tiles = read_graded(cohort, per_slide=3, report=lambda _: None)
    seen = [tiles.tile(i) for i in range(len(tiles.unit))]
    assert np.array_equal(model.raw(seen)[3:5], model.raw(seen[3:5]))
    scaled = model.scaled(np.array([-1e3, 1e3], np.float32))
    assert (scaled >= 0).all()
    assert (scaled <= 1).all()


def test_what_cannot_be_trained_on_is_said(cohort: Path, tmp_path: Path):
    out = tmp_path / "m.safetensors"
    for text, said in (
        ("slide,grade\na.tiff,1\n", "needs the columns"),
        ("slide,grade,patient\nnone.tiff,1,p\n", "does not exist"),
        ("slide,grade,patient,stage\na.tiff,1,p,x\n", "stage are unknown"),
    ):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(DataError, match=said):
            train_fibrosis(tmp_path / "m.csv", out)
    slide = cohort.parent / "slides" / "reticulin001.tiff"
    (tmp_path / "m.csv").write_text(f"slide,grade,patient\n{slide},7,p\n")
    with pytest.raises(DataError, match="grades are 0 to 3"):
        train_fibrosis(tmp_path / "m.csv", out)
    (tmp_path / "m.csv").write_text(f"slide,grade,patient\n{slide},MF-2,p\n")
    with pytest.raises(DataError, match="one grade only"):
        train_fibrosis(tmp_path / "m.csv", out, per_slide=2)
    with pytest.raises(ConfigError, match="at least two folds"):
        train_fibrosis(cohort, out, folds=1)
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        train_fibrosis(cohort, tmp_path / "m.pt")


def test_damaged_weights_and_scales_are_refused(weights: Path, tmp_path: Path):
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(weights.read_bytes()[:-8])
    copy.with_suffix(".json").write_bytes(weights.with_suffix(".json").read_bytes())
    with pytest.raises(ModelError, match="SHA-256"):
        load_fibrosis_model(str(copy))
    for scale in ([[0, 0]], [[1, 0], [0, 1]], [[0, 1], [1, 0]], "x", [[0, float("nan")], [1, 1]]):
        with pytest.raises(ModelError, match="scale"):
            FibrosisModel({"name": "m", "mpp": 0.5, "scale": scale}, FibrosisNetwork())
