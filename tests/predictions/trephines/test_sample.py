"""A trephine's megakaryocytes: what is read, what follows from it, and when nothing is said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from made_trephines import MPP, WINDOW, MadeTrephine, cells_of
from shapely.geometry import MultiPolygon

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.trephines.megakaryocytes import MEASURES, Megakaryocytes, read_megakaryocytes
from wsi_pipeline.predictions.trephines.mekanet import UNITS
from wsi_pipeline.predictions.trephines.sample import MEGAKARYOCYTE_COLUMNS, TrephineSample, trephine_sample
from wsi_pipeline.predictions.trephines.window import MarrowWindow, window_of
from wsi_pipeline.regions.regions import Exclusion, RegionMode, Regions


def read(slide: MadeTrephine, tmp_path: Path, n_nuclei: int = 60) -> Megakaryocytes:
    pq.write_table(cells_of(slide, n_nuclei), tmp_path / "cells.parquet", row_group_size=16)
    return read_megakaryocytes(tmp_path / "cells.parquet")


def sample(cells: Megakaryocytes, window: MarrowWindow = WINDOW, minimum: int = 20) -> TrephineSample:
    return trephine_sample(
        cells, window, mpp=(MPP, MPP), cellularity={"percent": 50.0}, model=None, allow_simulated=False,
        minimum=minimum, confidence=0.95,
    )  # fmt: skip


def test_hyperchromasia_is_relative_to_the_other_nuclei(tmp_path: Path) -> None:
    cells = read(MadeTrephine(slide_id="s", mix=(15, 0, 15)), tmp_path)
    assert len(cells) == 30
    assert cells.nuclei_od == pytest.approx(0.4, abs=0.01)
    dark = cells.measures["hyperchromasia"]
    assert np.median(dark[:15]) == pytest.approx(1.0, abs=0.1)
    assert np.median(dark[15:]) == pytest.approx(1.6, abs=0.1)
    assert np.isnan(read(MadeTrephine(slide_id="s"), tmp_path, n_nuclei=19).measures["hyperchromasia"]).all()


def test_cut_cells_count_and_are_not_measured(tmp_path: Path) -> None:
    cells = read(MadeTrephine(slide_id="s", mix=(30, 0, 0), cut=4), tmp_path)
    told = sample(cells).to_dict()["megakaryocytes"]
    assert (told["n"], told["truncated"], told["measured"]) == (30, 4, 26)
    assert told["measures"]["area_um2"]["n"] == 26
    assert np.isnan(cells.measures["bare"][:4]).all()
    assert told["bare"]["n"] == 26


def test_bare_is_next_to_no_cytoplasm(tmp_path: Path) -> None:
    table = cells_of(MadeTrephine(slide_id="s", mix=(4, 0, 0)))
    nc = pa.array([0.84, 0.85, 0.99, None, *[None] * 60], pa.float32())
    table = table.set_column(table.column_names.index("nc_ratio"), "nc_ratio", nc)
    pq.write_table(table, tmp_path / "cells.parquet")
    bare = read_megakaryocytes(tmp_path / "cells.parquet").measures["bare"]
    assert bare.tolist()[:1] == [0.0]
    assert bare[2] == 1.0
    assert np.isnan(bare[3])


def test_the_entry_is_json_and_has_every_part(tmp_path: Path) -> None:
    told = sample(read(MadeTrephine(slide_id="s", mix=(30, 5, 5), clustered=0.5), tmp_path)).to_dict()
    again = json.loads(json.dumps(told, allow_nan=False))
    assert again == told
    assert told["marrow_mm2"] == pytest.approx(1.5 * 1.6)
    assert told["bone_mm2"] == pytest.approx(0.16)
    assert not told["abstained"]
    own = told["megakaryocytes"]
    assert own["per_mm2"] == pytest.approx(40 / 2.4)
    assert own["lower"] < own["per_mm2"] < own["upper"]
    assert set(told["mekanet"]) == set(UNITS)
    assert told["mekanet"]["Num_Megakaryocytes"] == 40
    assert told["arrangement"]["bone"]["random_share"] == pytest.approx(100 / 1500, rel=0.05)
    assert told["phenotypes"]["reason"] == "no-model"


def test_the_table_has_a_row_a_cell(tmp_path: Path) -> None:
    cells = read(MadeTrephine(slide_id="s", mix=(30, 0, 0), clustered=0.9, cut=1), tmp_path)
    rows = list(csv.DictReader(io.StringIO(sample(cells).to_csv("s"))))
    assert tuple(rows[0]) == MEGAKARYOCYTE_COLUMNS
    assert [row["cell_id"] for row in rows] == cells.cell_ids.tolist()
    assert rows[0]["truncated"] == "true"
    assert rows[0]["area_um2"] == ""
    assert float(rows[5]["diameter_um"]) == pytest.approx(float(cells.measures["diameter_um"][5]), rel=1e-5)
    assert {row["cluster"] for row in rows} > {"1"}
    assert all(float(row["bone_um"]) >= 0 for row in rows)


@pytest.mark.parametrize(("n", "reason"), [(19, "too-few-megakaryocytes"), (20, None), (0, "too-few-megakaryocytes")])
def test_few_megakaryocytes_abstain(tmp_path: Path, n: int, reason: str | None) -> None:
    told = sample(read(MadeTrephine(slide_id="s", mix=(n, 0, 0)), tmp_path)).to_dict()
    assert told["reason"] == reason
    assert told["abstained"] == (reason is not None)
    assert (told["arrangement"] is None) == (reason is not None)
    assert (told["mekanet"] is None) == (reason is not None)
    assert told["megakaryocytes"]["n"] == n
    if reason:
        assert str(n) in told["wording"]
        assert "20" in told["wording"]


def test_without_marrow_nothing_is_said(tmp_path: Path) -> None:
    nowhere = MarrowWindow(marrow=MultiPolygon(), bone=MultiPolygon())
    told = sample(read(MadeTrephine(slide_id="s", mix=(0, 0, 0)), tmp_path), nowhere).to_dict()
    assert told["reason"] == "no-marrow"
    assert told["megakaryocytes"]["per_mm2"] is None
    assert json.dumps(told, allow_nan=False)


def test_all_measures_are_there_where_a_table_lacks_some(tmp_path: Path) -> None:
    table = cells_of(MadeTrephine(slide_id="s", mix=(30, 0, 0))).drop_columns(["nucleus_concavities"])
    pq.write_table(table, tmp_path / "cells.parquet")
    cells = read_megakaryocytes(tmp_path / "cells.parquet")
    assert set(cells.measures) == set(MEASURES)
    assert np.isnan(cells.measures["nucleus_concavities"]).all()


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cells.parquet"
    pq.write_table(pa.table({"kind": ["nucleus"]}), path)
    with pytest.raises(DataError, match="lacks"):
        read_megakaryocytes(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_megakaryocytes(path)


def test_bone_told_in_an_image_read_whole_is_no_marrow() -> None:
    image, bone = shapely.box(0, 0, 1000, 500), shapely.box(0, 0, 200, 500)

    def regions(mode: RegionMode) -> Regions:
        return Regions(
            included=MultiPolygon([image]), excluded=(), mode_requested="auto", mode=mode, note="", area_mm2=0.125,
            fingerprint="f", bounds_offset_px0=(0, 0), inside=(Exclusion(bone, "bone"), Exclusion(image, "fat")),
        )  # fmt: skip

    whole, drawn = window_of(regions("all"), (0.5, 0.5)), window_of(regions("file"), (0.5, 0.5))
    assert whole.area_um2 == pytest.approx(800 * 500 / 4)
    assert whole.bone.area == pytest.approx(200 * 500 / 4)
    distance = whole.bone_distance_um(np.array([[150.0, 100.0], [50.0, 100.0]]))
    assert distance is not None
    assert distance == pytest.approx([50.0, 0.0])
    assert drawn.area_um2 == pytest.approx(1000 * 500 / 4)
    assert drawn.bone.is_empty
