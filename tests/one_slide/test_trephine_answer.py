"""A trephine from pixels to what its summary and tables say of its megakaryocytes, and the run's rows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_trephines import MadeTrephine, make_trephines

from wsi_pipeline.cohort import run_cohort
from wsi_pipeline.errors import ConfigError, MissingWeightsError, ModelError
from wsi_pipeline.predictions.trephines.table import TREPHINE_COLUMNS, trephine_row
from wsi_pipeline.simulation import make_virtual_slide
from wsi_pipeline.training.phenotypes.train import PhenotypeTraining, train_phenotypes


@pytest.mark.usefixtures("in_this_process")
def test_a_run_tells_megakaryocytes_and_their_phenotypes(tmp_path: Path) -> None:
    made = [MadeTrephine(slide_id=f"S{i}", mix=(14, 12, 10), seed=i) for i in range(6)]
    model = tmp_path / "made.phenotypes.json"
    train_phenotypes(PhenotypeTraining(runs=(make_trephines(tmp_path / "made", made),), k=3), model)
    slide = tmp_path / "core.tiff"
    make_virtual_slide(slide, profile="section", size_px=(1024, 768), mpp=0.5, seed=3)
    out = tmp_path / "out"
    settings = {"exports.report": False, "predictions.phenotypes": str(model), "predictions.min_megakaryocytes": 2}
    run_cohort([slide], out, "trephine", overrides=settings)

    folder = out / "slides/core"
    told = json.loads((folder / "summary.json").read_text())["trephine"]
    kinds = pq.read_table(folder / "cells.parquet", columns=["kind", "cell_id"]).to_pylist()
    ids = [row["cell_id"] for row in kinds if row["kind"] == "megakaryocyte"]
    rows = list(csv.DictReader((folder / "megakaryocytes.csv").open()))
    assert [row["cell_id"] for row in rows] == ids
    assert len(ids) >= 2
    assert told["megakaryocytes"]["n"] == len(ids)
    assert told["marrow_mm2"] == pytest.approx(1024 * 768 * 0.25e-6)
    assert told["reason"] is None
    assert told["arrangement"]["bone"] is None
    assert {row["phenotype"] for row in rows} - {""}
    assert sum(row["count"] for row in told["phenotypes"]["rows"]) == told["phenotypes"]["n"]
    (row,) = csv.DictReader((out / "trephines.csv").open())
    assert tuple(row) == TREPHINE_COLUMNS
    assert int(row["megakaryocytes"]) == len(ids)
    assert (out / "phenotypes.csv").read_text() == (folder / "phenotypes.csv").read_text()


@pytest.mark.usefixtures("in_this_process")
def test_a_phenotype_model_that_cannot_be_used_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    slide = tmp_path / "core.tiff"
    slide.write_bytes(b"never opened")
    for path, error in ((tmp_path / "none.json", MissingWeightsError), (slide, ModelError)):
        with pytest.raises(error):
            run_cohort([slide], tmp_path / "out", "trephine", overrides={"predictions.phenotypes": str(path)})
    with pytest.raises(ConfigError, match="phenotypes are of the megakaryocytes of trephines"):
        run_cohort([slide], tmp_path / "out", "blood_smear", overrides={"predictions.phenotypes": str(slide)})
    assert not (tmp_path / "out").exists()


def test_a_row_is_empty_where_nothing_can_be_told() -> None:
    entry = {
        "marrow_mm2": 0.0, "bone_mm2": 0.0, "cellularity": None, "reason": "no-marrow", "arrangement": None,
        "megakaryocytes": {"n": 0, "per_mm2": None, "lower": None, "upper": None, "measures": {}, "bare": {}},
    }  # fmt: skip
    row = trephine_row("s", entry)
    assert tuple(row) == TREPHINE_COLUMNS
    assert row["reason"] == "no-marrow"
    assert row["megakaryocytes"] == "0"
    assert {row[name] for name in ("cellularity_percent", "per_mm2", "clark_evans", "bare_percent")} == {""}
