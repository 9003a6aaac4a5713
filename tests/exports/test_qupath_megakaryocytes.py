"""Megakaryocytes in QuPath: cells with their nucleus, the phenotype as a derived class, and named measurements."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from tests.made_trephines import MadeTrephine, make_trephines
from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_megakaryocytes import MEASUREMENTS, megakaryocyte_extras, phenotype_names
from wsi_pipeline.exports.qupath_validator import validate_qupath
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.qupath.objects import class_name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    make_trephines(out, [MadeTrephine(slide_id="S", mix=(24, 4, 2), seed=1)])
    folder = out / "slides" / "S"
    table = pq.read_table(folder / "cells.parquet")
    nuclei = [
        shapely.to_wkb(shapely.from_wkb(wkb).buffer(-8)) if kind == "megakaryocyte" else None
        for kind, wkb in zip(table["kind"].to_pylist(), table["geometry"].to_pylist(), strict=True)
    ]
    place = table.schema.get_field_index("nucleus")
    pq.write_table(table.set_column(place, "nucleus", pa.array(nuclei, pa.binary())), folder / "cells.parquet")
    rows = (folder / "megakaryocytes.csv").read_text().splitlines()
    at = rows[0].split(",").index("phenotype")
    told = [line.split(",") for line in rows[1:]]
    for i, cells in enumerate(told):
        cells[at] = "big" if i % 2 else ""
    (folder / "megakaryocytes.csv").write_text("\n".join([rows[0], *(",".join(c) for c in told)]) + "\n")
    return folder


def _written(folder: Path, name: str, out: Path) -> list[dict]:
    extras = megakaryocyte_extras(folder / "megakaryocytes.csv", {"big": name})
    write_qupath(
        folder / "cells.parquet", out, offset_px0=(0, 0), taxonomy=load_taxonomy("section"), specimen="trephine",
        extras=extras,
    )  # fmt: skip
    assert validate_qupath(out) == []
    return json.loads(gzip.decompress(out.read_bytes()))["features"]


def test_megakaryocytes_are_cells_with_phenotype_and_measurements(folder: Path, tmp_path: Path) -> None:
    features = _written(folder, "large hyperlobated", tmp_path / "q.geojson.gz")
    kinds = [feature["properties"]["objectType"] for feature in features]
    assert (kinds.count("cell"), kinds.count("detection")) == (30, 60)
    cells = [feature for feature in features if feature["properties"]["objectType"] == "cell"]
    named = [feature["properties"]["classification"] for feature in cells]
    assert sum(one.get("names") == ["megakaryocyte", "large hyperlobated"] for one in named) == 15
    assert sum(one.get("name") == "megakaryocyte" for one in named) == 15
    wanted = {name for name, _, _ in MEASUREMENTS} - {"Cluster"}
    assert all(wanted <= set(feature["properties"]["measurements"]) for feature in cells)
    others = [f for f in features if f["properties"]["objectType"] == "detection"]
    assert not any(wanted & set(f["properties"]["measurements"]) for f in others)
    assert {class_name(f) for f in cells} == {"megakaryocyte", "megakaryocyte: large hyperlobated"}


def test_names_that_qupath_would_split_or_refuse_are_made_plain(folder: Path, tmp_path: Path) -> None:
    features = _written(folder, 'a: b\n"c"', tmp_path / "q.geojson.gz")
    names = {tuple(f["properties"]["classification"].get("names", ())) for f in features}
    assert ("megakaryocyte", 'a b "c"') in names


def test_a_slide_without_the_table_adds_nothing_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    assert megakaryocyte_extras(tmp_path / "none.csv", {}) == {}
    (tmp_path / "m.csv").write_text("cell_id,phenotype\nA,b\n")
    with pytest.raises(DataError, match=r"m\.csv cannot be read"):
        megakaryocyte_extras(tmp_path / "m.csv", {})


def test_names_come_from_the_summary() -> None:
    assert phenotype_names({"phenotypes": {"rows": [{"code": "a", "name": "A"}]}}) == {"a": "A"}
    assert phenotype_names(None) == {}
    assert phenotype_names({"phenotypes": {"rows": []}}) == {}
