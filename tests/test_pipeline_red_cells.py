"""Red cells through a whole run: named in the table, counted in red_cells.csv, shown in the report."""

from __future__ import annotations

import csv
import json
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from wsi_pipeline import cohort
from wsi_pipeline.errors import MissingWeightsError
from wsi_pipeline.predictions.intervals import wilson
from wsi_pipeline.predictions.red_cells import RED_CELL_COLUMNS
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.taxonomies import load_taxonomy

SETTINGS: dict[str, Any] = {"cells.classifier": None, "exports.report": True}
SHAPES = load_taxonomy("red-cells").codes


def run(slide: Path, out: Path, settings: dict[str, Any] | None = None, *, serial: pytest.MonkeyPatch) -> Path:
    """Run a slide in this process and return its folder."""

    @contextmanager
    def executor(_cluster: str, _config: Any) -> Any:
        yield SerialExecutor()

    serial.setattr(cohort, "open_executor", executor)
    cohort.run_cohort([slide], out, overrides={**SETTINGS, **(settings or {})}).raise_failed()
    return out / "slides" / slide.stem


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "red_cells.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert tuple(reader.fieldnames or ()) == RED_CELL_COLUMNS
    return rows


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("red") / "smear.tiff"
    make_virtual_slide(path, profile="normal", size_px=(800, 600), seed=11)
    return path


@pytest.fixture(scope="module")
def folder(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return run(slide, tmp_path_factory.mktemp("out"), {"predictions.min_red_cells": 50}, serial=patch)


def test_the_table_counts_the_named_cells_of_the_cell_table(folder: Path) -> None:
    table = pq.read_table(folder / "cells.parquet", columns=["kind", "class_name", "truncated"])
    red = [r for r in table.to_pylist() if r["kind"] == "red"]
    named = Counter(r["class_name"] for r in red if r["class_name"] in SHAPES)
    rows = rows_of(folder)
    run_table = folder.parent.parent / "red_cells.csv"
    assert run_table.read_bytes() == (folder / "red_cells.csv").read_bytes()
    n = sum(named.values())
    assert n > 50
    assert {row["class"]: int(row["count"]) for row in rows if row["count"] != "0"} == dict(named)
    assert [row["class"] for row in rows] == list(SHAPES)
    assert not any(r["truncated"] for r in red if r["class_name"] in SHAPES)
    for row in rows:
        low, high = wilson(int(row["count"]), n, 0.95)
        found = [float(row[c]) for c in ("percent", "lower", "upper")]
        assert found == pytest.approx([100 * int(row["count"]) / n, 100 * low, 100 * high], abs=1e-4)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    left_out = summary["red_cells"]["left_out"]
    assert summary["red_cells"]["n"] == n
    assert n + sum(left_out.values()) == len(red) == summary["counts"]["class"]["red_cell"]
    assert sum(summary["red_cells"]["size"]["histogram"]["counts"]) == n
    assert summary["red_cells"]["reason"] != "too-few-red-cells"


def test_the_report_shows_shapes_and_sizes(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "<h2>Red cells</h2>" in text
    for name in ("Schistocyte", "Teardrop cell", "Spherocyte"):
        assert f"{name}</th>" in text
    assert "histogram of red-cell diameters" in text
    assert "Not interpreted: too few red cells" not in text


def test_too_few_red_cells_are_counted_but_not_interpreted(
    slide: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = run(slide, tmp_path, serial=monkeypatch)
    answered, abstained = rows_of(folder), rows_of(few)
    assert [row["count"] for row in abstained] == [row["count"] for row in answered]
    assert not any(row["corrected_percent"] or row["above_false_positives"] for row in abstained)
    summary = json.loads((few / "summary.json").read_text(encoding="utf-8"))["red_cells"]
    assert summary["reason"] == summary["schistocytes"]["reason"] == "too-few-red-cells"
    assert summary["schistocytes"]["answer"] is None
    assert "Not interpreted: too few red cells" in (few / "report.html").read_text(encoding="utf-8")


def test_a_slide_without_cells_has_a_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "white.tiff"
    white = np.full((600, 600, 3), 245, np.uint8)
    tifffile.imwrite(
        path, white, tile=(256, 256), photometric="rgb", resolution=(40000, 40000), resolutionunit="CENTIMETER"
    )
    folder = run(path, tmp_path / "out", serial=monkeypatch)
    assert (folder / "red_cells.csv").read_text(encoding="utf-8") == ",".join(RED_CELL_COLUMNS) + "\n"


def test_without_a_classifier_there_is_no_table_and_red_cells_stay_so(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run(slide, tmp_path, {"cells.red_classifier": None}, serial=monkeypatch)
    assert not (folder / "red_cells.csv").exists()
    assert not (folder.parent.parent / "red_cells.csv").exists()
    names = pq.read_table(folder / "cells.parquet", columns=["class_name"]).column(0).to_pylist()
    assert "red_cell" in names
    assert not set(names) & set(SHAPES)
    assert "<h2>Red cells</h2>" not in (folder / "report.html").read_text(encoding="utf-8")


def test_missing_weights_stop_the_run_before_it_starts(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="my-red-cells"):
        cohort.run_cohort([slide], tmp_path / "out", overrides={**SETTINGS, "cells.red_classifier": "my-red-cells"})
    assert not (tmp_path / "out" / "slides").exists()
