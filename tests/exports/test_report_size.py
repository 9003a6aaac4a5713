"""Pages stay under 5 MB at the extremes: noise that does not compress, forty classes, crowded fields, many slides."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fake_slide import FakeMpp, FakeSlide, summary, write_summary
from make_cells import FakeClass, FakeTaxonomy, make_cells

from wsi_pipeline.exports.report import write_cohort_report, write_slide_report
from wsi_pipeline.exports.report.charts import Styles
from wsi_pipeline.exports.report.heat import AS_TABLE, heat_map
from wsi_pipeline.exports.report.importance import rank_of, within
from wsi_pipeline.exports.report.slide import GalleryView
from wsi_pipeline.taxonomies import load_taxonomy

MOST_BYTES = 5_000_000
CODES = [f"class_{i}" for i in range(40)]


def test_a_slide_of_noise_with_forty_classes_and_crowded_fields(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    slide = FakeSlide(pixels=rng.integers(0, 255, (1500, 1500, 3), dtype=np.uint8), mpp=FakeMpp(x=0.25, y=0.25))
    cells = make_cells(tmp_path / "cells.parquet", 4500, size_px0=(1500, 1500))
    table = pq.read_table(cells)
    names = pa.array([CODES[i % 40] for i in range(table.num_rows)])
    table = table.set_column(table.schema.get_field_index("class_name"), "class_name", names)
    pq.write_table(table, cells, row_group_size=2000)
    classes = tuple(FakeClass(code=code, name_en=code, name_fr=code, color=(9, 9, 9)) for code in CODES)
    write_summary(tmp_path, summary(dict.fromkeys(CODES, 110)))
    taxonomy = FakeTaxonomy(name="x", classes=classes, roll_ups={"blasts": ("class_7",)})
    write_slide_report(tmp_path, slide=slide, taxonomy=taxonomy, specimen="blood_smear")  # type: ignore[arg-type]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < MOST_BYTES
    assert page.count('<div class="class') == 40
    assert page.index("Class 7 <span") < page.index("Class 0 <span")


def test_a_run_of_two_thousand_slides(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = load_taxonomy("cytologia").codes
    rows, shares, answers = [], [], []
    for i in range(2000):
        name = f"slide-{i:04d}-of-a-cohort"
        rows.append({"slide_id": name, "path": f"/x/{name}.svs", "specimen": "blood_smear",
                     "status": "ok" if i % 3 else "failed", "reason": "" if i % 3 else "unreadable"})  # fmt: skip
        for code, percent in zip(codes, 100 * rng.dirichlet(np.ones(len(codes))), strict=True):
            shares.append({"slide_id": name, "class": code, "count": 9, "percent": round(float(percent), 2)})
        for task in ("smear_diagnosis", "aml", "apl", "mds"):
            answers.append({"slide_id": name, "level": "slide", "subject_id": "", "task": task, "class": "normal",
                            "probability": 0.5, "lower": 0.4, "upper": 0.6, "abstained": "false", "reason": "",
                            "n_cells": 200, "model": "criteria", "trained_on": "criteria"})  # fmt: skip
    for file, table in (("slides.csv", rows), ("differential.csv", shares), ("predictions.csv", answers)):
        with (tmp_path / file).open("w", newline="") as out:
            writer = csv.DictWriter(out, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    (tmp_path / "run.json").write_text(json.dumps({}))
    write_cohort_report(tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) < MOST_BYTES
    assert "1400 further slides: see slides.csv." in page
    assert "heat map of 2000 slides" in page


def test_galleries_are_shortened_alike_and_keep_a_picture() -> None:
    class Part:
        def __init__(self, n: int) -> None:
            self.n = n

        @property
        def weight_bytes(self) -> int:
            return 100 * self.n

        def shortened(self, most: int) -> Part:
            return Part(min(self.n, most))

    assert [part.n for part in within([Part(12), Part(2), Part(7)], 900, 12)] == [3, 2, 3]
    assert [part.n for part in within([Part(12), Part(2)], 10, 12)] == [1, 1]
    assert [part.n for part in within([Part(12)], 1200, 12)] == [12]


def test_classes_that_matter_come_first() -> None:
    marrow = load_taxonomy("matek-marrow")
    kinds = {"red_cell": "red", "platelet": "platelet"}
    codes = ["artefact_object", "red_cell", "lymphocyte", "auer_bundle_promyelocyte", "platelet", "blast"]
    order = sorted(codes, key=lambda code: rank_of(code, kinds.get(code, "white"), marrow, "marrow_smear"))
    assert order == ["auer_bundle_promyelocyte", "blast", "lymphocyte", "red_cell", "platelet", "artefact_object"]
    blood = load_taxonomy("pbc-blast")
    assert rank_of("erythroblast", "white", blood, "blood_smear")[0] == 0
    assert rank_of("erythroblast", "white", blood, "marrow_smear")[0] == 1
    shapes = sorted(("red_cell_normal", "schistocyte"), key=lambda code: rank_of(code, "red", blood, "blood_smear"))
    assert shapes == ["schistocyte", "red_cell_normal"]
    assert GalleryView.__dataclass_fields__["key"].default is False


def test_alike_slides_stand_together() -> None:
    styles = Styles(load_taxonomy("pbc-blast"))
    shares = {
        "a": [("blast", 90.0), ("lymphocyte", 10.0)], "b": [("blast", 2.0), ("lymphocyte", 98.0)],
        "c": [("blast", 88.0), ("lymphocyte", 12.0)], "none": [],
    }  # fmt: skip
    found = heat_map(shares, {"a": "slides/a/report.html"}, styles)
    names = [row.name for row in found.rows]
    assert abs(names.index("a") - names.index("c")) == 1
    assert "none" not in names
    assert [style.code for style in found.classes] == ["blast", "lymphocyte"]
    row = next(row for row in found.rows if row.name == "b")
    assert [(cell.percent, cell.level) for cell in row.cells] == [(2.0, 1), (98.0, 5)]
    assert found.as_table
    assert dict(found.paths)[5].count("M") == 3
    assert not heat_map({str(i): shares["a"] for i in range(AS_TABLE + 1)}, {}, styles).as_table
