"""Training a cell classifier on cells of one's own: doors, groups, folds, resuming, outputs and refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killed_training import kill_training
from own_cell_images import COLOURS, MPP, RECIPE, cell, class_folders
from PIL import Image

from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.errors import ConfigError, DataError, ModelError, WsiPipelineError
from wsi_pipeline.training.cells.mixing import Mixing
from wsi_pipeline.training.cells.models import ModelChoice
from wsi_pipeline.training.cells.own_request import CellTraining, list_cells
from wsi_pipeline.training.cells.train_own import train_own_cells


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return class_folders(tmp_path_factory.mktemp("own") / "cells")


def _train(request: CellTraining, out: Path, **settings: object) -> Path:
    return train_own_cells(request, out, recipe=RECIPE, report=lambda _: None, **settings)  # type: ignore[arg-type]


_KILLED = """
import os, sys
from pathlib import Path
from own_cell_images import MPP, RECIPE
from wsi_pipeline.training.cells.train_own import train_own_cells
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.cells.mixing import Mixing
request = CellTraining(data=Path(sys.argv[1]), mpp=MPP, mixing=Mixing(mixup=0.4, cutmix=1.0))
train_own_cells(request, Path(sys.argv[2]), recipe=RECIPE, report=lambda line: print(line, flush=True))
"""


@pytest.mark.usefixtures("one_thread")
def test_a_training_killed_by_the_system_ends_with_the_same_bytes(folders: Path, tmp_path: Path) -> None:
    request = CellTraining(data=folders, mpp=MPP, mixing=Mixing(mixup=0.4, cutmix=1.0))
    whole = _train(request, tmp_path / "whole")
    killed = tmp_path / "killed"
    kill_training(_KILLED, folders, killed, at="epoch 2/")
    assert not (killed / whole.name).exists()
    lines: list[str] = []
    again = train_own_cells(request, killed, recipe=RECIPE, report=lines.append)
    assert any(line.startswith("resumed after epoch") for line in lines)
    assert again.read_bytes() == whole.read_bytes()
    other = replace(request, mixing=Mixing(mixup=0.2))
    with pytest.raises(DataError, match="another recipe"):
        _train(other, killed)


def test_folds_their_mean_and_all_outputs(folders: Path, tmp_path: Path) -> None:
    request = CellTraining(data=folders, mpp=MPP, folds=2, epochs=2, patience=1, name="mine", views=4)
    single = _train(replace(request, fold=1), tmp_path)
    assert single == tmp_path / "fold-1" / "metrics.json"
    stamp = single.stat().st_mtime_ns
    weights = _train(request, tmp_path)
    assert single.stat().st_mtime_ns == stamp, "a finished fold is not trained again"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    folds = [json.loads((tmp_path / f"fold-{k}" / "metrics.json").read_text()) for k in (0, 1)]
    assert sum(f["n"] for f in folds) == metrics["cross_validation"]["n"] == 40
    mean = metrics["cross_validation"]["macro_f1"]
    assert mean["mean"] == pytest.approx(np.mean(mean["by_fold"]))
    card = json.loads(weights.with_suffix(".json").read_text())
    assert card["metrics"][0]["name"] == "macro-F1, mean of 2 folds"
    assert (card["stain"], card["views"]) == ("nuclear-density", 4)
    for name in ("per_class.csv", "confusion.csv", "confusion.png", "reliability.csv", "reliability.png", "roc.csv",
                 "roc.png", "learning_curve.csv", "learning_curve.png", "split.csv", "mine.md"):  # fmt: skip
        assert (tmp_path / name).stat().st_size > 50, name
    with Image.open(tmp_path / "confusion.png") as picture:
        assert min(picture.size) > 300
    assert load_classifier(weights).classes == ("eosinophil", "lymphocyte")
    with pytest.raises(DataError, match="another request"):
        _train(replace(request, folds=3, fold=1), tmp_path)


def test_patients_stay_on_one_side(tmp_path: Path) -> None:
    for k in range(24):
        for name in COLOURS:
            folder = tmp_path / "data" / f"patient{k % 6}" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(cell(name, k)).save(folder / f"{k}.png")
    _train(CellTraining(data=tmp_path / "data", mpp=MPP, epochs=1), tmp_path / "out")
    with (tmp_path / "out" / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["split"] for r in rows} == {"train", "val", "test"}
    for patient in {r["patient"] for r in rows}:
        assert len({r["split"] for r in rows if r["patient"] == patient}) == 1
    with pytest.raises(DataError, match="no centre"):
        _train(CellTraining(data=tmp_path / "data", mpp=MPP, group="centre"), tmp_path / "out2")


def test_boxes_are_clipped_counted_and_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    field = np.concatenate([cell("lymphocyte", 1), cell("eosinophil", 2)], axis=1)
    Image.fromarray(field).save(tmp_path / "images" / "a.png")
    table = tmp_path / "boxes.csv"
    table.write_text("NAME,x1,y1,x2,y2,class\na.png,8,8,28,28,LY\na,40,-5,90,30,eosinophil\n")
    listing = list_cells(CellTraining(data=table))
    assert [e.centre for e in listing.examples] == [(18, 18), (56, 15)]
    assert listing.notes == ("1 of 2 boxes reached beyond their image and were clipped",)
    for row, message in (
        ("a,20,8,20,28,LY", "line 4: the box .* has no area"),
        ("a,80,8,90,28,LY", "line 4: the box .* lies outside a"),
        ("a,x,8,20,28,LY", "line 4: x1 is 'x'"),
        ("b,8,8,20,28,LY", r"1 rows name images that do not exist .*b \(line 4\)"),
        ("a,8,8,20,28", "line 4: 5 values for 6 columns"),
    ):
        table.with_name("bad.csv").write_text(table.read_text() + row + "\n")
        with pytest.raises(DataError, match=message):
            list_cells(CellTraining(data=table.with_name("bad.csv"), images=tmp_path / "images"))
    table.write_text("NAME,x1,y1,x2,y2\na,1,2,3,4\n")
    with pytest.raises(DataError, match="missing: class"):
        list_cells(CellTraining(data=table))


def test_a_table_gives_groups_and_its_own_resolution(folders: Path, tmp_path: Path) -> None:
    table = tmp_path / "cells.csv"
    rows = [f"{name}/{k:03d}.png,{name},P{k % 5},L1,{MPP}" for name in COLOURS for k in range(20)]
    table.write_text("\n".join(["path,class,patient,centre,mpp", *rows]))
    listing = list_cells(CellTraining(data=table, images=folders))
    assert {e.patient for e in listing.examples} == {f"P{k}" for k in range(5)}
    assert {e.mpp for e in listing.examples} == {MPP}
    table.write_text(f"path,class,mpp\n{'lymphocyte/000.png'},lymphocyte,-1\n")
    with pytest.raises(DataError, match="line 2: -1 um per pixel"):
        list_cells(CellTraining(data=table, images=folders))


def _one_image(root: Path) -> None:
    for path in sorted((root / "eosinophil").iterdir())[1:]:
        path.unlink()


def _one_class(root: Path) -> None:
    for path in (root / "eosinophil").iterdir():
        path.unlink()
    (root / "eosinophil").rmdir()


def _unknown(root: Path) -> None:
    (root / "hairy").mkdir()
    Image.fromarray(cell("eosinophil", 99)).save(root / "hairy" / "1.png")


def _twice(root: Path) -> None:
    Image.open(root / "eosinophil" / "001.png").save(root / "lymphocyte" / "copy.png")


def _broken(root: Path) -> None:
    (root / "lymphocyte" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")


def _empty(root: Path) -> None:
    (root / "monocyte").mkdir()


def _tiny(root: Path) -> None:
    Image.fromarray(cell("eosinophil", 5)[:8, :8]).save(root / "eosinophil" / "tiny.png")


@pytest.mark.parametrize(
    ("spoil", "message", "way_out"),
    [
        (_one_image, r"too few images of eosinophil \(1\)", None),
        (_one_class, "only lymphocyte found", None),
        (_unknown, r"no classes of taxonomy pbc-blast: hairy \(1\)", {"ignore_unknown_labels": True}),
        (_twice, r"001.png \(eosinophil\) = lymphocyte/copy.png \(lymphocyte\)", {"drop_conflicts": True}),
        (_broken, "1 images cannot be read: lymphocyte/broken.png", {"skip_unreadable": True}),
        (_empty, "no image .* in monocyte", None),
        (_tiny, r"too small for their resolution: eosinophil/tiny.png \(8 x 8 px, 4 x 4 um\)", None),
    ],
)
def test_what_is_wrong_is_named(
    spoil: Callable[[Path], None], message: str, way_out: dict[str, bool] | None, tmp_path: Path
) -> None:
    root = class_folders(tmp_path / "cells", each=8)
    spoil(root)
    request = CellTraining(data=root, mpp=MPP, epochs=1)
    with pytest.raises(DataError, match=message):
        _train(request, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))
    if way_out is not None:
        weights = _train(replace(request, **way_out), tmp_path / "out")
        assert any("left out" in note for note in json.loads((tmp_path / "out" / "metrics.json").read_text())["notes"])
        assert weights.exists()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"mpp": -0.1}, DataError, "--mpp: -0.1 um per pixel"),
        ({"mpp": 40.0}, DataError, "--mpp: 40 um per pixel"),
        ({}, DataError, "40 images state no microns per pixel"),
        ({"mpp": MPP, "model": ModelChoice(name="nonsense")}, ModelError, "no network 'nonsense'"),
        ({"mpp": MPP, "labels": Path("x.geojson")}, ConfigError, "is none"),
        ({"mpp": MPP, "taxonomy": "nonsense"}, ConfigError, "nonsense"),
        ({"mpp": MPP, "group": "ward"}, DataError, "--group ward"),
    ],
)
def test_requests_that_cannot_be_met(
    folders: Path, tmp_path: Path, settings: dict[str, object], error: type[WsiPipelineError], message: str
) -> None:
    with pytest.raises(error, match=message):
        _train(CellTraining(data=folders, **settings), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: CellTraining(data=Path(), folds=1),
        lambda: CellTraining(data=Path(), folds=3, fold=3),
        lambda: CellTraining(data=Path(), name="pbc-blast"),
        lambda: CellTraining(data=Path(), epochs=3, model=ModelChoice(name="features+svm")),
        lambda: ModelChoice(name="compact", pretrained=True),
        lambda: ModelChoice(name="dinobloom-s"),
        lambda: ModelChoice(name="resnet18", tune="linear"),
        lambda: Mixing(mixup=-1.0),
    ],
)
def test_options_that_contradict_each_other(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError):
        make()
