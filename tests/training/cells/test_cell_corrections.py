"""Corrected labels of a run, matched to its cells and read from its slide."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from own_cell_images import COLOURS, cell

from wsi_pipeline.errors import ConfigError, DataError
from wsi_pipeline.slides import slide_fingerprint
from wsi_pipeline.taxonomies import load_taxonomy
from wsi_pipeline.training.cells.corrections import is_run, read_run
from wsi_pipeline.training.cells.listing import resolve_labels
from wsi_pipeline.training.cells.pack import pack_listing

SIDE, N = 60, 6


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The output of a run: one slide of six drawn cells in a row, as its tables describe them."""
    names = [list(COLOURS)[k % 2] for k in range(N)]
    field = np.concatenate([cell(name, k, SIDE) for k, name in enumerate(names)], axis=1)
    slide = tmp_path / "s.tif"
    tifffile.imwrite(slide, field, photometric="rgb", resolution=(20000, 20000), resolutionunit="CENTIMETER")
    out = tmp_path / "out"
    (out / "slides" / "s").mkdir(parents=True)
    (out / "slides.csv").write_text(
        "slide_id,path,specimen,status,reason,mpp,area_mm2,n_cells,seconds\n"
        f"s,{slide},blood_smear,ok,,0.5,1,{N},1\nbroken,{slide},blood_smear,failed,unreadable,,,,\n"
    )
    summary = {
        "status": "ok", "seconds": 1, "taxonomy": "pbc-blast", "working_mpp": 0.25,
        "mpp": {"x": 0.5, "y": 0.5, "source": "slide"},
        "provenance": {"slide fingerprint": slide_fingerprint(slide), "size, level-0 px": f"{N * SIDE} x {SIDE}"},
    }  # fmt: skip
    (out / "slides" / "s" / "summary.json").write_text(json.dumps(summary))
    (out / "run.json").write_text(json.dumps({"configurations": {"blood_smear": {"slides": {}}}}))
    x, y = np.arange(N) * SIDE + SIDE / 2, np.full(N, SIDE / 2)
    table = pa.table({
        "cell_id": [f"id-{k}" for k in range(N)], "geometry": shapely.to_wkb(shapely.buffer(shapely.points(x, y), 8)),
        "x_px0": x, "y_px0": y, "class_name": ["lymphocyte"] * N,
    })  # fmt: skip
    pq.write_table(table, out / "slides" / "s" / "cells.parquet")
    return out


def _feature(k: int, label: str, *, id_: str | None, shift: float = 0.0) -> dict[str, Any]:
    shape = shapely.Point(k * SIDE + SIDE / 2 + shift, SIDE / 2).buffer(8)
    return {
        "type": "Feature", "id": id_, "geometry": shapely.geometry.mapping(shape),
        "properties": {"objectType": "cell", "classification": {"name": label}},
    }  # fmt: skip


def _write(path: Path, features: list[dict[str, Any]]) -> Path:
    text = json.dumps({"type": "FeatureCollection", "features": features}).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_objects_are_matched_by_id_then_by_overlap(run: Path, tmp_path: Path) -> None:
    features = [
        _feature(0, "Lymphocyte", id_="id-0", shift=30),  # moved, yet its id says which it is
        _feature(1, "Eosinophil", id_="new", shift=2),
        _feature(2, "Red cell", id_="id-2"),
        _feature(3, "Eosinophil", id_="far", shift=9),
        {**_feature(4, "", id_="id-4"), "properties": {"objectType": "cell"}},
    ]
    listing = read_run(run, _write(tmp_path / "s.geojson.gz", features))
    assert is_run(run)
    assert {e.name: e.label for e in listing.examples} == {
        "s/id-0": "Lymphocyte", "s/id-1": "Eosinophil", "s/id-2": "Red cell"
    }  # fmt: skip
    assert "2 cells labelled by id, 1 by overlap, 1 objects that match no cell left out" in listing.notes[0]
    known = resolve_labels(listing, load_taxonomy("pbc-blast"), run, ignore_unknown=False)
    assert [e.label for e in known.examples] == ["lymphocyte", "eosinophil"]
    assert "1 of 2 labels differ from what the run answered" in known.notes
    packed = pack_listing(known, side=40, mpp=0.5, source="run", cache=tmp_path / "cells.npz")
    assert packed.slide.tolist() == ["s", "s"]
    for image, name in zip(packed.cells.images, ("lymphocyte", "eosinophil"), strict=True):
        middle = image[16:24, 16:24].reshape(-1, 3).mean(0)
        assert np.abs(middle - COLOURS[name]).max() < 10


def test_a_csv_and_a_column_label_cells(run: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("cell_id,label\nid-1,eosinophil\nid-2,\n")
    assert [e.name for e in read_run(run, labels).examples] == ["s/id-1"]
    labels.write_text("cell_id,label\nid-1,eosinophil\nid-77,monocyte\n")
    with pytest.raises(DataError, match=r"1 cells are not in this run: id-77 \(line 3\)"):
        read_run(run, labels)
    with pytest.raises(DataError, match="no column label"):
        read_run(run, None)
    parquet = run / "slides" / "s" / "cells.parquet"
    table = pq.read_table(parquet)
    pq.write_table(table.append_column("label", [["eosinophil", None, "lymphocyte", None, None, None]]), parquet)
    assert [e.label for e in read_run(parquet, None).examples] == ["eosinophil", "lymphocyte"]


def test_what_contradicts_or_is_missing_is_named(run: Path, tmp_path: Path) -> None:
    twice = [_feature(0, "Lymphocyte", id_="id-0"), _feature(0, "Eosinophil", id_="x")]
    with pytest.raises(DataError, match="both cover cell id-0"):
        read_run(run, _write(tmp_path / "a.geojson", twice))
    (tmp_path / "b.geojson").write_text("{")
    with pytest.raises(DataError, match="cannot be read as GeoJSON"):
        read_run(run, tmp_path / "b.geojson")
    outside = [_feature(0, "Lymphocyte", id_="id-0"), _feature(90, "Eosinophil", id_="x")]
    with pytest.raises(DataError, match="outside slide s"):
        read_run(run, _write(tmp_path / "c.geojson", outside))
    region = {"type": "Feature", "geometry": outside[0]["geometry"], "properties": {"metadata": {}}}
    region["properties"]["metadata"] = {"status": "included", "fingerprint": "f" * 64}
    with pytest.raises(DataError, match="is of another slide: its fingerprint"):
        read_run(run, _write(tmp_path / "c.geojson", [*twice[:1], region]))
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((SIDE, N * SIDE, 3), np.uint8), photometric="rgb")
    with pytest.raises(ConfigError, match="its fingerprint differs"):
        read_run(run, _write(tmp_path / "a.geojson", twice[:1]))
    (tmp_path / "s.tif").unlink()
    with pytest.raises(DataError, match="slide s of the run is not at"):
        read_run(run, _write(tmp_path / "a.geojson", twice[:1]))
