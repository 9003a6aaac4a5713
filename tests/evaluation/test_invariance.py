"""Runs that cut a slide differently: which, where on the slide, a real kill, and what is said of them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import shapely
import tifffile
import yaml

from wsi_pipeline.config import PipelineConfig, load_config
from wsi_pipeline.errors import DataError, OutputError
from wsi_pipeline.evaluation import invariance
from wsi_pipeline.evaluation.identical import Difference
from wsi_pipeline.evaluation.invariance import (
    Cut,
    InvarianceResult,
    Scratch,
    choose_square,
    kill_midway,
    measure_invariance,
    plan_cuts,
    prepare_scratch,
)
from wsi_pipeline.evaluation.tables import invariance_metrics, invariance_table
from wsi_pipeline.manifest import list_slides
from wsi_pipeline.regions import read_regions
from wsi_pipeline.slides import Slide, open_slide


def write_slide(path: Path, side: int, stained: tuple[int, int, int, int]) -> Path:
    """Write glass with one rectangle (x0, y0, x1, y1) full of round red cells, 0.25 um per pixel."""
    pixels = np.full((side, side, 3), 240, np.uint8)
    x0, y0, x1, y1 = stained
    along = (np.arange(side) % 40 - 20) ** 2
    cells = along[:, None] + along[None] < 14**2
    pixels[y0:y1, x0:x1][cells[y0:y1, x0:x1]] = (215, 160, 170)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="deflate",
        resolution=(40_000, 40_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    return open_slide(write_slide(tmp_path_factory.mktemp("slide") / "a, slide.tiff", 6000, (1000, 1000, 5500, 5500)))


@pytest.fixture(scope="module")
def config() -> PipelineConfig:
    return load_config("blood_smear", {"regions.all_below_mm2": 0.0})


def test_every_core_with_every_worker_count_the_reference_first_and_one_kill() -> None:
    cuts = plan_cuts([512, 2048, 512], [4, 2, 1])
    assert [(c.core_px, c.workers) for c in cuts if not c.killed] == [
        (core, n) for core in (2048, 512) for n in (1, 2, 4)
    ]
    assert cuts[-1] == Cut(core_px=512, workers=2, killed=True)
    assert plan_cuts([512], [3])[-1].workers == 3
    assert len({cut.name for cut in cuts}) == len(cuts)


# Where it is looked ------------------------------------------------------------------------------------------------


def test_the_square_lies_in_one_block_of_the_largest_core_and_others_cut_it(
    slide: Slide, config: PipelineConfig
) -> None:
    square = choose_square(slide, config, largest_core_px=4096, side_um=None)
    assert square is not None
    assert (square.width, square.height) == (1536, 1536)
    assert square.x0 // 4096 == (square.x1 - 1) // 4096
    for core_px in (512, 1024, 2048):
        assert square.x0 // core_px < (square.x1 - 1) // core_px


def test_the_square_is_where_something_is_stained(tmp_path: Path, config: PipelineConfig) -> None:
    corner = open_slide(write_slide(tmp_path / "corner.tiff", 3000, (100, 2300, 700, 2900)))
    square = choose_square(corner, config, largest_core_px=4096, side_um=100)
    assert square is not None
    assert (square.width, square.height) == (400, 400)
    assert (
        shapely.box(100, 2300, 700, 2900)
        .buffer(20)
        .contains(shapely.Point((square.x0 + square.x1) / 2, (square.y0 + square.y1) / 2))
    )
    assert square.x0 >= 0
    assert square.y1 <= 3000


def test_a_small_slide_is_run_whole(slide: Slide, config: PipelineConfig) -> None:
    assert choose_square(slide, config, largest_core_px=4096, side_um=1500) is None


def test_glass_alone_is_said(tmp_path: Path, config: PipelineConfig) -> None:
    glass = open_slide(write_slide(tmp_path / "glass.tiff", 3000, (0, 0, 0, 0)))
    with pytest.raises(DataError, match="nothing to search"):
        choose_square(glass, config, largest_core_px=4096, side_um=None)


def test_the_scratch_folder_holds_all_that_a_run_needs(slide: Slide, config: PipelineConfig, tmp_path: Path) -> None:
    cut = Cut(core_px=512, workers=2)
    folder = tmp_path / "out" / "runs"
    folder.mkdir(parents=True)
    (folder / "stale").write_text("")
    square = choose_square(slide, config, largest_core_px=4096, side_um=None)
    assert square is not None
    scratch = prepare_scratch(folder, slide, "s", {cut: config}, square)
    assert not (folder / "stale").exists()
    (entry,) = list_slides([scratch.manifest])
    assert (entry.path, entry.slide_id) == (slide.path, "s")
    assert entry.regions is not None
    (area,) = read_regions(entry.regions)
    assert area.geometry.equals(shapely.box(square.x0, square.y0, square.x1, square.y1))
    assert load_config(scratch.config_file(cut)).regions.mode == "file"
    whole = prepare_scratch(folder, slide, "s", {cut: config}, None)
    assert yaml.safe_load(whole.config_file(cut).read_text())["regions"]["mode"] == "auto"


def test_a_scratch_folder_that_cannot_be_written(slide: Slide, config: PipelineConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        prepare_scratch(tmp_path / "file" / "runs", slide, "s", {}, None)


# The kill ----------------------------------------------------------------------------------------------------------

WRITER = """
import pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1]) / "work" / "s" / "key" / "blocks"
folder.mkdir(parents=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
for i in range(int(sys.argv[2])):
    (folder / f"{i}.parquet").write_text("")
    time.sleep(0.02)
time.sleep(float(sys.argv[3]))
"""


def writer(folder: Path, parts: int, rest_s: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(parts), str(rest_s)], start_new_session=True
    )


def test_a_run_is_killed_with_its_workers_once_parts_are_there(tmp_path: Path) -> None:
    process = writer(tmp_path, 5, 60)
    started = time.monotonic()
    assert kill_midway(process, tmp_path, "s", parts=3)
    assert time.monotonic() - started < 30
    assert process.returncode == -9
    assert len(list(tmp_path.rglob("*.parquet"))) >= 3


def test_a_run_that_ended_before_the_kill_is_not_called_killed(tmp_path: Path) -> None:
    assert not kill_midway(writer(tmp_path, 1, 0), tmp_path, "s", parts=3)


# The runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    (tmp_path / "runs").mkdir()
    return Scratch(folder=tmp_path / "runs", slide_id="s", manifest=tmp_path / "runs" / "manifest.csv")


@pytest.fixture
def measure(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> Callable[..., InvarianceResult]:
    """Return a measurement whose runs write a summary, and whose artefacts differ at the core size given."""

    def call(cores: list[int], *, differs_at: int | None = None, n_cells: int = 7) -> InvarianceResult:
        def run(cut: Cut) -> None:
            folder = scratch.run_folder(cut) / "slides" / "s"
            folder.mkdir(parents=True, exist_ok=True)
            summary = {"n_cells": n_cells, "quality": {"blocks": 4096 // cut.core_px}}
            (folder / "summary.json").write_text(json.dumps(summary))

        def difference(_first: Path, other: Path, _slide_id: str) -> Difference | None:
            if differs_at is None or f"{differs_at:05d}" not in other.name:
                return None
            return Difference(file="cells.parquet", column="area_um2", row=812, detail="1.0 against 2.0")

        monkeypatch.setattr(invariance, "first_difference", difference)
        monkeypatch.setattr(invariance, "matched_share", lambda *_: 0.9876)
        return measure_invariance(
            plan_cuts(cores, [1]), scratch, run=run, start=lambda cut: writer(scratch.run_folder(cut), 8, 60)
        )

    return call


def test_identical_runs_leave_nothing_behind(measure: Callable[..., InvarianceResult], scratch: Scratch) -> None:
    result = measure([512, 4096])
    assert result.identical
    assert [run.was_killed for run in result.runs] == [None, None, True]
    assert result.reference.cut.core_px == 4096
    assert not scratch.folder.exists()
    table = invariance_table(result)
    assert "NO" not in table
    assert "1, killed and resumed" in table
    metrics = invariance_metrics(result)
    assert metrics["identical"] is True
    assert [run["blocks"] for run in metrics["runs"]] == [1, 8, 8]
    assert not result.notes
    json.dumps(metrics)


def test_a_run_that_differs_is_named_and_kept(measure: Callable[..., InvarianceResult], scratch: Scratch) -> None:
    result = measure([512, 1024, 4096], differs_at=1024)
    assert not result.identical
    left = sorted(path.name for path in scratch.folder.iterdir())
    assert left == ["core_01024_workers_1", "core_04096_workers_1"]
    (line,) = (line for line in invariance_table(result).splitlines() if " NO " in line)
    assert line.startswith("core 1024")
    assert "98.76 %" in line
    assert "cells.parquet: area_um2, row 812 (1.0 against 2.0)" in line
    metrics = json.loads(json.dumps(invariance_metrics(result)))
    assert metrics["identical"] is False
    (wrong,) = (run for run in metrics["runs"] if not run["identical"])
    assert wrong["matched_at_iou_0.9"] == pytest.approx(0.9876)
    assert wrong["first_difference"]["row"] == 812


def test_runs_that_moved_no_border_say_so(measure: Callable[..., InvarianceResult]) -> None:
    result = measure([4096])
    assert "no border was moved" in " ".join(result.notes)
    assert "no border was moved" in invariance_table(result)


def test_without_cells_there_is_nothing_to_compare(measure: Callable[..., InvarianceResult]) -> None:
    with pytest.raises(DataError, match="no cell was found"):
        measure([512, 4096], n_cells=0)
