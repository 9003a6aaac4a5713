"""Reticulin slides from pixels to index: the run, its cut, its resume, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.training.fibrosis.test_fibrosis import cohort, weights  # noqa: F401  small slides and a model of six steps
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.exports.qupath_validator import validate_qupath
from wsi_pipeline.one_slide import fibrosis
from wsi_pipeline.predictions.bags.runs import list_runs

Command = Callable[..., tuple[int, str, str]]
SAME = ("fibrosis.parquet", "fibrosis.csv", "regions.geojson", "qupath.geojson.gz", "fibrosis.png", "cells.parquet")


def _run(command: Command, slide: Path, out: Path, *more: str) -> tuple[int, str, str]:
    return command("run", slide, "--config", "reticulin", "--out", out, "--set", "fibrosis.min_tiles=4", *more)


@pytest.fixture
def slide(cohort: Path) -> Path:  # noqa: F811
    return cohort.parent / "slides" / "reticulin001.tiff"


@pytest.mark.usefixtures("in_this_process")
def test_a_run_with_a_model_gives_an_index_map_and_tiles(command, slide, weights, tmp_path):  # noqa: F811
    model = f"fibrosis.model={weights}"
    code, _, said = _run(command, slide, tmp_path / "no", "--set", model)
    assert code == 2
    assert "--allow-simulated" in said
    out = tmp_path / "out"
    assert _run(command, slide, out, "--set", model, "--allow-simulated")[0] == 0
    folder = out / "slides" / "reticulin001"
    summary = json.loads((folder / "summary.json").read_text())
    index = summary["fibrosis"]["index"]
    assert index["n_tiles"] == pq.read_metadata(folder / "fibrosis.parquet").num_rows > 4
    assert 0 <= index["value"] <= 1
    assert validate_qupath(folder / "qupath.geojson.gz") == []
    with (out / "fibrosis.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["slide_id"], row["model"], row["simulated"]) == ("reticulin001", "mine", "true")
    report = (folder / "report.html").read_text()
    assert "SIMULATED" in report
    assert "Spread over the marrow" in report
    assert "No cells found" not in report

    # QuPath gets regions and tiles; nobody takes the slide for one with cells.
    assert command("export", "qupath", out)[0] == 0
    (listed,) = json.loads((out / "qupath" / "slides.json").read_text())["slides"]
    assert listed["image_type"] == "BRIGHTFIELD_OTHER"
    assert listed["objects"] > index["n_tiles"]
    ready, skipped = list_runs([out], specimens=("trephine",))
    assert (ready, [one.status for one in skipped]) == ((), ["reticulin"])

    # Chunks of other sizes, and a run that was cut off, change no byte.
    again = tmp_path / "again"
    monkey = pytest.MonkeyPatch()
    monkey.setattr(fibrosis, "CHUNK_TILES", 3)
    ranked: list[int] = []
    whole = fibrosis._rank

    def dies(*arguments):
        if len(ranked) == 2:
            raise KeyboardInterrupt
        ranked.append(1)
        return whole(*arguments)

    monkey.setattr(fibrosis, "_rank", dies)
    assert _run(command, slide, again, "--set", model, "--allow-simulated")[0] == 130
    monkey.setattr(fibrosis, "_rank", whole)
    assert _run(command, slide, again, "--set", model, "--allow-simulated")[0] == 0
    monkey.undo()
    for name in SAME:
        assert (folder / name).read_bytes() == (again / "slides" / "reticulin001" / name).read_bytes(), name


@pytest.mark.usefixtures("in_this_process")
def test_slides_of_a_patient_have_one_index_together(command, slide, weights, tmp_path):  # noqa: F811
    other = slide.with_name("reticulin002.tiff")
    (tmp_path / "list.csv").write_text(f"slide,patient\n{slide},P1\n{other},P1\n")
    out = tmp_path / "out"
    assert _run(command, tmp_path / "list.csv", out, "--set", f"fibrosis.model={weights}", "--allow-simulated")[0] == 0
    with (out / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "fibrosis"]
    patient = rows[-1]
    assert [row["level"] for row in rows] == ["slide", "slide", "patient"]
    assert (patient["subject_id"], patient["slide_id"], patient["class"]) == ("P1", "", "fibrosis_index")
    with (out / "fibrosis.csv").open() as file:
        low, high = sorted(float(row["index"]) for row in csv.DictReader(file))
    assert low < float(patient["probability"]) < high


@pytest.mark.usefixtures("in_this_process")
def test_without_a_model_dark_pixels_are_given_and_the_index_abstains(command, slide, tmp_path):
    assert _run(command, slide, tmp_path)[0] == 0
    with (tmp_path / "fibrosis.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["index"], row["reason"]) == ("", "no-real-training-data")
    assert float(row["fibre_share"]) > 0
    assert _run(command, slide, tmp_path)[1].count("done before") == 0  # silent progress; nothing is done twice
    assert len(list((tmp_path / "work").rglob("fibres/*.parquet"))) == 1


@pytest.mark.usefixtures("in_this_process")
def test_a_reticulin_slide_is_refused_by_the_h_and_e_configuration(command, slide, tmp_path):
    code, _, said = command("run", slide, "--config", "trephine", "--out", tmp_path)
    assert code == 1
    assert "--config reticulin" in said
    with (tmp_path / "slides.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["status"], row["reason"]) == ("failed", "wrong-stain")


@pytest.mark.usefixtures("in_this_process")
def test_a_slide_without_marrow_is_empty_and_says_so(command, tmp_path):
    Image.fromarray(np.full((900, 900, 3), 244, np.uint8)).save(tmp_path / "glass.png")
    code, _, _ = command(
        "run", tmp_path / "glass.png", "--config", "reticulin", "--mpp", "0.5", "--out", tmp_path / "out"
    )
    assert code == 0
    with (tmp_path / "out" / "slides.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["status"], row["reason"]) == ("empty", "no-marrow")
    folder = tmp_path / "out" / "slides" / "glass"
    assert all((folder / name).is_file() for name in SAME)
    assert "No marrow found." in (folder / "report.html").read_text()


@pytest.mark.usefixtures("in_this_process")
def test_little_marrow_abstains(command, slide, tmp_path):
    code, _, _ = command("run", slide, "--config", "reticulin", "--out", tmp_path, "--set", "fibrosis.min_tiles=9999")
    assert code == 0
    summary = json.loads((tmp_path / "slides" / "reticulin001" / "summary.json").read_text())
    assert summary["fibrosis"]["fibre_share"]["reason"] == "too-little-marrow"


def test_configurations_that_mean_nothing_are_refused(weights):  # noqa: F811
    assert load_config("reticulin").stain == "reticulin"
    assert load_config("trephine").stain == "routine"
    with pytest.raises(ConfigError, match="of trephines"):
        load_config("blood_smear", {"stain": "reticulin"})
    with pytest.raises(ConfigError, match="use --config reticulin"):
        load_config("trephine", {"fibrosis.model": str(weights)})
    config = load_config("reticulin", {"fibrosis.model": str(weights), "segmentation.mpp": 0.25})
    with pytest.raises(ModelError, match=r"at 0\.5 um/px"):
        fibrosis.check_fibrosis_model(config, allow_simulated=True)
