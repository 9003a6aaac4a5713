"""Megakaryocytes in the run of a trephine: whole, measured, without nuclei of their own, the same however it is cut."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile

from tests.test_pipeline import SETTINGS as PIPELINE
from tests.test_pipeline import arguments, run_here
from wsi_pipeline.config import load_config
from wsi_pipeline.errors import ConfigError, ModelError
from wsi_pipeline.evaluation.identical import first_difference
from wsi_pipeline.segmentation.megakaryocytes import embedding_dim, load_megakaryocyte_model
from wsi_pipeline.simulation.fields import LabelledField, render_labelled_field
from wsi_pipeline.simulation.megakaryocytes import MegakaryocyteShape, draw_megakaryocyte
from wsi_pipeline.simulation.profile import Profile
from wsi_pipeline.simulation.sprites import load_sprites

MPP = 0.5
SETTINGS: dict[str, Any] = {
    "specimen": "trephine", "cells.classifier": None, "cells.dysplasia_reference": None, "regions.mode": "all",
    "segmentation.max_cell_diameter_um": 80, "exports.report": False, "cells.embedding": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def field() -> LabelledField:
    """A section with drawn megakaryocytes among real nuclei."""
    rng = np.random.default_rng(2)
    shapes = [
        MegakaryocyteShape(diameter_um=diameter, nc_ratio=0.35, lobes=lobes, lobulation=0.5)
        for diameter, lobes in ((20, 1), (24, 3), (28, 5), (32, 6))
    ]
    sprites = (*load_sprites(), *(draw_megakaryocyte(shape, rng) for shape in shapes))
    layers = {
        "megakaryocyte": {"per_mm2": 90, "sticky": 0.4, "gap": 1.02, "mix": {"megakaryocyte:drawn": 1}},
        "nucleus": {"per_mm2": 6000, "gap": 1.04, "mix": {"nucleus": 1}},
    }
    about = {"name": "test", "description": "test", "specimen": "trephine", "background": "tissue"}
    profile = Profile.model_validate({**about, "layers": layers})
    return render_labelled_field(profile, sprites, 7, size_px=(820, 600), mpp=MPP)


@pytest.fixture(scope="module")
def slide(field: LabelledField, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("section") / "section.tiff"
    tifffile.imwrite(
        path, field.rgb, tile=(256, 256), photometric="rgb", compression="jpeg", compressionargs={"level": 95},
        resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def run(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    result = run_here([slide], out, {**SETTINGS, "tiling.core_px": 1024})
    assert [s["status"] for s in result.summaries] == ["ok"]
    return out


def cells_of(out: Path) -> pd.DataFrame:
    return pq.read_table(out / "slides" / "section" / "cells.parquet").to_pandas()


def test_megakaryocytes_are_found_whole_and_measured(run: Path, field: LabelledField) -> None:
    cells = cells_of(run)
    large = cells[cells["kind"] == "megakaryocyte"]
    outlines = shapely.from_wkb(large["geometry"].to_numpy())
    true = [number for number, kind in enumerate(field.kinds, 1) if kind == "megakaryocyte"]
    found = 0
    for number in true:
        rows, columns = np.nonzero(field.labels == number)
        on = shapely.contains_xy(outlines[:, None], columns[None, :] + 0.5, rows[None, :] + 0.5)
        area = np.array([outline.area for outline in outlines])
        found += bool((on.sum(axis=1) / (area + len(rows) - on.sum(axis=1)) >= 0.5).any())
    assert len(true) >= 8
    assert found >= 0.7 * len(true)
    assert (large["class_name"] == "megakaryocyte").all()
    assert large[["nucleus_area_um2", "nc_ratio", "cell_od_red", "cytoplasm_eosin"]].notna().all(axis=None)
    with_nucleus = large[large["nucleus_area_um2"] > 0]
    assert len(with_nucleus) >= 0.8 * len(large)
    measures = ["nucleus_lobes", "nucleus_concavities", "nucleus_solidity", "nucleus_od", "nucleus_chromatin"]
    assert with_nucleus[measures].notna().all(axis=None)
    nuclei = shapely.from_wkb(with_nucleus["nucleus"].to_numpy())
    assert shapely.covers(shapely.from_wkb(with_nucleus["geometry"].to_numpy()), nuclei).all()
    assert cells["cell_id"].is_unique


def test_no_nucleus_lies_in_a_megakaryocyte(run: Path) -> None:
    cells = cells_of(run)
    small = cells[cells["kind"] == "nucleus"]
    assert len(small) > 200
    assert set(cells["kind"]) == {"nucleus", "megakaryocyte"}
    large = shapely.union_all(shapely.from_wkb(cells[cells["kind"] == "megakaryocyte"]["geometry"].to_numpy()))
    assert not shapely.contains_xy(large, small["x_px0"], small["y_px0"]).any()
    nuclei = shapely.from_wkb(small["geometry"].to_numpy())
    assert (shapely.area(shapely.intersection(nuclei, large)) <= 0.5 * shapely.area(nuclei) + 1e-6).all()


def test_embeddings_are_of_megakaryocytes_alone(run: Path) -> None:
    cells = cells_of(run)
    large = cells["kind"] == "megakaryocyte"
    assert cells["embedding"].notna().equals(large)
    values = np.stack(cells[large]["embedding"].to_numpy()).astype(float)
    assert values.shape[1] == embedding_dim(load_config("trephine").segmentation.megakaryocyte_model or "")
    assert np.isfinite(values).all()
    assert len(np.unique(values.round(3), axis=0)) == large.sum()


@pytest.mark.parametrize("core_px", [256, 512])
def test_results_do_not_depend_on_the_core_size(slide: Path, run: Path, tmp_path: Path, core_px: int) -> None:
    run_here([slide], tmp_path, {**SETTINGS, "tiling.core_px": core_px})
    assert cells_of(tmp_path)["block"].nunique() > 2
    assert first_difference(run, tmp_path, "section") is None


def test_two_workers_on_the_command_line_give_the_same(slide: Path, run: Path, tmp_path: Path) -> None:
    settings = {**PIPELINE, **SETTINGS, "tiling.core_px": 256, "runtime.workers": 2}
    del settings["specimen"]
    command = [
        sys.executable, "-m", "wsi_pipeline.cli.main", "run", str(slide), "--config", "trephine",
        "--out", str(tmp_path), *arguments(settings),
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    assert cells_of(tmp_path)["block"].nunique() > 4
    assert json.loads((tmp_path / "run.json").read_text())["workers"] == 2
    assert first_difference(run, tmp_path, "section") is None


def test_a_run_that_lost_blocks_resumes_to_the_same(slide: Path, run: Path, tmp_path: Path) -> None:
    settings = {**SETTINGS, "tiling.core_px": 512}
    run_here([slide], tmp_path, settings)
    (work,) = (tmp_path / "work" / "section").iterdir()
    for part in sorted((work / "blocks").iterdir())[::2]:
        part.unlink()
    shutil.rmtree(work / "merged")
    shutil.rmtree(tmp_path / "slides" / "section")
    run_here([slide], tmp_path, settings)
    assert first_difference(run, tmp_path, "section") is None


def test_the_provenance_names_both_networks_and_without_the_second_one_the_first_answers(
    slide: Path, run: Path, tmp_path: Path
) -> None:
    summary = json.loads((run / "slides" / "section" / "summary.json").read_text())
    assert summary["provenance"]["segmentation model"] == "compact-section"
    assert summary["provenance"]["megakaryocyte model"] == "compact-megakaryocyte"
    assert len(summary["provenance"]["megakaryocyte SHA-256"]) == 64
    run_here([slide], tmp_path, {**SETTINGS, "segmentation.megakaryocyte_model": None, "cells.embedding": False})
    cells = cells_of(tmp_path)
    assert cells["nucleus"].isna().all()
    assert "embedding" not in cells


def test_a_network_of_nuclei_or_another_specimen_is_refused() -> None:
    with pytest.raises(ModelError, match="knows background, nucleus, megakaryocyte; it must be"):
        load_megakaryocyte_model("compact-section", specimen="trephine", device="cpu", precision="auto")
    with pytest.raises(ConfigError, match="must be null"):
        load_config("blood_smear", {"segmentation.megakaryocyte_model": "compact-megakaryocyte"})
