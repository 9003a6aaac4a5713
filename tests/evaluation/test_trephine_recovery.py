"""Recovery of trephine cohorts: hand-made runs whose figures are known, on slides that are drawn."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from typer.testing import CliRunner

from wsi_pipeline.cli.main import app
from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.trephine_recovery import (
    EVERYONE,
    MeasureRecovery,
    TrephineRecovery,
    evaluate_trephine_recovery,
    is_trephine_cohort,
)
from wsi_pipeline.evaluation.trephine_recovery_tables import (
    trephine_recovery_csv,
    trephine_recovery_metrics,
    trephine_recovery_table,
)
from wsi_pipeline.evaluation.trephine_truth import MEASURES, SHAPE, Planted, read_planted
from wsi_pipeline.simulation import make_cohort

LOBULATION = ("concave", "nucleus_concavities", "nucleus_lobes")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    make_cohort(folder, patients=4, seed=6, profile="trephine", area_mm2=0.15)
    return folder


def summary(planted: Planted, *, times: float = 1.0, abstained: bool = False) -> dict[str, Any]:
    """Return the entry of a run that reports what was planted, sizes and lobulation ``times`` as large."""
    own = planted.figures
    means = {name: own[name] * times for name in SHAPE if name in own}
    means["nucleus_solidity"] = 1 - own["concave"] * times
    lies = {"clusters": {"share": own["clustered"]}, "nearest_um": {"mean": _or_none(own["nearest_um"])}}
    return {
        "trephine": {
            "megakaryocytes": {
                "per_mm2": own["per_mm2"],
                "measures": {name: {"mean": value} for name, value in means.items()},
            },
            "arrangement": None if abstained else lies,
            "cellularity": {"percent": own["cellularity"]},
        }
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_run(folder: Path, cohort: Path, entries: Mapping[str, dict[str, Any]], *, lost: int = 0) -> Path:
    """Write a run that finds all megakaryocytes but the first ``lost`` of each slide, and one that is none."""
    for name, entry in entries.items():
        out = folder / "slides" / name
        out.mkdir(parents=True, exist_ok=True)
        (out / "summary.json").write_text(json.dumps(entry))
        shapes = shapely.from_wkb(read_planted(cohort / "slides", name).outlines.encoded)[lost:]
        shapes = np.append(shapes, shapely.box(0, 0, 30, 30))
        centre = shapely.get_coordinates(shapely.centroid(shapes))
        table = {
            "geometry": shapely.to_wkb(shapes).tolist(), "kind": ["megakaryocyte"] * len(shapes),
            "class_name": ["megakaryocyte"] * len(shapes), "x_px0": centre[:, 0], "y_px0": centre[:, 1],
            "truncated": [False] * len(shapes),
        }  # fmt: skip
        pq.write_table(pa.table(table), out / "cells.parquet")
    return folder


def names(cohort: Path) -> list[str]:
    with (cohort / "truth.csv").open(newline="") as file:
        return [row["slide_id"] for row in csv.DictReader(file)]


def of(found: TrephineRecovery, measure: str) -> MeasureRecovery:
    return next(s for s in found.summaries if s.group == EVERYONE and s.measure == measure)


def test_a_run_that_reports_what_was_planted_recovers_it(cohort: Path, tmp_path: Path) -> None:
    planted = {name: read_planted(cohort / "slides", name) for name in names(cohort)}
    run = write_run(tmp_path, cohort, {name: summary(own) for name, own in planted.items()})
    found = evaluate_trephine_recovery(run, cohort)
    for measure in MEASURES:
        told = of(found, measure)
        assert told.n + told.abstained == len(planted)
        assert told.within == told.n
        # Small slides may hold no cluster at all; then there is no ratio.
        assert told.ratio.value == pytest.approx(1) if told.planted else told.ratio.value is None
        assert told.recovered is (True if told.planted else None)
    everyone = found.kinds[-1]
    assert everyone.kind == EVERYONE
    assert everyone.found == everyone.n == sum((~own.truncated).sum() for own in planted.values())
    assert found.false == len(planted)
    assert {k.kind for k in found.kinds[:-1]} == {kind for own in planted.values() for kind in own.kinds}


def test_a_run_that_is_off_is_told_by_how_much(cohort: Path, tmp_path: Path) -> None:
    entries = {n: summary(read_planted(cohort / "slides", n), times=1.25) for n in names(cohort)}
    found = evaluate_trephine_recovery(write_run(tmp_path, cohort, entries, lost=1), cohort)
    for measure in ("area_um2", "nucleus_area_um2", *LOBULATION):
        assert of(found, measure).ratio.value == pytest.approx(1.25)
        assert of(found, measure).recovered is False
        nothing = [r for r in found.rows if r.measure == measure and r.planted == 0]
        assert of(found, measure).within == len(nothing) < len(entries)
    assert of(found, "per_mm2").recovered
    assert found.kinds[-1].n - found.kinds[-1].found == len(entries)
    assert "1.250" in trephine_recovery_table(found)
    metrics = trephine_recovery_metrics(found)
    assert next(r for r in metrics["recovery"] if r["measure"] == "area_um2")["recovered"] is False


def test_what_is_planted_is_measured_as_a_run_does(cohort: Path) -> None:
    planted = read_planted(cohort / "slides", "sim0002")
    with (cohort / "truth.csv").open(newline="") as file:
        row = next(r for r in csv.DictReader(file) if r["slide_id"] == "sim0002")
    assert planted.figures["per_mm2"] == pytest.approx(float(row["per_mm2"]), rel=0.01)
    assert planted.figures["area_um2"] == pytest.approx(float(row["mean_area_um2"]), rel=0.01)
    assert planted.figures["nucleus_area_um2"] == pytest.approx(float(row["mean_nucleus_area_um2"]), rel=0.02)
    assert planted.figures["cellularity"] == pytest.approx(100 * float(row["cellularity"]), abs=0.01)
    assert 0 < planted.figures["concave"] < 0.4
    assert 0 <= planted.figures["clustered"] <= 1


def test_abstaining_and_patients_that_were_not_run_are_counted(cohort: Path, tmp_path: Path) -> None:
    first, second = names(cohort)[:2]
    planted = {name: read_planted(cohort / "slides", name) for name in (first, second)}
    entries = {first: summary(planted[first], abstained=True), second: summary(planted[second])}
    found = evaluate_trephine_recovery(write_run(tmp_path, cohort, entries), cohort)
    assert of(found, "clustered").abstained == 1
    assert of(found, "per_mm2").abstained == 0
    assert found.not_run == tuple(names(cohort)[2:])
    assert "2 patients of the cohort are not in the run" in trephine_recovery_table(found)
    lines = trephine_recovery_csv(found).splitlines()
    assert len(lines) == 1 + 2 * len(MEASURES)
    assert next(line for line in lines if line.startswith(f"{first},") and ",clustered," in line).endswith(",")


def test_the_command_tells_trephines_from_smears(cohort: Path, tmp_path: Path) -> None:
    assert is_trephine_cohort(cohort)
    assert not is_trephine_cohort(tmp_path)
    entries = {name: summary(read_planted(cohort / "slides", name)) for name in names(cohort)}
    run = write_run(tmp_path / "run", cohort, entries)
    arguments = ["evaluate", "recovery", str(run), "--cohort", str(cohort), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "within 10 %" in result.output
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["tolerance"] == 0.1
    assert (tmp_path / "out" / "recovery.csv").is_file()


def test_what_cannot_be_compared_is_refused(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no slide of the cohort"):
        evaluate_trephine_recovery(tmp_path, cohort)
    name = names(cohort)[0]
    run = write_run(tmp_path / "run", cohort, {name: summary(read_planted(cohort / "slides", name))})
    (run / "slides" / name / "summary.json").write_text("{}")
    with pytest.raises(DataError, match="no entry trephine"):
        evaluate_trephine_recovery(run, cohort)
    broken = tmp_path / "cohort"
    shutil.copytree(cohort, broken)
    (broken / "slides" / f"{name}.truth.csv").write_text("kind\nmegakaryocyte\n")
    with pytest.raises(DataError, match="not the truth of a trephine"):
        read_planted(broken / "slides", name)
