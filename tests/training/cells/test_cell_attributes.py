"""Attributes beside classes: labels with unknowns, the masked loss, training, card, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from own_cell_images import COLOURS, MPP, RECIPE, cell
from PIL import Image
from safetensors.torch import load_file, save_file

from wsi_pipeline.cells.attributes import masked_loss
from wsi_pipeline.cells.classifier import load_classifier
from wsi_pipeline.errors import ConfigError, DataError, ModelError
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.cells.attributes import AttributeLabels, attribute_figures, learnable, read_attributes
from wsi_pipeline.training.cells.mixing import Mixing
from wsi_pipeline.training.cells.models import ModelChoice
from wsi_pipeline.training.cells.own_request import CellTraining
from wsi_pipeline.training.cells.train_own import train_own_cells
from wsi_pipeline.weights import file_sha256

PBC = load_taxonomy("pbc-blast")


@pytest.fixture(scope="module")
def granular(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write cells of two classes, half of them with black granules, and a table; every fourth is not looked at."""
    folder = tmp_path_factory.mktemp("granular")
    rows = []
    for name in COLOURS:
        for k in range(40):
            image, there = cell(name, k), k % 2
            if there:
                for y, x in np.random.default_rng(k).integers(13, 23, (12, 2)):
                    image[y : y + 2, x : x + 2] = 5
            Image.fromarray(image).save(folder / f"{name}{k}.png")
            known = "" if k % 4 == 0 else str(there)
            rows.append({"path": f"{name}{k}.png", "class": name, "attr_large_granules": known,
                         "attr_vacuoles": "1" if name == "lymphocyte" and k == 0 else ""})  # fmt: skip
    with (folder / "cells.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_an_unknown_label_has_no_gradient() -> None:
    logits = torch.zeros(3, 2, requires_grad=True)
    target = torch.tensor([[1, -1], [0, -1], [-1, -1]], dtype=torch.int8)
    loss = masked_loss(logits, target)
    assert loss.item() == pytest.approx(np.log(2))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[-0.25, 0.0], [0.25, 0.0], [0.0, 0.0]]
    assert masked_loss(logits, torch.full((3, 2), -1)).item() == 0


def test_a_training_learns_the_attribute_and_its_card_says_how_well(granular: Path, tmp_path: Path) -> None:
    request = CellTraining(
        data=granular / "cells.csv", mpp=MPP, name="mine", attributes="columns", licence="none", stain="as-is"
    )
    recipe = replace(RECIPE, epochs=14, smudge_share=0.0)
    lines: list[str] = []
    weights = train_own_cells(request, tmp_path / "a", recipe=recipe, report=lines.append)
    assert any("vacuoles (1 with, 0 without)" in line or "vacuoles (0 with" in line for line in lines)
    card = json.loads(weights.with_suffix(".json").read_text())
    assert [entry["code"] for entry in card["attributes"]] == ["large_granules"]
    figures = {figure["name"]: figure for figure in card["metrics"]}
    area = figures["AUROC of large_granules"]
    assert area["value"] > 0.8
    assert 0 < area["n"] < 80
    assert "average precision of large_granules" in figures
    assert any("not calibrated" in text for text in card["fails_on"])
    classifier = load_classifier(weights)
    assert classifier.attributes == ("large_granules",)
    crops = np.full((3, 32, 32, 3), 200, np.uint8)
    answer = classifier.predict(crops, np.array([244, 238, 236], np.uint8), batch_size=2)
    assert answer.attributes is not None
    assert answer.attributes.shape == (3, 1)
    assert ((answer.attributes > 0) & (answer.attributes < 1)).all()
    told = classifier.told_attributes(answer)["large_granules"]
    assert np.isfinite(told).all(), "both classes can have large granules"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if not k.startswith("attributes.")}, weights)
    weights.with_suffix(".json").write_text(json.dumps({**card, "sha256": file_sha256(weights)}))
    with pytest.raises(ModelError, match="disagree on whether it has attributes"):
        load_classifier(weights)


def test_attributes_of_folders_come_from_a_file_of_their_own(granular: Path, tmp_path: Path) -> None:
    path = tmp_path / "looked.csv"
    names, labels = ["a/1.png", "a/2.png", "b/3.png"], np.array(["lymphocyte", "lymphocyte", "platelet"])
    path.write_text("name,atypical_lymphocyte\na/2.png,1\nb/3.png,0\n")
    found = read_attributes(str(path), granular, names, labels, PBC)
    assert found.codes == ("atypical_lymphocyte",)
    assert found.values.tolist() == [[-1], [1], [-1]], "a platelet is no atypical lymphocyte, so nothing is known of it"
    assert found.classes == (("lymphocyte",),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,vacuoles\na,yes\n", r"line 2, vacuoles: 'yes'; 1 \(present\), 0 \(absent\) or nothing"),
        ("name,attr_zebra\na,1\n", "columns of no attribute: attr_zebra; the registry has attr_hypogranular"),
        ("name,colour\na,1\n", "no column of an attribute"),
        ("file,vacuoles\na,1\n", "one of name, path, cell_id is needed"),
        ("name,vacuoles\na,1\na,0\n", "a was named before"),
        ("name,vacuoles\nz,1\n", "1 rows name no cell"),
        ("name,auer_rod\na,1\n", r"auer_rod is said of 1 cells whose class cannot have it: a \(lymphocyte\)"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_attributes(str(path), tmp_path, ["a"], np.array(["lymphocyte"]), PBC)


def test_attributes_need_a_table_a_network_and_whole_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no CSV file; name one"):
        read_attributes("columns", tmp_path, [], np.array([]), PBC)
    with pytest.raises(DataError, match="no CSV file is there"):
        read_attributes(str(tmp_path / "x.csv"), tmp_path, [], np.array([]), PBC)
    refused: list[Callable[[], CellTraining]] = [
        lambda: CellTraining(data=tmp_path, attributes="columns", model=ModelChoice(name="features+svm")),
        lambda: CellTraining(data=tmp_path, attributes="columns", mixing=Mixing(mixup=0.2)),
    ]
    for make in refused:
        with pytest.raises(ConfigError, match="--attributes"):
            make()


def test_an_attribute_that_is_hardly_known_is_left_out_and_figures_count_what_is_known() -> None:
    rng = np.random.default_rng(0)
    values = np.full((60, 2), -1, np.int8)
    values[:40, 0] = np.arange(40) % 2
    values[:3, 1] = 1
    labels = AttributeLabels(codes=("vacuoles", "auer_rod"), values=values, classes=(("monocyte",), ("blast",)))
    kept = learnable(labels, np.array(["train"] * 60))
    assert kept.codes == ("vacuoles",)
    assert "auer_rod (3 with, 0 without)" in kept.notes[0]
    p = (values[:, :1] * 0.5 + rng.random((60, 1)) * 0.4).astype(np.float32)
    area, precision = attribute_figures(kept.values, p, np.arange(60), kept)
    assert (area.n, precision.n, precision.baseline) == (40, 40, 0.5)
    assert area.value is not None
    assert area.value > 0.9
    assert area.lower is not None
    with pytest.raises(DataError, match="no attribute can be learnt"):
        learnable(replace(labels, values=np.full((60, 2), -1, np.int8)), np.array(["train"] * 60))
