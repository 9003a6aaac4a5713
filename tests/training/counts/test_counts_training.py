from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.predictions.counts.counts_models import simulated
from tests.predictions.counts.test_counts_batch import write_table
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.evaluation.counts import evaluate_counts
from wsi_pipeline.predictions.assessment import Plan
from wsi_pipeline.predictions.counts.features import CLASSES
from wsi_pipeline.predictions.counts.labelled import LabelledCounts
from wsi_pipeline.predictions.counts.measured import summarise_trust
from wsi_pipeline.predictions.counts.model import load_counts_model, pack
from wsi_pipeline.training.counts.fit import fit_counts
from wsi_pipeline.training.counts.train import CountsTraining, train_counts

PLAN = Plan(folds=2, repeats=1, null_repeats=0, fractions=(), replicates=50)


def labelled_table(path: Path, table: LabelledCounts) -> Path:
    return write_table(path, table.values, Response=[CLASSES[i] for i in table.labels])


def request(*tables: Path, name: str = "mine") -> CountsTraining:
    return CountsTraining(
        tables=tables, label="Response", name=name, licence="MIT", title="simulated", attribution="nobody", plan=PLAN
    )


def test_the_same_seed_gives_the_same_model() -> None:
    table = simulated(120, seed=30)
    first, again = fit_counts(table, 0, inner_folds=2), fit_counts(table, 0, inner_folds=2)
    assert pack(first) == pack(again)
    assert pack(fit_counts(table, 1, inner_folds=2)) != pack(first)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counts")
    a = labelled_table(folder / "a.csv", simulated(150, seed=31))
    b = labelled_table(folder / "b.csv", simulated(90, seed=32, missing=0.05))
    return train_counts(request(a, b), folder / "out")


def test_a_training_writes_model_card_and_study(trained: Path) -> None:
    model = load_counts_model(str(trained))
    card = json.loads((trained.parent / "mine.json").read_text())
    assert card["specimens"] == ["blood_counts"]
    assert {m["name"] for m in card["metrics"]} >= {"AUC APL", "AUC APL, plain refit", "accuracy of green answers"}
    assert card["trust_measured"]["n"] == 240
    text = (trained.parent / "mine.md").read_text()
    assert "strongly suspected" in text
    assert "Resolution" not in text
    assert "240 patients, 2 centre(s)" in model.trained_on
    study = json.loads((trained.parent / "study.json").read_text())
    assert [a["candidate"] for a in study["assessments"]] == ["ensemble", "plain refit", "class frequencies"]
    assert "<script" not in (trained.parent / "study.html").read_text()


def test_a_model_is_evaluated_on_other_patients(trained: Path, tmp_path: Path) -> None:
    found = evaluate_counts(simulated(60, seed=33), load_counts_model(str(trained)), tmp_path / "e")
    assert found["n"] == 60
    assert found["per_class"]["APL"]["auc"]["value"] > 0.8
    assert found["baseline_accuracy"]["value"] == pytest.approx(1 / 3)
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["trust"]["n"] == 60
    trust = summarise_trust([(load_counts_model(str(trained)).predict(np.empty((0, 14))), np.empty(0, np.int64))])
    assert trust["green"]["n"] == 0
    assert trust["green"]["value"] is None


def test_too_few_patients_and_bad_names_are_refused(tmp_path: Path) -> None:
    table = labelled_table(tmp_path / "t.csv", simulated(30))
    with pytest.raises(DataError, match="20 of each class"):
        train_counts(request(table), tmp_path / "out")
    with pytest.raises(ConfigError, match="not a path"):
        request(table, name="../x")


def test_the_commands(trained: Path, tmp_path: Path) -> None:
    def command(*arguments: object) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "wsi_pipeline.cli.main", *map(str, arguments)]
        return subprocess.run(call, capture_output=True, text=True, check=False, timeout=300)

    table = labelled_table(tmp_path / "new.csv", simulated(30, seed=34))
    done = command("predict", "counts", table, "--model", trained, "--out", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    assert "strongly suspected" in done.stderr
    assert "30 rows" in done.stdout
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 31
    done = command("evaluate", "counts", table, "--model", trained, "--out", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    assert "AUC APL" in done.stdout
    done = command("predict", "counts", tmp_path / "no.csv", "--out", tmp_path / "x.csv", "--model", trained)
    assert done.returncode == 2
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    done = command("predict", "counts", table, "--out", tmp_path / "x.csv", "--model", trained, "--unit", "MCHC")
    assert done.returncode == 2
    assert "COLUMN=UNIT" in done.stderr
