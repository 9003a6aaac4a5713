"""A smear counted up to a target of white cells: the same fields and bytes however the work is cut or spread."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from test_pipeline import Dying, Stopped, arguments, assert_identical, blocks_of, results, run_here, serial

from wsi_pipeline import cohort
from wsi_pipeline.regions import Field, FieldSet
from wsi_pipeline.regions.fields import FIRST_WAVE_FIELDS, battlement
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.slides import open_slide
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.weights import shipped_weights

pytestmark = pytest.mark.skipif("pbc-blast" not in shipped_weights(), reason="no classifier is shipped")

SIDE_UM = 32
TARGET = 15
SETTINGS: dict[str, Any] = {
    "cells.classifier": "pbc-blast", "cells.chunk_cells": 64, "exports.report": False, "regions.field_um": SIDE_UM,
    "regions.target_white_cells": TARGET, "segmentation.precision": "fp32",
}  # fmt: skip
"""Processors without instructions for bf16 take six times as long for it."""


@pytest.fixture(scope="module")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual smear of 8 x 6 fields of 32 um, rich in white cells."""
    path = tmp_path_factory.mktemp("smear") / "rich.tiff"
    make_virtual_slide(path, profile="aml", size_px=(1040, 790), seed=7)
    return path


@pytest.fixture(scope="module")
def counted(smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run in this process, of one block."""
    out = tmp_path_factory.mktemp("counted")
    run_here([smear], out, SETTINGS)
    return out


@pytest.fixture(scope="module")
def exhausted(smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose target is beyond what the smear holds."""
    out = tmp_path_factory.mktemp("exhausted")
    run_here([smear], out, {**SETTINGS, "regions.target_white_cells": 10_000})
    return out


def summary_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "slides" / "rich" / "summary.json").read_text(encoding="utf-8")))


def cells_of(out: Path) -> Any:
    return pq.read_table(out / "slides" / "rich" / "cells.parquet").drop_columns(["block"])


def owners(cells: Any, fields: list[Field]) -> np.ndarray:
    chosen = FieldSet(fields=tuple(fields), side_um=SIDE_UM, mpp=0.25)
    return chosen.owner(cells.column("seed_x").to_numpy(), cells.column("seed_y").to_numpy())


ORDER = battlement([Field(column=c, row=r) for r in range(6) for c in range(8)], "x")


def test_the_shortest_prefix_that_reaches_the_target_is_taken(counted: Path, exhausted: Path) -> None:
    """Judged by the cells of a run over all fields: what a cell is does not depend on where the count stops."""
    everything = cells_of(exhausted)
    countable = load_taxonomy("pbc-blast").countable("blood_smear")
    owner = owners(everything, ORDER)
    assert owner.min() == 0
    counts = np.bincount(owner[np.isin(everything.column("class_name").to_numpy(), countable)], minlength=len(ORDER))
    n = int(np.argmax(np.cumsum(counts) >= TARGET)) + 1
    assert FIRST_WAVE_FIELDS < n < len(ORDER), "the slide should need a second wave and not be used up"
    assert cells_of(counted).equals(everything.filter(owner < n))
    summary = summary_of(counted)
    assert summary["denominator"]["n"] == counts[:n].sum()
    assert summary["regions"]["target"] == {
        "white_cells": TARGET, "found": counts[:n].sum(), "reached": True, "computed": 40
    }  # fmt: skip
    assert summary["regions"]["fields"]["chosen"] == n
    assert summary["n_cells"] == len(cells_of(counted))
    assert summary["area_mm2"] == pytest.approx(n * SIDE_UM**2 * 1e-6)
    assert summary["warnings"] == []


def test_regions_say_what_was_counted(counted: Path, smear: Path) -> None:
    features = json.loads((counted / "slides" / "rich" / "regions.geojson").read_text(encoding="utf-8"))["features"]
    areas: dict[str, float] = {}
    for feature in features:
        reason = feature["properties"]["metadata"]["reason"]
        areas[reason] = areas.get(reason, 0) + shapely.from_geojson(json.dumps(feature["geometry"])).area
    n = summary_of(counted)["regions"]["fields"]["chosen"]
    assert areas.keys() == {"all", "beyond-target", "partial-field"}
    assert areas["all"] / 128**2 == pytest.approx(n)
    assert areas["beyond-target"] / 128**2 == pytest.approx(48 - n)
    with open_slide(smear) as slide:
        assert sum(areas.values()) == pytest.approx(slide.dimensions[0] * slide.dimensions[1])


def test_a_target_that_is_not_reached_is_said(exhausted: Path, counted: Path) -> None:
    summary = summary_of(exhausted)
    target = summary["regions"]["target"]
    assert target["reached"] is False
    assert target["computed"] == summary["regions"]["fields"]["chosen"] == 48
    (warning,) = summary["warnings"]
    assert "asks for 10000 white cells" in warning
    assert f"48 fields that can be counted hold {target['found']}" in warning
    assert summary["status"] == "ok"
    assert target["found"] > summary_of(counted)["regions"]["target"]["found"]


def test_fields_and_cells_do_not_depend_on_the_core_size(smear: Path, counted: Path, tmp_path: Path) -> None:
    expected = results(counted, "rich")
    for core_px, least in ((512, 2), (1024, 1)):
        run_here([smear], tmp_path / str(core_px), {**SETTINGS, "tiling.core_px": core_px})
        assert_identical(results(tmp_path / str(core_px), "rich"), expected, f"core {core_px} against one block")
        assert summary_of(tmp_path / str(core_px))["regions"] == summary_of(counted)["regions"]
        assert len(blocks_of(tmp_path / str(core_px), "rich")) >= least


def test_two_workers_on_the_command_line_give_the_same(smear: Path, counted: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "wsi_pipeline.cli.main", "run", str(smear), "--out", str(tmp_path / "out"),
        *arguments({**SETTINGS, "tiling.core_px": 512, "runtime.workers": 2}),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    assert_identical(results(tmp_path / "out", "rich"), results(counted, "rich"), "two workers against this process")


def test_a_run_stopped_after_every_task_ends_identical(smear: Path, counted: Path, tmp_path: Path) -> None:
    stops = 0
    for tasks in range(1, 60):
        try:
            with serial(lambda tasks=tasks: Dying(tasks)):
                cohort.run_cohort([smear], tmp_path, overrides={**SETTINGS, "tiling.core_px": 512})
            break
        except Stopped:
            stops += 1
    assert stops >= 12
    assert_identical(results(tmp_path, "rich"), results(counted, "rich"), "stopped after every task")


def test_a_smear_without_good_fields_is_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from test_pipeline import write_white

    with caplog.at_level(logging.WARNING):
        (summary,) = run_here([write_white(tmp_path / "white.tiff")], tmp_path / "out", SETTINGS).summaries
    assert (summary["status"], summary["reason"]) == ("empty", "poor-field")
    assert summary["regions"]["target"] == {"white_cells": TARGET, "found": 0, "reached": False, "computed": 0}
    assert len(pq.read_table(tmp_path / "out" / "slides" / "white" / "cells.parquet")) == 0
