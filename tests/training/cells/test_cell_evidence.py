"""The evidence file: made beside the weights, read back, refused when it is not theirs, used to explain cells."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from own_cell_images import MPP, RECIPE, cell, class_folders
from typer.testing import CliRunner

from wsi_pipeline.cells.classifier import CellClassifier, load_classifier
from wsi_pipeline.cells.evidence import COLUMNS, Evidence, columns_of
from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import DataError, MissingWeightsError, ModelError
from wsi_pipeline.training.cells.data import PackedCells
from wsi_pipeline.training.cells.evidence import lay_out, make_evidence_of
from wsi_pipeline.training.cells.held_out import held_out_classes
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.cells.train_own import train_own_cells
from wsi_pipeline.weights import load_weights

LIGHT = np.array([244, 238, 236], np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with its evidence, made by the command."""
    root = tmp_path_factory.mktemp("evidence")
    request = CellTraining(data=class_folders(root / "cells", each=30), mpp=MPP, name="mine", views=4)
    weights = train_own_cells(request, root / "out", recipe=RECIPE, report=lambda _: None)
    shutil.copytree(weights.parent, root / "before")
    result = CliRunner().invoke(app, ["train", "evidence", "--weights", str(weights), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return weights


@pytest.fixture(scope="module")
def evidence(trained: Path) -> Evidence:
    return Evidence.load(load_classifier(trained))


def _windows(classifier: CellClassifier, name: str, n: int = 6) -> np.ndarray:
    side = classifier.window_px
    return np.stack([cell(name, 500 + k, side) for k in range(n)])


def test_the_weights_stay_and_the_card_names_the_file(trained: Path) -> None:
    before = trained.parent.parent / "before" / trained.name
    assert before.read_bytes() == trained.read_bytes()
    card, old = (json.loads(p.with_suffix(".json").read_text()) for p in (trained, before))
    entry = card.pop("evidence")
    assert card == old
    assert entry["file"] == "mine.evidence.safetensors"
    assert (trained.parent / entry["file"]).stat().st_size < 1_500_000
    assert "Evidence for single cells" in trained.with_suffix(".md").read_text()
    assert (trained.parent / "evidence_map.png").is_file()
    assert columns_of(load_weights(before)) == ()
    assert columns_of(load_weights(trained)) == COLUMNS


def test_making_it_again_gives_the_same_bytes_and_one_entry(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "again")
    weights = tmp_path / "again" / trained.name
    make_evidence_of(weights, None, weights.parent, report=lambda _: None)
    name = "mine.evidence.safetensors"
    assert (weights.parent / name).read_bytes() == (trained.parent / name).read_bytes()
    assert weights.with_suffix(".md").read_text() == trained.with_suffix(".md").read_text()


def test_explaining_cells(evidence: Evidence) -> None:
    windows = _windows(evidence.classifier, "eosinophil")
    found = evidence.explain(windows, LIGHT, k=3)
    assert found.answered.tolist() == ["eosinophil"] * 6
    assert (found.agreement == 1).all()
    assert found.neighbours.index.shape == (6, 3)
    assert ((found.place >= 0) & (found.place <= 1)).all()
    assert found.heatmaps.values.max() == 1
    # The class lies in the cell, 13 to 18 px wide, not in the corners of the glass.
    corners = np.concatenate([found.heatmaps.values[:, :5, :5], found.heatmaps.values[:, -5:, -5:]])
    assert found.heatmaps.values[:, 10:22, 10:22].mean() > 2 * corners.mean()
    columns = evidence.columns(evidence.classifier.predict(windows, LIGHT))
    assert tuple(columns) == COLUMNS
    np.testing.assert_array_equal(columns["out_of_distribution"], found.out_of_distribution)
    np.testing.assert_array_equal(columns["map_y"], found.place[:, 1])


def test_what_is_no_cell_is_unusual(evidence: Evidence) -> None:
    cells = np.concatenate([_windows(evidence.classifier, name) for name in ("eosinophil", "lymphocyte")])
    noise = np.random.default_rng(0).integers(0, 255, cells.shape, dtype=np.uint8)
    answers = [evidence.classifier.predict(windows, LIGHT) for windows in (cells, noise)]
    usual, strange = (evidence.out_of_distribution.score(a.p, a.embedding) for a in answers)
    assert np.median(strange) > np.median(usual)
    assert (evidence.columns(answers[1])["out_of_distribution"] > 0.7).all()


def test_without_pictures(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "bare")
    weights = tmp_path / "bare" / trained.name
    make_evidence_of(weights, None, weights.parent, pictures=False, report=lambda _: None)
    assert Evidence.load(load_classifier(weights)).reference.picture(0) is None


def test_files_that_are_not_there_or_not_theirs(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained.parent, tmp_path / "x")
    weights, file = tmp_path / "x" / trained.name, tmp_path / "x" / "mine.evidence.safetensors"
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(MissingWeightsError, match="though the card of"):
        Evidence.of(load_classifier(weights))
    file.write_bytes(whole[:-7])
    with pytest.raises(ModelError, match="damaged or was replaced"):
        Evidence.of(load_classifier(weights))
    before = trained.parent.parent / "before" / trained.name
    assert Evidence.of(load_classifier(before)) is None
    with pytest.raises(MissingWeightsError, match="names no evidence file"):
        Evidence.load(load_classifier(before))
    (tmp_path / "x" / "split.csv").unlink()
    with pytest.raises(DataError, match=r"has no split\.csv"):
        make_evidence_of(weights, None, weights.parent, report=lambda _: None)


def test_held_out_classes_are_never_seen_and_measured(tmp_path: Path) -> None:
    classes = ("eosinophil", "lymphocyte", "monocyte", "basophil")
    looks = {"monocyte": "lymphocyte", "basophil": "eosinophil"}
    names = np.repeat(classes, 40)
    side = RECIPE.side_px
    images = np.stack([cell(looks.get(n, n), k, side) for k, n in enumerate(names.tolist())])
    images[80:] = np.roll(images[80:], 1, axis=3)  # the last two classes have colours of their own
    cells = PackedCells(
        images=images,
        background=np.tile(LIGHT, (160, 1)),
        class_names=names,
        sources=np.full(160, "drawn"),
        digests=np.arange(160).astype(str),
        files=np.arange(160).astype(str),
        fields=np.arange(160),
    )
    split = np.tile(np.repeat(["train", "val", "test"], [22, 6, 12]), 4)
    recipe = replace(RECIPE, epochs=2)
    lines: list[str] = []
    found = held_out_classes(cells, split, classes, tmp_path, recipe=recipe, report=lines.append)
    assert [h.name for h in found] == list(classes)
    for h in found:
        assert h.n == ((cells.class_names == h.name) & (split == "test")).sum()
        assert h.value is not None
        assert 0 <= h.caught_lower <= h.caught <= h.caught_upper <= 1
    lines.clear()
    assert held_out_classes(cells, split, classes, tmp_path, recipe=recipe, report=lines.append) == found
    assert not lines  # nothing is trained twice
    with pytest.raises(DataError, match="needs at least four"):
        held_out_classes(cells, split, classes[:2], tmp_path, recipe=recipe, report=lines.append)


def test_few_cells_are_laid_out_by_principal_components() -> None:
    rng = np.random.default_rng(0)
    few = np.concatenate([rng.normal(size=(12, 6)), rng.normal(5, 1, (12, 6))]).astype(np.float16)
    place, how = lay_out(few)
    assert how == "principal components"
    assert place.min() == 0
    assert place.max() == 1
    apart = np.linalg.norm(place[:12].mean(axis=0) - place[12:].mean(axis=0))
    assert apart > 2 * place[:12].std()
