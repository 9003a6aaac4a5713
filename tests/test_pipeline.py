"""The main job, end to end: the same bytes however it is cut, spread or interrupted, and failures that stay rows."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from wsi_pipeline import cohort
from wsi_pipeline.cli import main as cli
from wsi_pipeline.runtime.executor import SerialExecutor
from wsi_pipeline.runtime.run_ledger import read_run_ledger
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.slides import SLIDE_SUFFIXES
from wsi_pipeline.weights import shipped_weights

CLASSIFIER = "pbc-blast" if "pbc-blast" in shipped_weights() else None
SETTINGS: dict[str, Any] = {"cells.classifier": CLASSIFIER, "cells.chunk_cells": 64, "exports.report": False}
"""Small chunks, so that there is more than one; most runs go without reports, which have tests of their own."""

TABLES = ("differential.csv", "differential_corrected.csv", "predictions.csv")
FILES = ("regions.geojson", "qupath.geojson.gz", "red_cells.csv")


def arguments(settings: dict[str, Any]) -> list[str]:
    values = {key: "null" if value is None else str(value).lower() for key, value in settings.items()}
    return [text for key, value in values.items() for text in ("--set", f"{key}={value}")]


def run_here(slides: list[Path], out: Path, settings: dict[str, Any], **options: Any) -> cohort.CohortResult:
    """Run a cohort in this process: the same stages and tables, without a cluster to start."""
    with serial():
        return cohort.run_cohort(slides, out, overrides={**SETTINGS, **settings}, **options)


@contextmanager
def serial(make: Callable[[], SerialExecutor] = SerialExecutor) -> Iterator[None]:
    @contextmanager
    def executor(_cluster: str, _config: Any) -> Iterator[SerialExecutor]:
        yield make()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort, "open_executor", executor)
        yield


def results(out: Path, slide_id: str) -> dict[str, Any]:
    """Return all that must be identical of one slide."""
    folder = out / "slides" / slide_id
    table = pq.read_table(folder / "cells.parquet")
    sink = io.BytesIO()
    pq.write_table(table.drop_columns(["block"]), sink)
    found: dict[str, Any] = {
        "cells.parquet": sink.getvalue(),
        "cells.parquet schema": table.schema,
        "cells.parquet row groups": [
            pq.read_metadata(folder / "cells.parquet").row_group(i).num_rows
            for i in range(pq.read_metadata(folder / "cells.parquet").num_row_groups)
        ],
    }
    for name in FILES:
        found[name] = (folder / name).read_bytes()
    for name in TABLES:
        rows = list(csv.DictReader((out / name).read_text(encoding="utf-8").splitlines()))
        found[name] = [row for row in rows if row["slide_id"] == slide_id]
    return found


def assert_identical(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    differing = [name for name in expected if found[name] != expected[name]]
    assert not differing, f"{what}: {', '.join(differing)} differ"


def rows_of(out: Path) -> dict[str, dict[str, str]]:
    rows = csv.DictReader((out / "slides.csv").read_text(encoding="utf-8").splitlines())
    return {row["slide_id"]: row for row in rows}


def quality_of(out: Path, slide_id: str) -> dict[str, Any]:
    summary = json.loads((out / "slides" / slide_id / "summary.json").read_text(encoding="utf-8"))
    return dict(summary["quality"])


def blocks_of(out: Path, slide_id: str) -> set[str]:
    return set(pq.read_table(out / "slides" / slide_id / "cells.parquet").column("block").to_pylist())


# Inputs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small virtual slides: one to cut, one that four core sizes cut, one to spread over workers."""
    folder = tmp_path_factory.mktemp("slides")
    make_virtual_slide(folder / "cut.tiff", profile="normal", size_px=(1100, 900), seed=3)
    make_virtual_slide(folder / "long.tiff", profile="normal", size_px=(2200, 560), seed=5)
    make_virtual_slide(folder / "spread.tiff", profile="aml", size_px=800, seed=4)
    return folder


@pytest.fixture(scope="session")
def undisturbed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of ``spread`` that nothing interrupted, in this process."""
    out = tmp_path_factory.mktemp("undisturbed")
    result = run_here([slides / "spread.tiff"], out, {"tiling.core_px": 512, "exports.report": True})
    assert [s["status"] for s in result.summaries] == ["ok"]
    assert (out / "slides" / "spread" / "report.html").stat().st_size > 10_000
    return out


# How the slide is cut ----------------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_core_size(slides: Path, tmp_path: Path) -> None:
    found = {}
    for core_px in (512, 1024, 2048, 4096):
        out = tmp_path / str(core_px)
        run_here([slides / "long.tiff"], out, {"tiling.core_px": core_px})
        found[core_px] = results(out, "long")
    assert len(pq.read_table(tmp_path / "512" / "slides" / "long" / "cells.parquet")) > 300
    assert [len(blocks_of(tmp_path / str(c), "long")) for c in found] == [10, 3, 2, 1]
    for core_px in (512, 1024, 2048):
        assert_identical(found[core_px], found[4096], f"core {core_px} against one block")
    seams = {c: quality_of(tmp_path / str(c), "long")["seams"] for c in found}
    assert seams[4096]["reason"] == "no-inner-borders"
    counts = seams[512]["count_ratio"]
    assert counts["lower"] < 1 < counts["upper"]
    assert counts["border"] + counts["control"] > 150


def test_a_level_between_whole_pixels_is_read_the_same_however_it_is_cut(slides: Path, tmp_path: Path) -> None:
    """The level read has a downsample of 4.003, so every block's pixels come from the resampler."""
    from wsi_pipeline.slides import open_slide

    path = write_odd_pyramid(tmp_path / "odd.tiff", slides / "cut.tiff")
    with open_slide(path) as slide:
        assert slide.level_for(0.25) == 1
        assert slide.levels[1].downsample == pytest.approx(4.003, abs=1e-3)
        assert slide.size_at(0.25) == (1001, 751)
    found = {}
    for core_px in (300, 512, 2048):
        run_here([path], tmp_path / str(core_px), {"tiling.core_px": core_px})
        found[core_px] = results(tmp_path / str(core_px), "odd")
    assert len(pq.read_table(tmp_path / "2048" / "slides" / "odd" / "cells.parquet")) > 150
    assert [len(blocks_of(tmp_path / str(c), "odd")) for c in found] == [12, 4, 1]
    for core_px in (300, 512):
        assert_identical(found[core_px], found[2048], f"core {core_px} against one block")


def write_odd_pyramid(path: Path, source: Path) -> Path:
    """Write a corner of a slide at 0.25 um/px as the second level of a pyramid, 4.003 times coarser than the first."""
    import cv2
    import tifffile

    level = np.ascontiguousarray(tifffile.imread(source, key=0)[:750, :1000])
    assert level.shape == (750, 1000, 3)
    options: dict[str, Any] = {
        "tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None,
        "resolution": (160_000, 160_000), "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(cv2.resize(level, (4003, 3002), interpolation=cv2.INTER_CUBIC), **options)
        tiff.write(level, subfiletype=1, **options)
    return path


def test_results_inside_drawn_regions_do_not_depend_on_the_cut(slides: Path, tmp_path: Path) -> None:
    """An odd region, a wider halo, another batch of blocks: tiles are computed by region, never by block."""
    drawn = shapely.Polygon([(100, 60), (1050, 180), (800, 860), (420, 500), (90, 820)]).difference(
        shapely.Point(560, 330).buffer(100)
    )
    (tmp_path / "drawn.geojson").write_text(
        f'{{"type": "Feature", "properties": {{}}, "geometry": {shapely.to_geojson(drawn)}}}', encoding="utf-8"
    )
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(f"slide,slide_id,regions\n{slides / 'cut.tiff'},drawn,drawn.geojson\n", encoding="utf-8")
    settings = {"regions.mode": "file"}
    run_here([manifest], tmp_path / "a", {**settings, "tiling.core_px": 350, "tiling.halo_um": 60})
    run_here([manifest], tmp_path / "b", {**settings, "tiling.core_px": 2048})
    found, expected = results(tmp_path / "a", "drawn"), results(tmp_path / "b", "drawn")
    assert_identical(found, expected, "drawn region")
    cells = pq.read_table(tmp_path / "b" / "slides" / "drawn" / "cells.parquet")
    seeds = np.stack([cells.column(f"seed_{a}").to_numpy() + 0.5 for a in "xy"], axis=1)
    assert len(seeds) > 60
    assert shapely.contains_xy(drawn.buffer(0.02), seeds).all()


# Workers, bad slides, equal names: one run on a cluster --------------------------------------------------------------


@pytest.fixture(scope="session")
def mixed(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return a run from the command line on two workers of good, bad and missing slides, two of one name."""
    folder = tmp_path_factory.mktemp("mixed")
    for day in ("monday", "tuesday"):
        (folder / day).mkdir()
        (folder / day / "spread.tiff").symlink_to(slides / "spread.tiff")
    bad = folder / "bad.svs"
    bad.write_text("this is not a slide", encoding="utf-8")
    out = folder / "out"
    command = [
        sys.executable, "-m", "wsi_pipeline.cli.main", "run",
        str(folder / "monday" / "spread.tiff"), str(bad), str(folder / "missing.svs"), str(folder / "tuesday"),
        "--out", str(out), *arguments({**SETTINGS, "tiling.core_px": 512, "runtime.workers": 2}),
    ]  # fmt: skip
    return out, subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_a_bad_slide_is_a_row_and_the_others_finish(
    mixed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, ended = mixed
    assert ended.returncode == 1, ended.stderr
    rows = rows_of(out)
    assert {name: (row["status"], row["reason"]) for name, row in rows.items()} == {
        "monday_spread": ("ok", ""),
        "tuesday_spread": ("ok", ""),
        "bad": ("failed", "unsupported-format"),
        "missing": ("failed", "not-found"),
    }
    assert "Traceback" not in ended.stderr
    assert "bad.svs" in ended.stderr
    for name in ("monday_spread", "tuesday_spread"):
        assert int(rows[name]["n_cells"]) > 100
    assert (out / "report.html").is_file()
    assert (out / "run.json").is_file()


def test_one_worker_two_and_four_give_the_same(
    mixed: tuple[Path, subprocess.CompletedProcess[str]], slides: Path, undisturbed: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "tiling.core_px": 512, "runtime.workers": 1}
    cohort.run_cohort([slides / "spread.tiff"], tmp_path / "one", overrides=settings)
    one, here = results(tmp_path / "one", "spread"), results(undisturbed, "spread")
    assert int(rows_of(undisturbed)["spread"]["n_cells"]) > 100
    assert_identical(one, here, "a worker against this process")
    # Nine blocks, so that each of four workers has some.
    many = {**SETTINGS, "tiling.core_px": 300, "runtime.workers": 4}
    cohort.run_cohort([slides / "spread.tiff"], tmp_path / "four", overrides=many)
    assert json.loads((tmp_path / "four" / "run.json").read_text())["workers"] == 4
    assert_identical(results(tmp_path / "four", "spread"), one, "four workers against one")
    for name in ("monday_spread", "tuesday_spread"):
        two = results(mixed[0], name)
        for table in TABLES:
            two[table] = [{**row, "slide_id": "spread"} for row in two[table]]
        two["red_cells.csv"] = two["red_cells.csv"].replace(name.encode(), b"spread")
        assert_identical(two, one, f"{name} on two workers against one")


# Kill and resume ---------------------------------------------------------------------------------------------------


def recorded_blocks(out: Path, slide_id: str) -> list[Path]:
    """Return the blocks that a rerun believes to be done."""
    ledger = read_run_ledger(out / "work")
    if ledger is None:
        return []
    try:
        return [out / name for name in ledger.files(slide_id) if "/blocks/" in name]
    finally:
        ledger.close()


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_killed_run_resumes_to_identical_results(slides: Path, undisturbed: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "wsi_pipeline.cli.main", "run",
        str(slides / "spread.tiff"), "--out", str(tmp_path / "out"),
        *arguments({**SETTINGS, "tiling.core_px": 400, "runtime.workers": 2}),
    ]  # fmt: skip
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while len(parts := list(tmp_path.glob("out/work/spread/*/blocks/*.parquet"))) < 1:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no block was finished in time"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for _ in range(500):
        if group_is_gone(process.pid):
            break
        time.sleep(0.01)
    assert not (tmp_path / "out" / "slides" / "spread" / "summary.json").exists(), "killed too late to test anything"
    before = {part: part.stat().st_mtime_ns for part in parts}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    assert {part: part.stat().st_mtime_ns for part in before} == before, "finished blocks were computed again"
    assert_identical(results(tmp_path / "out", "spread"), results(undisturbed, "spread"), "killed and resumed")
    left = [p for p in tmp_path.glob("out/slides/**/*") if p.name.endswith(".tmp")]
    assert not left, "half-written files among the artefacts"


class Stopped(BaseException):
    """Stands for a kill: nothing in the pipeline may catch it."""


class Dying(SerialExecutor):
    """Stops after a number of tasks, before the record of the last one is seen."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self._left = tasks

    def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Any:
        result = super().call(function, *arguments)
        self._left -= 1
        if self._left <= 0:
            raise Stopped
        return result


def test_a_run_stopped_after_every_task_ends_identical(slides: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Stopped after the plan, after each block, the merge, each chunk and the last task, again and again."""
    stops = 0
    overrides = {**SETTINGS, "tiling.core_px": 512}
    for tasks in range(1, 40):
        try:
            with serial(lambda tasks=tasks: Dying(tasks)):
                cohort.run_cohort([slides / "spread.tiff"], tmp_path, overrides=overrides)
            break
        except Stopped:
            stops += 1
    assert stops >= 7
    assert_identical(results(tmp_path, "spread"), results(undisturbed, "spread"), "stopped after every task")


def test_a_rerun_does_nothing(slides: Path, undisturbed: Path) -> None:
    files = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in (undisturbed / "slides").rglob("*") if p.is_file()}
    tables = {name: (undisturbed / name).read_bytes() for name in (*TABLES, "slides.csv")}

    class Idle(SerialExecutor):
        def call(self, function: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> Any:
            raise AssertionError(f"{function.__name__} ran again")

    started = time.monotonic()
    with serial(Idle):
        cohort.run_cohort([slides / "spread.tiff"], undisturbed, overrides={**SETTINGS, "tiling.core_px": 512})
    assert time.monotonic() - started < 10
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in files} == files
    assert {name: (undisturbed / name).read_bytes() for name in tables} == tables


def test_another_core_size_finds_the_slide_done(slides: Path, undisturbed: Path) -> None:
    """What changes no result makes no run another run."""
    before = (undisturbed / "slides" / "spread" / "cells.parquet").stat().st_mtime_ns
    run_here([slides / "spread.tiff"], undisturbed, {"tiling.core_px": 2048, "runtime.workers": 7})
    assert (undisturbed / "slides" / "spread" / "cells.parquet").stat().st_mtime_ns == before


def test_a_lost_artefact_is_made_again(slides: Path, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out)
    expected = results(out, "spread")
    (out / "slides" / "spread" / "qupath.geojson.gz").unlink()
    (out / "slides" / "spread" / "cells.parquet").unlink()
    run_here([slides / "spread.tiff"], out, {"tiling.core_px": 512})
    assert_identical(results(out, "spread"), expected, "after artefacts were lost")


def test_failed_slides_are_not_tried_again_unless_asked(slides: Path, tmp_path: Path) -> None:
    bad = tmp_path / "late.tiff"
    bad.write_text("not yet a slide", encoding="utf-8")
    os.utime(bad, ns=(1, 1))
    out = tmp_path / "out"
    first = run_here([bad], out, {})
    assert [s["reason"] for s in first.failed] == ["unsupported-format"]
    summary = out / "slides" / "late" / "summary.json"
    before = summary.stat().st_mtime_ns
    assert run_here([bad], out, {}).failed
    assert summary.stat().st_mtime_ns == before
    assert run_here([bad], out, {}, retry_failed=True).failed
    assert summary.stat().st_mtime_ns > before
    # A file that has changed is another attempt.
    shutil.copyfile(slides / "spread.tiff", bad)
    assert not run_here([bad], out, {}).failed


def test_evaluate_invariance_runs_cuts_kills_and_compares(
    slides: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "evaluation"
    status, said = command(
        "evaluate", "invariance", slides / "spread.tiff", "--core", "256,1024", "--workers", "2", "--side-um", "120",
        "--out", out, *arguments(SETTINGS),
    )  # fmt: skip
    assert status == 0, said
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["identical"] is True
    assert metrics["n"] > 50
    assert metrics["square_px0"] is not None
    assert [run["was_killed"] for run in metrics["runs"]] == [None, None, True]
    assert metrics["runs"][0]["blocks"] == 1
    assert metrics["runs"][1]["blocks"] >= 4
    assert [path.name for path in out.iterdir()] == ["metrics.json"]


# Bad usage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line in this process, without a cluster; return exit status and standard error."""

    def call(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["wsi-pipeline", *map(str, words)])
        with serial(), pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        return (code if isinstance(code, int) else 0 if code is None else 1), capsys.readouterr().err

    return call


Command = Callable[..., tuple[int, str]]


def one_sentence(text: str) -> str:
    (line,) = text.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_results_of_another_configuration_are_refused(slides: Path, undisturbed: Path, command: Command) -> None:
    settings = arguments({**SETTINGS, "segmentation.flow_threshold": 0.8})
    before = (undisturbed / "slides" / "spread" / "summary.json").read_bytes()
    status, said = command("run", slides / "spread.tiff", "--out", undisturbed, *settings)
    assert status == 2
    assert "another configuration" in one_sentence(said)
    assert "--restart" in said
    assert (undisturbed / "slides" / "spread" / "summary.json").read_bytes() == before


def test_results_of_another_file_are_refused(slides: Path, undisturbed: Path, tmp_path: Path, command: Command) -> None:
    other = tmp_path / "spread.tiff"
    other.symlink_to(slides / "cut.tiff")
    status, said = command("run", other, "--out", undisturbed, *arguments(SETTINGS))
    assert status == 2
    assert str(other) in one_sentence(said)


def test_restart_throws_earlier_results_away(slides: Path, undisturbed: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "copy"
    shutil.copytree(undisturbed, out)
    strict = {**SETTINGS, "segmentation.min_area_um2": 30, "tiling.core_px": 1024}
    status, said = command("run", slides / "spread.tiff", "--out", out, "--restart", *arguments(strict))
    assert status == 0, said
    areas = pq.read_table(out / "slides" / "spread" / "cells.parquet").column("area_um2").to_numpy()
    assert len(areas)
    assert areas.min() >= 30


def test_an_output_that_cannot_be_written_is_refused(slides: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    status, said = command("run", slides / "spread.tiff", "--out", tmp_path / "file" / "out", *arguments(SETTINGS))
    assert status == 2
    assert "cannot be written" in one_sentence(said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_read_only_output_is_refused(slides: Path, tmp_path: Path, command: Command) -> None:
    tmp_path.chmod(0o555)
    try:
        status, said = command("run", slides / "spread.tiff", "--out", tmp_path / "out", *arguments(SETTINGS))
    finally:
        tmp_path.chmod(0o755)
    assert status == 2
    assert "cannot be written" in one_sentence(said)


def test_a_dry_run_writes_nothing(slides: Path, tmp_path: Path, command: Command) -> None:
    status, said = command("run", slides, "--out", tmp_path / "out", "--dry-run", *arguments(SETTINGS))
    assert (status, said) == (0, "")
    assert not (tmp_path / "out").exists()


# Nothing on the slide ------------------------------------------------------------------------------------------------


def write_white(path: Path, side: int = 700) -> Path:
    import tifffile

    tifffile.imwrite(
        path, np.full((side, side, 3), 244, np.uint8), tile=(256, 256), photometric="rgb",
        resolution=(40_000, 40_000), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.mark.parametrize("large", [False, True], ids=["read whole", "searched"])
def test_an_empty_slide_is_empty_with_a_reason(tmp_path: Path, large: bool) -> None:
    import geopandas

    from wsi_pipeline.exports.qupath_validator import validate_qupath

    white = write_white(tmp_path / "white.tiff")
    settings = {"regions.all_below_mm2": 0.0 if large else 4.0, "exports.report": True}
    (summary,) = run_here([white], tmp_path / "out", settings).summaries
    assert summary["status"] == "empty"
    assert summary["reason"] == ("glass-only" if large else "no-cells")
    assert rows_of(tmp_path / "out")["white"]["n_cells"] == "0"
    folder = tmp_path / "out" / "slides" / "white"
    cells = geopandas.read_parquet(folder / "cells.parquet")
    assert len(cells) == 0
    assert "cell_id" in cells.columns
    assert not validate_qupath(folder / "qupath.geojson.gz")
    assert (folder / "report.html").stat().st_size > 1000
    predictions = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert predictions
    assert all(row["abstained"] == "true" for row in predictions)


# Cells beyond the largest diameter -----------------------------------------------------------------------------------


def test_cells_beyond_the_largest_diameter_are_counted_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_virtual_slide(tmp_path / "small.tiff", profile="normal", size_px=512, seed=5)
    settings = {"segmentation.max_cell_diameter_um": 6.0, "segmentation.flow_threshold": 0.0}
    counts = []
    for core_px in (256, 512):
        out = tmp_path / str(core_px)
        (summary,) = run_here([tmp_path / "small.tiff"], out, {**settings, "tiling.core_px": core_px}).summaries
        counts.append(summary["quality"]["too large"])
        said = [text for text in summary["warnings"] if "segmentation.max_cell_diameter_um (6 um)" in text]
        assert len(said) == 1
        assert said[0] in caplog.text
        assert summary["quality"]["truncated"] >= counts[-1]
        assert summary["provenance"]["segmentation engine"] == "numba"
    assert counts[0] == counts[1] > 10


# Larger, real data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mosaic(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a TIFF of many real blood-smear fields side by side, at their own resolution."""
    import tifffile
    from PIL import Image

    fields = sorted((data_root / "bccd" / "fields").glob("*.jpg"))[: 9 * 12]
    assert len(fields) == 108
    pixels = np.full((12 * 480, 9 * 640, 3), 255, np.uint8)
    for i, path in enumerate(fields):
        field = np.asarray(Image.open(path).convert("RGB"))[:480, :640]
        y, x = 480 * (i // 9), 640 * (i % 9)
        pixels[y : y + field.shape[0], x : x + field.shape[1]] = field
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.tiff"
    resolution = 1e4 / 0.073
    tifffile.imwrite(
        path, pixels, tile=(512, 512), photometric="rgb", compression="jpeg", compressionargs={"level": 92},
        resolution=(resolution, resolution), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.mark.data
def test_real_fields_do_not_depend_on_the_core_size(mosaic: Path, tmp_path: Path) -> None:
    found = {}
    for core_px in (512, 1024, 2048):
        run_here([mosaic], tmp_path / str(core_px), {"tiling.core_px": core_px})
        found[core_px] = results(tmp_path / str(core_px), "mosaic")
    cells = pq.read_table(tmp_path / "2048" / "slides" / "mosaic" / "cells.parquet")
    assert len(cells) > 1500
    assert {"red", "white"} <= set(cells.column("kind").to_pylist())
    assert [len(blocks_of(tmp_path / str(c), "mosaic")) for c in found] == [16, 4, 1]
    for core_px in (512, 1024):
        assert_identical(found[core_px], found[2048], f"core {core_px} against one block")


@pytest.mark.data
def test_real_fields_do_not_depend_on_the_workers(mosaic: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        settings = {**SETTINGS, "tiling.core_px": 512, "runtime.workers": workers}
        cohort.run_cohort([mosaic], tmp_path / str(workers), overrides=settings)
    one, two = (results(tmp_path / str(n), "mosaic") for n in (1, 2))
    assert_identical(two, one, "two workers against one")


@pytest.mark.data
def test_every_odd_file_is_a_row_and_the_good_slide_finishes(
    data_root: Path, slides: Path, tmp_path: Path, command: Command
) -> None:
    """All files of the folder of real slides, broken ones among them, in one run with a good one."""
    from wsi_pipeline.errors import SlideError
    from wsi_pipeline.manifest import list_slides
    from wsi_pipeline.slides import open_slide

    # One real section of many megapixels is left to the benchmarks.
    files = sorted(
        p
        for p in (data_root / "slides").iterdir()
        if p.suffix.lower() in SLIDE_SUFFIXES and p.name != "cmu_small_region.svs"
    )
    wrong = {}
    for entry in list_slides(files):
        try:
            open_slide(entry.path).close()
        except SlideError as error:
            wrong[entry.slide_id] = error.reason
    assert {"broken", "openslide-unopenable", "openslide-unreadable"} <= wrong.keys()
    out = tmp_path / "out"
    status, said = command("run", *files, slides / "spread.tiff", "--out", out, *arguments(SETTINGS))
    assert status == 1, said
    rows = rows_of(out)
    assert len(rows) == len(files) + 1
    assert rows["spread"]["status"] == "ok"
    assert {name: row["reason"] for name, row in rows.items() if row["status"] == "failed"} == wrong
