"""CytologIA's images answered by the pipeline: on pictures of real cells with known boxes and classes."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from typer.testing import CliRunner, Result

from wsi_pipeline.cells.classifier import CellClassifier, load_classifier
from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.cytologia import cytologia_score, giou, read_boxes
from wsi_pipeline.evaluation.cytologia_images import (
    challenge_answers,
    challenge_codes,
    in_challenge_codes,
    list_images,
)
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.slides import open_slide
from wsi_pipeline.taxonomies import load_taxonomy, map_taxonomy
from wsi_pipeline.units import Box

HEADER = "NAME,x1,y1,x2,y2,class"
SIDE, MPP = 300, 0.25


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``truth.csv`` and ``images``: windows of a virtual slide, all complete white cells boxed."""
    folder = tmp_path_factory.mktemp("challenge")
    slide_path = folder / "slide.tiff"
    make_virtual_slide(slide_path, profile="normal", size_px=2 * SIDE, seed=8, mpp=MPP)
    codes, to_challenge = challenge_codes(), map_taxonomy("pbc-blast", "cytologia")
    with slide_path.with_name("slide.truth.csv").open(encoding="utf-8", newline="") as file:
        white = [row for row in csv.DictReader(file) if row["kind"] == "white"]
    (folder / "images").mkdir()
    rows = []
    with open_slide(slide_path) as slide:
        for number, (x, y) in enumerate(((0, 0), (SIDE, 0), (0, SIDE), (SIDE, SIDE))):
            boxes = []
            for row in white:
                box = np.array(shapely.from_wkt(row["outline"]).bounds) - [x, y, x, y]
                if box.min() >= 0 and box.max() <= SIDE:
                    label = codes[to_challenge[row["class"]]]
                    boxes.append([f"field{number}.png", *(f"{v:.1f}" for v in box), label])
            if boxes:
                pixels = slide.read(Box(x0=x, y0=y, x1=x + SIDE, y1=y + SIDE), MPP)
                Image.fromarray(pixels).save(folder / "images" / f"field{number}.png")
                rows += boxes
    assert len(rows) > 4
    with (folder / "truth.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER.split(","), *rows])
    return folder


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", "cytologia", *map(str, words)])


def test_one_command_finds_types_and_scores(challenge: Path, tmp_path: Path) -> None:
    truth = challenge / "truth.csv"
    result = command("--truth", truth, "--images", challenge / "images", "--mpp", MPP, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["box_part"] > 0.9
    assert metrics["accuracy"] > 0.8
    assert metrics["out_of_reach"] == []
    assert set(metrics["without_counterpart"]) == {"blast", "artefact"}
    assert metrics["classifier"]["model"] == "pbc-blast"
    assert f"score: {metrics['score']:.4f}" in (tmp_path / "table.txt").read_text()
    # The answers are a file of the challenge's form: scored by themselves they give the same.
    answers = read_boxes(tmp_path / "predictions.csv")
    again = cytologia_score(read_boxes(truth), answers)
    assert again.score == pytest.approx(metrics["score"], abs=1e-3)
    assert (tmp_path / "predictions.csv").read_text().startswith("NAME,x1,y1,x2,y2,class,score\nfield")
    assert answers.corners.min() >= 0
    assert answers.corners.max() <= SIDE
    assert 0 < answers.score.min() <= answers.score.max() <= 1


def test_the_resolution_is_asked_for_or_read_from_the_truth(challenge: Path, tmp_path: Path) -> None:
    truth = challenge / "truth.csv"
    with pytest.raises(DataError, match=r"no column mpp.*give --mpp"):
        list_images(truth, challenge / "images", None)
    lines = truth.read_text().splitlines()
    with_mpp = tmp_path / "truth.csv"
    with_mpp.write_text("\n".join([f"{HEADER},mpp", *(f"{line},{MPP}" for line in lines[1:])]))
    listed = list_images(with_mpp, challenge / "images", None)
    assert {image.mpp for image in listed} == {MPP}
    assert [image.name for image in listed] == list(dict.fromkeys(line.split(",")[0] for line in lines[1:]))


@pytest.fixture(scope="module")
def classifier() -> CellClassifier:
    return load_classifier("pbc-blast")


def test_classes_become_the_challenges_where_they_mean_one_of_them(classifier: CellClassifier) -> None:
    p = np.full((3, len(classifier.classes)), 0.01, np.float32)
    place = classifier.classes.index
    # Two classes of neutrophils together outweigh the lymphocyte; neither does alone.
    p[0, [place("band_neutrophil"), place("segmented_neutrophil"), place("lymphocyte")]] = 0.26, 0.26, 0.39
    p[1, [place("blast"), place("artefact"), place("lymphocyte")]] = 0.3, 0.3, 0.31
    p[2, place("blast")] = 0.88
    labels, score = challenge_answers(p, classifier)
    # Classes without a counterpart are not added up, and a blast is not turned into one of four kinds.
    assert labels == ("PNN", "LY", "blast")
    assert score == pytest.approx([0.52, 0.31, 0.88])


def test_the_truth_may_have_codes_or_our_names(tmp_path: Path) -> None:
    path = tmp_path / "truth.csv"
    path.write_text(f"{HEADER}\na,0,0,1,1,PNN\na,0,0,1,1,neutrophil\nb,0,0,1,1,lh_lyact\n")
    assert in_challenge_codes(read_boxes(path), path).label == ("PNN", "PNN", "LH_lyAct")
    path.write_text(f"{HEADER}\na,0,0,1,1,WBC\n")
    with pytest.raises(DataError, match="'WBC' is no class of CytologIA; its classes are PNN, LY, MO"):
        in_challenge_codes(read_boxes(path), path)
    assert len({challenge_codes()[c] for c in load_taxonomy("cytologia").classifier_classes}) == 23


def test_images_that_are_not_there_or_broken_are_named_before_any_work(challenge: Path, tmp_path: Path) -> None:
    truth, images = tmp_path / "truth.csv", tmp_path / "images"
    truth.write_text(f"{HEADER}\nfield0.png,0,0,9,9,PNN\ngone.png,0,0,9,9,LY\n")
    images.mkdir()
    (images / "field0.png").write_bytes((challenge / "images" / "field0.png").read_bytes()[:500])
    with pytest.raises(DataError, match=r"1 images do not exist in .*: gone\.png"):
        list_images(truth, images, lambda _: MPP)
    truth.write_text(f"{HEADER}\nfield0,0,0,9,9,PNN\n")
    with pytest.raises(DataError, match=r"1 images cannot be read: field0\.png"):
        list_images(truth, images, lambda _: MPP)
    with pytest.raises(DataError, match="25 um per pixel is outside 0.02 to 2"):
        list_images(truth, images, lambda _: 25.0)
    with pytest.raises(DataError, match="is not a folder"):
        list_images(truth, tmp_path / "none", lambda _: MPP)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "either --predictions or --images"),
        (("--predictions", "p.csv", "--images", "images"), "either --predictions or --images"),
        (("--predictions", "p.csv", "--mpp", "0.1", "--weights", "pbc-blast"), "--weights, --mpp only with --images"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: tuple[str, ...], said: str) -> None:
    result = command("--truth", "t.csv", *options)
    assert result.exit_code != 0
    assert said in f"{result.output}{result.exception}"


@pytest.mark.data
def test_single_cells_of_another_laboratory(data_root: Path, tmp_path: Path) -> None:
    """Boxes of masks; classes by their authors. The stain is not the classifier's, so only the boxes are good."""
    source, codes = data_root / "wbc-masks", {"1": "PNN", "2": "LY", "3": "MO", "4": "EO", "5": "BA"}
    with (source / "classes.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["image ID"]) % 15 == 0]
    lines = [HEADER]
    for row in rows:
        name = f"{int(row['image ID']):03d}.png"
        y, x = np.nonzero(np.asarray(Image.open(source / "masks" / name).convert("L")) > 64)
        lines.append(f"{name},{x.min()},{y.min()},{x.max() + 1},{y.max() + 1},{codes[row['class label']]}")
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    result = command(
        "--truth", tmp_path / "truth.csv", "--images", source / "images", "--mpp", 0.17, "--out", tmp_path
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert len(lines) == 21
    assert metrics["box_part"] > 0.9


@pytest.mark.data
def test_white_cells_among_red_ones_are_boxed(data_root: Path, tmp_path: Path) -> None:
    """Fields of BCCD: its boxes are of white cells without a class, so only the boxes are looked at."""
    lines = [HEADER]
    for path in sorted((data_root / "bccd" / "boxes").glob("*.xml"))[:12]:
        for cell in ET.parse(path).getroot().iter("object"):
            if cell.findtext("name") == "WBC":
                box = [float(cell.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
                lines.append(f"{path.stem},{','.join(map(str, box))},white_cell")
    (tmp_path / "truth.csv").write_text("\n".join(lines))
    result = command(
        "--truth", tmp_path / "truth.csv", "--images", data_root / "bccd" / "fields", "--mpp", 0.073, "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    truth, answers = read_boxes(tmp_path / "truth.csv"), read_boxes(tmp_path / "predictions.csv")
    best = [
        max(giou(box[None], answers.corners[[name == a for a in answers.image]])[0], default=-1.0)
        for name, box in zip(truth.image, truth.corners, strict=True)
    ]
    assert len(best) >= 12
    assert np.mean(np.array(best) > 0.5) > 0.9
    assert json.loads((tmp_path / "metrics.json").read_text())["out_of_reach"] == ["white_cell"]
