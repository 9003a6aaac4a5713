from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from make_cells import FakeClass, FakeTaxonomy, make_cells

from wsi_pipeline.errors import DataError
from wsi_pipeline.exports.qupath import to_grid, write_qupath
from wsi_pipeline.exports.qupath_validator import validate_qupath


def _read(path: Path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))


def _write(cells: Path, out: Path, taxonomy: FakeTaxonomy, offset: tuple[float, float] = (0.0, 0.0)) -> int:
    return write_qupath(cells, out, offset_px0=offset, taxonomy=taxonomy, specimen="blood_smear")


def test_every_cell_arrives_in_qupaths_frame(cells: Path, tmp_path: Path, fake_taxonomy: FakeTaxonomy) -> None:
    out = tmp_path / "qupath.geojson.gz"
    table = pq.read_table(cells).to_pydict()
    assert _write(cells, out, fake_taxonomy, (1000.25, 500.0)) == 600
    features = _read(out)["features"]
    assert [f["id"] for f in features] == table["cell_id"]
    assert validate_qupath(out) == []
    ious = []
    for i, feature in enumerate(features):
        expected = shapely.from_wkb(table["geometry"][i])
        found = shapely.transform(
            shapely.geometry.shape(feature["geometry"]), lambda xy: xy + np.array([1000.25, 500.0])
        )
        if expected.is_valid:
            ious.append(found.intersection(expected).area / found.union(expected).area)
        else:
            assert found.area > 0.4 * shapely.make_valid(expected).area
        properties = feature["properties"]
        has_nucleus = table["nucleus"][i] is not None
        assert properties["objectType"] == ("cell" if has_nucleus else "detection")
        assert ("nucleusGeometry" in feature) == has_nucleus
        assert len(properties["classification"]["color"]) == 3
        assert properties["measurements"]["Area um^2"] == pytest.approx(table["area_um2"][i], abs=0.006)
        assert ("Class probability" in properties["measurements"]) == (table["class_probability"][i] is not None)
        assert properties["measurements"].get("Truncated", 0) == table["truncated"][i]
    assert len(ious) > 550
    assert min(ious) > 0.99


def test_names_and_colours_come_from_the_taxonomy(cells: Path, tmp_path: Path, fake_taxonomy: FakeTaxonomy) -> None:
    _write(cells, tmp_path / "q.geojson.gz", fake_taxonomy)
    by_code = {c.code: c for c in fake_taxonomy.classes}
    codes = pq.read_table(cells, columns=["class_name"]).column(0).to_pylist()
    seen = set()
    for code, feature in zip(codes, _read(tmp_path / "q.geojson.gz")["features"], strict=True):
        found = feature["properties"]["classification"]
        seen.add(code)
        if code in by_code:
            assert found == {"name": by_code[code].name_en, "color": list(by_code[code].color)}
        else:
            assert found == {"name": code, "color": [128, 128, 128]}
    assert {"artefact", "red_cell", "platelet", "lymphocyte"} <= seen


def test_hostile_class_names_stay_one_class(cells: Path, tmp_path: Path) -> None:
    odd = ' a:b\n"c" '
    names = FakeTaxonomy(
        name="x", classes=(FakeClass(code="red_cell", name_en=odd, name_fr=odd, color=(1, 2, 3)),), roll_ups={}
    )
    _write(cells, tmp_path / "q.geojson.gz", names)
    assert validate_qupath(tmp_path / "q.geojson.gz") == []
    found = {f["properties"]["classification"]["name"] for f in _read(tmp_path / "q.geojson.gz")["features"]}
    assert 'a b "c"' in found


def test_same_bytes_whatever_the_name_and_the_row_groups(
    cells: Path, tmp_path: Path, fake_taxonomy: FakeTaxonomy
) -> None:
    one, two = tmp_path / "a.geojson.gz", tmp_path / "b" / "other.geojson.gz"
    again = tmp_path / "again.parquet"
    pq.write_table(pq.read_table(cells), again, row_group_size=37)
    _write(cells, one, fake_taxonomy)
    _write(again, two, fake_taxonomy)
    assert one.read_bytes() == two.read_bytes()
    head = one.read_bytes()[:10]
    assert head[3] == 0, "no file name in the gzip header"
    assert head[4:8] == bytes(4), "no time in the gzip header"


def test_no_cells_is_an_empty_collection(tmp_path: Path, fake_taxonomy: FakeTaxonomy) -> None:
    empty = make_cells(tmp_path / "cells.parquet", 0, size_px0=(100, 100))
    assert _write(empty, tmp_path / "q.geojson.gz", fake_taxonomy) == 0
    assert validate_qupath(tmp_path / "q.geojson.gz") == []
    assert _read(tmp_path / "q.geojson.gz")["features"] == []


def test_outline_without_area_is_left_out_with_a_warning(
    cells: Path, tmp_path: Path, fake_taxonomy: FakeTaxonomy, caplog: pytest.LogCaptureFixture
) -> None:
    table = pq.read_table(cells).slice(0, 5)
    line = shapely.Polygon([(0, 0), (5, 0), (9, 0)])
    shapes = [line.wkb, None, *table.column("geometry").to_pylist()[2:]]
    index = table.schema.get_field_index("geometry")
    pq.write_table(table.set_column(index, "geometry", pa.array(shapes, pa.binary())), tmp_path / "c.parquet")
    with caplog.at_level(logging.WARNING):
        assert _write(tmp_path / "c.parquet", tmp_path / "q.geojson.gz", fake_taxonomy) == 3
    assert "2 cells without area" in caplog.text
    assert validate_qupath(tmp_path / "q.geojson.gz") == []


def test_unusable_tables_are_typed_errors_and_leave_nothing(tmp_path: Path, fake_taxonomy: FakeTaxonomy) -> None:
    out = tmp_path / "q.geojson.gz"
    with pytest.raises(DataError, match="does not exist"):
        _write(tmp_path / "none.parquet", out, fake_taxonomy)
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(DataError, match="not a readable Parquet"):
        _write(tmp_path / "text.parquet", out, fake_taxonomy)
    pq.write_table(pa.table({"cell_id": ["a"]}), tmp_path / "few.parquet")
    with pytest.raises(DataError, match="geometry, class_name"):
        _write(tmp_path / "few.parquet", out, fake_taxonomy)
    pq.write_table(pa.table({"cell_id": ["a"], "geometry": [b"xx"], "class_name": ["b"]}), tmp_path / "wkb.parquet")
    with pytest.raises(DataError, match="not WKB"):
        _write(tmp_path / "wkb.parquet", out, fake_taxonomy)
    assert not out.exists()
    assert list(tmp_path.glob(".*")) == []


_coordinate = st.floats(-30, 30, allow_nan=False).map(lambda v: v / 10)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(_coordinate, _coordinate), min_size=3, max_size=14), st.floats(0, 1e5))
@example([(-0.1, 1.1), (0.4, 0.0), (-0.1, 1.1), (0.0, 0.0), (0.4, 0.0)], 0.0)
def test_any_ring_becomes_valid_on_the_grid_or_none(ring: list[tuple[float, float]], at: float) -> None:
    shape = shapely.Polygon(ring)
    moved = shapely.transform(shape, lambda xy: xy + at)
    (found,) = to_grid(np.array([moved], dtype=object), (at, at))
    if found is None:
        largest = max((p.area for p in shapely.get_parts(shapely.make_valid(shape))), default=0.0)
        assert largest < 0.2 + 1e-9, "only slivers may vanish"
        return
    assert found.is_valid
    assert found.geom_type == "Polygon"
    assert found.area > 0
    xy = shapely.get_coordinates(found)
    assert np.array_equal(xy, np.rint(xy * 100) / 100)
    lower, upper = shapely.bounds(shape)[:2] - 0.02, shapely.bounds(shape)[2:] + 0.02
    assert np.all(xy >= lower)
    assert np.all(xy <= upper)


def test_collinear_points_go_and_the_shape_stays(cells: Path, tmp_path: Path, fake_taxonomy: FakeTaxonomy) -> None:
    stairs = shapely.Polygon([(0, 0), (1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (2, 2), (2, 3), (0, 3), (0, 1)])
    table = pq.read_table(cells).slice(0, 1)
    index = table.schema.get_field_index("geometry")
    pq.write_table(table.set_column(index, "geometry", pa.array([stairs.wkb], pa.binary())), tmp_path / "c.parquet")
    _write(tmp_path / "c.parquet", tmp_path / "q.geojson.gz", fake_taxonomy)
    found = shapely.geometry.shape(_read(tmp_path / "q.geojson.gz")["features"][0]["geometry"])
    assert found.equals(stairs)
    assert len(found.exterior.coords) == 7


def test_holes_survive(tmp_path: Path) -> None:
    ring = shapely.Point(50, 50).buffer(20).difference(shapely.Point(50, 50).buffer(8))
    (found,) = to_grid(np.array([ring], dtype=object), (0, 0))
    assert len(found.interiors) == 1
    assert found.area == pytest.approx(ring.area, rel=1e-3)


def test_a_lobed_nucleus_keeps_its_lobes(cells: Path, tmp_path: Path, fake_taxonomy: FakeTaxonomy) -> None:
    table = pq.read_table(cells).slice(0, 4)
    left, right = shapely.Point(10, 10).buffer(4), shapely.Point(20, 10).buffer(5)
    touching = shapely.MultiPolygon([shapely.box(0, 0, 5, 5), shapely.box(5.001, 0, 10, 8)])
    nuclei = [shapely.MultiPolygon([left, right]).wkb, touching.wkb, shapely.MultiPolygon([left]).wkb, left.wkb]
    index = table.schema.get_field_index("nucleus")
    pq.write_table(table.set_column(index, "nucleus", pa.array(nuclei, pa.binary())), tmp_path / "c.parquet")
    assert _write(tmp_path / "c.parquet", tmp_path / "q.geojson.gz", fake_taxonomy) == 4
    assert validate_qupath(tmp_path / "q.geojson.gz") == []
    found = [shapely.geometry.shape(f["nucleusGeometry"]) for f in _read(tmp_path / "q.geojson.gz")["features"]]
    assert [shape.geom_type for shape in found] == ["MultiPolygon", "Polygon", "Polygon", "Polygon"]
    assert found[0].area == pytest.approx(left.area + right.area, rel=1e-3)
    assert found[1].area == pytest.approx(39.99, abs=0.1), "lobes that meet on the grid: the larger stays"
