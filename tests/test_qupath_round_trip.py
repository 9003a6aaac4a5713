"""Run, correct twenty cells in QuPath's GeoJSON, import, train, run again: the corrections are used and counted."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.taxonomies import load_taxonomy

CORRECTED = 20


@pytest.mark.usefixtures("in_this_process")
def test_twenty_corrected_cells_come_back(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    slide, run = tmp_path / "smear.tiff", tmp_path / "run"
    make_virtual_slide(slide, profile="aml", size_px=800, seed=4)
    quick = ("--set", "exports.report=false", "--set", "cells.red_classifier=null")
    assert command("run", slide, "--out", run, *quick)[0] == 0
    assert command("export", "qupath", run)[0] == 0

    # As QuPath writes it: all objects of the slide, indented, measurements left out.
    collection = json.loads(gzip.decompress((run / "qupath" / "smear" / "qupath.geojson.gz").read_bytes()))
    names = {cell.name_en: cell.code for cell in load_taxonomy("pbc-blast").classes}
    white = []
    for feature in collection["features"]:
        feature["properties"].pop("measurements", None)
        code = names.get(feature["properties"]["classification"]["name"])
        if code in load_taxonomy("pbc-blast").classifier_classes and code not in ("monocyte", "platelet"):
            white.append(feature)
    assert len(white) >= CORRECTED
    for feature in white[:CORRECTED]:
        feature["properties"]["classification"] = {"name": "monocyte", "color": [70, 80, 90]}
    corrected = {feature["id"] for feature in white[:CORRECTED]}
    (run / "qupath" / "corrected").mkdir()
    (run / "qupath" / "corrected" / "smear.geojson").write_text(json.dumps(collection, indent=2))

    labels = tmp_path / "labels.csv"
    status, said, _ = command("import", "qupath", run / "qupath" / "corrected", "--run", run, "--out", labels)
    assert status == 0
    assert f"smear: {CORRECTED} changed" in said
    rows = list(csv.DictReader(labels.read_text().splitlines()))
    assert {row["cell_id"] for row in rows if row["label"] != row["was"]} == corrected
    assert {row["label"] for row in rows if row["cell_id"] in corrected} == {"monocyte"}

    trained = tmp_path / "trained"
    options = ("--model", "wnet5", "--epochs", "2", "--drop-rare", "--group", "near-duplicate", "--name", "mine")
    assert command("train", "cells", "--data", run, "--labels", labels, "--out", trained, *options)[0] == 0
    card = json.loads((trained / "mine.json").read_text())
    assert f"{CORRECTED} of {len(rows)} labels differ from what the run answered" in json.dumps(card)

    again, model = tmp_path / "again", trained / "mine.safetensors"
    assert command("run", slide, "--out", again, "--set", f"cells.classifier={model}", *quick)[0] == 0
    summary = json.loads((again / "slides" / "smear" / "summary.json").read_text())
    assert summary["provenance"]["cell classifier"] == "mine"
    table = pq.read_table(again / "slides" / "smear" / "cells.parquet", columns=["cell_id", "kind", "class_name"])
    assert corrected <= set(table["cell_id"].to_pylist()), "ids stay"
    typed = Counter(table.filter(pc.equal(table["kind"], "white"))["class_name"].to_pylist())
    assert set(typed) <= set(card["classes"])
    counted = {row["class"]: row["count"] for row in summary["differential"] if row["count"]}
    assert {code: counted.get(code) for code in typed} == dict(typed)
