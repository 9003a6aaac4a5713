"""Classes corrected in QuPath, brought back to a run's cells; files of other slides are refused."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "exports"))

from make_run import make_run
from qupath_run import add_regions

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.exports.finished_run import FinishedRun, locate_slides, read_finished_run
from wsi_pipeline.exports.qupath_project import export_slide
from wsi_pipeline.training.cells.corrections import read_run
from wsi_pipeline.training.qupath.labels import Label, SlideSummary, import_corrections, write_labels


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the run of two slides and its export for QuPath."""
    folder = tmp_path_factory.mktemp("whole")
    run = make_run(folder / "run", n_cells=120)
    add_regions(run)
    for slide in read_finished_run(run).slides:
        export_slide(slide, slide.path, folder / "q")
    return folder


@pytest.fixture
def run(whole: Path) -> FinishedRun:
    return read_finished_run(whole / "run")


def exported(whole: Path, slide_id: str = "a") -> list[dict[str, Any]]:
    """Return the features of a slide as QuPath writes them: no measurements, the region among them."""
    features = json.loads(gzip.decompress((whole / "q" / slide_id / "qupath.geojson.gz").read_bytes()))["features"]
    for feature in features:
        feature["properties"].pop("measurements", None)
    return features


def save(path: Path, features: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}, indent=2))
    return path


def back(run: FinishedRun, *sources: Path, **options: Any) -> tuple[list[Label], list[SlideSummary]]:
    return import_corrections(run, sources, locate=lambda slide: locate_slides([slide])[slide.slide_id], **options)


def was(whole: Path, slide_id: str = "a") -> dict[str, str]:
    table = pq.read_table(whole / "run" / "slides" / slide_id / "cells.parquet", columns=["cell_id", "class_name"])
    return dict(zip(table["cell_id"].to_pylist(), table["class_name"].to_pylist(), strict=True))


def set_class(feature: dict[str, Any], name: str) -> None:
    feature["properties"]["classification"] = {"name": name, "color": [9, 9, 9]}


def test_kept_changed_deleted_and_unmatched_are_told_apart(whole: Path, run: FinishedRun, tmp_path: Path) -> None:
    before = was(whole)
    region, *cells = exported(whole)
    typed = [f for f in cells if before[f["id"]] in ("lymphocyte", "monocyte", "blast")]
    for feature in typed[:3]:
        set_class(feature, "eosinophil")
    typed[3]["properties"].pop("classification")
    gone = cells.pop()["id"]
    cells.append({**typed[4], "id": str(uuid.uuid4()), "geometry": {"type": "Polygon", "coordinates": [
        [[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]]]}})  # fmt: skip
    labels, (summary,) = back(run, save(tmp_path / "whatever.geojson", [region, *cells]))
    found = {label.cell_id: label for label in labels}
    assert [found[f["id"]].label for f in typed[:3]] == ["eosinophil"] * 3
    assert [found[f["id"]].was for f in typed[:3]] == [before[f["id"]] for f in typed[:3]]
    assert typed[3]["id"] not in found
    assert gone not in found
    assert (summary.changed, summary.without_class, summary.deleted, summary.unmatched) == (3, 1, 1, 1)
    assert summary.kept == len(labels) - 3
    assert summary.changed + summary.kept + summary.not_typed + summary.without_class + summary.deleted == 120
    assert sum(summary.changes.values()) == 3
    assert "red_cell" not in {label.label for label in labels}
    assert [label.cell_id for label in labels] == [cell for cell in before if cell in found], "in the table's order"
    only, _ = back(run, tmp_path / "whatever.geojson", changed_only=True)
    assert {label.cell_id for label in only} == {f["id"] for f in typed[:3]}


def test_objects_without_their_ids_are_matched_by_overlap(whole: Path, run: FinishedRun, tmp_path: Path) -> None:
    before = was(whole)
    _, *cells = exported(whole)
    fresh = [{**feature, "id": str(uuid.uuid4())} for feature in cells]
    labels, (summary,) = back(run, save(tmp_path / "a.geojson", fresh))
    assert summary.by_overlap == len(labels) > 0
    assert all(label.match == "overlap" for label in labels)
    # Overlapping outlines of the fixture may take each other's place; hardly any may.
    assert sum(before[label.cell_id] == label.label for label in labels) > 0.9 * len(labels)


def test_files_of_other_slides_are_refused(whole: Path, run: FinishedRun, tmp_path: Path) -> None:
    region, *cells = exported(whole)
    foreign = json.loads(json.dumps(region))
    foreign["properties"]["metadata"]["fingerprint"] = "ab" * 32
    with pytest.raises(DataError, match=r"of another slide: its fingerprint is abababababab\.\.\."):
        back(run, save(tmp_path / "a.geojson", [foreign, *cells]))
    fresh = [{**feature, "id": str(uuid.uuid4())} for feature in cells]
    with pytest.raises(DataError, match=r"only \d+ of 120 objects lie on cells of slide b"):
        back(run, save(tmp_path / "b.geojson", fresh))
    with pytest.raises(DataError, match="does not say of which slide it is"):
        back(run, save(tmp_path / "scan.geojson", fresh))
    far = json.loads(json.dumps(fresh[0]))
    far["geometry"]["coordinates"] = [[[x + 9000, y] for x, y in far["geometry"]["coordinates"][0]]]
    with pytest.raises(DataError, match=r"object 1 lies at \d+, \d+, outside slide a \(1300 x 1100 pixels\)"):
        back(run, save(tmp_path / "a.geojson", [cells[0], far]))
    other = exported(whole, "b")
    with pytest.raises(DataError, match="objects of several slides"):
        back(run, save(tmp_path / "a.geojson", [*cells, other[1]]))
    with pytest.raises(DataError, match="contradicts itself"):
        back(run, save(tmp_path / "a.geojson", [other[0], *cells]))


def test_renamed_classes_are_asked_for(whole: Path, run: FinishedRun, tmp_path: Path) -> None:
    before = was(whole)
    region, *cells = exported(whole)
    chosen = [f for f in cells if before[f["id"]] == "monocyte"]
    for feature in chosen:
        set_class(feature, "Monocytes!")
    path = save(tmp_path / "a.geojson", [region, *cells])
    with pytest.raises(DataError, match=rf"'Monocytes!', {len(chosen)} cells \(nearest: monocyte\).*--rename"):
        back(run, path)
    labels, (summary,) = back(run, path, rename={"Monocytes!": "monocyte"})
    assert summary.changed == 0
    assert sum(label.label == "monocyte" for label in labels) == len(chosen)
    labels, (summary,) = back(run, path, rename={"Monocytes!": ""})
    assert summary.without_class == len(chosen)
    assert all(label.label != "monocyte" for label in labels)
    with pytest.raises(ConfigError, match=r"'monocytt' is no class \(nearest: monocyte\)"):
        back(run, path, rename={"Monocytes!": "monocytt"})
    with pytest.raises(ConfigError, match="no object has the class 'Other'"):
        back(run, path, rename={"Other": "monocyte", "Monocytes!": "monocyte"})


def test_one_cell_with_two_classes_is_refused(whole: Path, run: FinishedRun, tmp_path: Path) -> None:
    _, *cells = exported(whole)
    again = json.loads(json.dumps(cells[0]))
    set_class(again, "blast" if cells[0]["properties"]["classification"]["name"] != "blast" else "monocyte")
    with pytest.raises(DataError, match="has the classes"):
        back(run, save(tmp_path / "a.geojson", [*cells, again]))
    (tmp_path / "two").mkdir()
    save(tmp_path / "two" / "a.geojson", cells)
    save(tmp_path / "two" / "a.more.geojson", [again])
    with pytest.raises(DataError, match="has the classes"):
        back(run, tmp_path / "two")


def test_what_is_no_geojson_is_named(whole: Path, run: FinishedRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        back(run, tmp_path / "none.geojson")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="files that end in"):
        back(run, tmp_path / "a.txt")
    with pytest.raises(DataError, match="holds no file"):
        back(run, tmp_path)
    (tmp_path / "slides.json").write_text("[]")
    with pytest.raises(DataError, match=r"export\.groovy in QuPath, and give the folder .*corrected"):
        back(run, tmp_path)
    with pytest.raises(DataError, match="holds no cells"):
        back(run, save(tmp_path / "a.geojson", exported(whole)[:1]))


def test_labels_are_taken_by_training(whole: Path, run: FinishedRun, tmp_path: Path) -> None:
    region, *cells = exported(whole)
    labels, summaries = back(run, save(tmp_path / "a.geojson", [region, *cells]))
    beside = write_labels(tmp_path / "labels.csv", labels, summaries)
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["cell_id"] for row in rows] == [label.cell_id for label in labels]
    assert json.loads(beside.read_text())["labels"] == len(labels)
    slides_csv = whole / "run" / "slides.csv"
    text = slides_csv.read_text()
    rows = list(csv.DictReader(text.splitlines()))
    try:
        with slides_csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "mpp"])
            writer.writeheader()
            writer.writerows([{**row, "mpp": 0.25} for row in rows])
        listing = read_run(whole / "run", tmp_path / "labels.csv")
    finally:
        slides_csv.write_text(text)
    assert {e.name.partition("/")[2]: e.label for e in listing.examples} == {x.cell_id: x.label for x in labels}
