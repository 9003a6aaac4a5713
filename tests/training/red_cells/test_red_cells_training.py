"""Training of the red-cell classifier: folds, doors, and two real fields measured as in a run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from wsi_pipeline.cells.red_cell_model import load_red_cell_classifier
from wsi_pipeline.cells.red_cells import FEATURE_NAMES
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.predictions.red_cells import red_cell_differential
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.red_cells import train as red_cells
from wsi_pipeline.training.red_cells.data import LabelledRedCells, read_other_laboratory, read_red_cells
from wsi_pipeline.training.red_cells.train import (
    blocks_of,
    check_red_cells,
    cross_validate,
    deal,
    error_rates,
    measure,
    train_red_cells,
)

CLASSES = load_taxonomy("red-cells").classifier_classes


def labelled(per_class: int = 40, n_fields: int = 40, apart: float = 3.0) -> LabelledRedCells:
    """Return cells whose classes differ in their features; every tenth point has no cell."""
    rng = np.random.default_rng(0)
    target = np.repeat(np.arange(len(CLASSES)), per_class)
    centres = rng.normal(size=(len(CLASSES), len(FEATURE_NAMES))) * apart
    features = (centres[target] + rng.normal(size=(len(target), len(FEATURE_NAMES)))).astype(np.float32)
    features[::10] = np.nan
    fields = np.array([str(i) for i in rng.integers(0, n_fields, len(target))], object)
    return LabelledRedCells(features=features, classes=np.array(CLASSES, object)[target], fields=fields, fate={})


def test_a_field_lies_in_one_fold_and_folds_are_of_like_size() -> None:
    fields = [str(i % 37) for i in range(1000)]
    fold = deal(fields, 5, 0)
    assert all(
        len({f for f, name in zip(fold.tolist(), fields, strict=True) if name == one}) == 1 for one in set(fields)
    )
    assert np.ptp(np.bincount(fold, minlength=5)) <= 30
    assert (deal(fields, 5, 0) == fold).all()
    assert (deal(fields, 5, 1) != fold).any()
    assert blocks_of(["10", "9", "1", "2", "3", "4", "5"]) == ["1", "0", "0", "0", "0", "0", "0"]


def test_cross_validation_tells_classes_and_counts_points_without_a_cell_as_wrong() -> None:
    cells = labelled()
    found = cross_validate(cells, CLASSES, 5, cells.fields.tolist())
    assert (np.isfinite(found.scores[:, 0]) == cells.measured).all()
    mine, trivial = measure(cells, CLASSES, found)
    assert mine.accuracy.value == pytest.approx(0.9, abs=0.01)
    assert (trivial.macro_f1.value or 0) < 0.05
    shuffled = labelled(apart=0.0)
    chance, _ = measure(shuffled, CLASSES, cross_validate(shuffled, CLASSES, 5, shuffled.fields.tolist()))
    assert (chance.accuracy.value or 0) < 0.2, "a fold has seen its own cells"


def test_errors_are_counted_by_class_and_of_normal_cells() -> None:
    truth = np.array(["red_cell_normal"] * 4 + ["schistocyte"] * 2, object)
    p = np.full((6, len(CLASSES)), 0.01)
    hit = [CLASSES.index(c) for c in ("red_cell_normal", "red_cell_normal", "schistocyte", "teardrop", "schistocyte",
                                      "red_cell_normal")]  # fmt: skip
    p[np.arange(6), hit] = [0.9, 0.9, 0.9, 0.3, 0.9, 0.9]
    found = error_rates(CLASSES, truth, p, 0.5)
    normal, schistocyte = CLASSES.index("red_cell_normal"), CLASSES.index("schistocyte")
    assert found["counts"][normal][normal] == 2
    assert found["counts"][normal][schistocyte] == 1
    assert found["counts"][schistocyte][schistocyte] == found["counts"][schistocyte][normal] == 1
    assert found["uncategorised"]["red_cell_normal"] == 1
    assert found["false_positives"]["schistocyte"] == {"normal": [1, 4], "other": [1, 4]}


def test_what_is_written_loads_answers_and_states_its_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring fields is left out (it has a test of its own); everything after it is as in the command."""
    cells = labelled()
    monkeypatch.setattr(red_cells, "read_red_cells", lambda *_args, **_options: cells)
    weights = train_red_cells(tmp_path / "fields", tmp_path, name="mine", mpp=0.1, folds=3)
    model = load_red_cell_classifier(str(weights))
    assert (model.name, model.classes) == ("mine", CLASSES)
    names, sure = model.answer(cells.features[cells.measured])
    assert (names == cells.classes[cells.measured]).mean() > 0.9
    assert sure.min() > 1 / len(CLASSES)
    card = model.card
    assert card["split"]["folds"] == 3
    assert {f["name"] for f in card["metrics"]} >= {"macro-F1", "F1 of schistocyte", "expected calibration error"}
    assert [source["title"] for source in card["data"]] == ["your own fields"]
    counts = np.array(card["confusion"]["specimens"]["blood_smear"]["counts"])
    assert counts.sum() + sum(card["errors"]["uncategorised"].values()) == cells.measured.sum()
    # The answer's errors in the card are what a slide's differential needs.
    found = red_cell_differential(
        {"red_cell_normal": 1200, "schistocyte": 60}, {}, card=card, uncategorised="red_cell_uncategorised",
        specimen="blood_smear", config=load_config("blood_smear").predictions,
    )  # fmt: skip
    assert next(row for row in found.rows if row.name == "schistocyte").corrected is not None
    assert json.loads((tmp_path / "metrics.json").read_text())["macro_f1"] > 0.8


def test_what_cannot_be_learnt_from_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images does not exist"):
        read_red_cells(tmp_path)
    with pytest.raises(DataError, match="at least 4 fields"):
        read_other_laboratory(tmp_path / "none")
    with pytest.raises(ConfigError, match="--folds 1"):
        train_red_cells(tmp_path, tmp_path / "out", folds=1)
    with pytest.raises(ConfigError, match="pbc-blast"):
        train_red_cells(tmp_path, tmp_path / "out", name="pbc-blast")
    with pytest.raises(DataError, match=r"too few: .*teardrop \(9\)"):
        check_red_cells(labelled(per_class=10), CLASSES, 5)
    with pytest.raises(DataError, match="30 labelled fields, found 12"):
        check_red_cells(labelled(n_fields=12), CLASSES, 5)


@pytest.mark.data
def test_points_of_a_real_field_find_their_cells(tmp_path: Path) -> None:
    source = Path(os.environ["WSI_PIPELINE_DATA"]) / "rbc-morphology"
    names = sorted((p.stem for p in (source / "points").glob("*.txt") if p.stat().st_size > 200), key=int)[:2]
    for folder, suffix in (("images", "jpg"), ("points", "txt")):
        (tmp_path / folder).mkdir()
        for name in names:
            shutil.copy(source / folder / f"{name}.{suffix}", tmp_path / folder)
    cells = read_red_cells(tmp_path)
    assert len(cells.classes) > 20
    assert cells.fate["measured"] == cells.measured.sum() > 0.8 * len(cells.classes)
    area = cells.features[cells.measured, FEATURE_NAMES.index("area_um2")]
    assert 20 < np.median(area) < 60
    (tmp_path / "points" / f"{names[0]}.txt").write_text("100 100 zebra\n")
    with pytest.raises(DataError, match="zebra"):
        read_red_cells(tmp_path)
