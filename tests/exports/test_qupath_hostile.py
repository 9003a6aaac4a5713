"""Whatever geometry a table holds, the file that QuPath gets obeys every rule of its importer."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from make_cells import FakeClass, FakeTaxonomy

from wsi_pipeline.exports.qupath import write_qupath
from wsi_pipeline.exports.qupath_validator import validate_qupath

TAXONOMY = FakeTaxonomy(
    name="x", classes=(FakeClass(code="c", name_en="C", name_fr="C", color=(1, 2, 3)),), roll_ups={}
)

_small = st.integers(-300, 300).map(lambda v: v / 100)
_odd = st.sampled_from([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e16, 5e-324, 0.005, 0.0149999])
_number = st.one_of(_small, _small, _small, st.floats(-1e6, 1e6), _odd)
_point = st.tuples(_number, _number)
_ring = st.lists(_point, min_size=3, max_size=12)
_drawn = st.lists(st.tuples(_small, _small), min_size=3, max_size=12)


# Shapely closes a ring by its first point, which must be a number.
_polygon = st.builds(
    lambda first, ring, holes: shapely.Polygon([first, *ring], holes),
    st.tuples(_small, _small), _ring, st.lists(_drawn, max_size=2),
)  # fmt: skip
_bow_tie = st.builds(
    lambda x, y, w, h: shapely.Polygon([(x, y), (x + w, y + h), (x + w, y), (x, y + h)]), _small, _small, _small, _small
)
_line = st.builds(lambda x, y, w: shapely.Polygon([(x, y), (x + w, y), (x + 2 * w, y)]), _small, _small, _small)
_sliver = st.builds(lambda x, h: shapely.Polygon([(x, 0), (x + 9, h), (x, 2 * h)]), _small, st.floats(0, 0.02))
_far = st.builds(lambda x: shapely.Point(x, -x).buffer(7), st.sampled_from([1e5, 1e9, 1e12, 1e15]))
_single = st.one_of(_polygon, _bow_tie, _line, _sliver, _far)
_several = st.lists(_single, min_size=1, max_size=3).map(shapely.MultiPolygon)
_mixed = st.lists(st.one_of(_single, st.just(shapely.Point(1, 1))), max_size=3).map(shapely.GeometryCollection)
_solid = st.builds(lambda ring: shapely.force_3d(shapely.Polygon(ring), 5.0), _drawn)
_other = st.sampled_from([None, shapely.Polygon(), shapely.Point(1, 2), shapely.LineString([(0, 0), (3, 3)])])
_shape = st.one_of(_single, _several, _mixed, _solid, _other)


def _table(cells: list[tuple[shapely.Geometry | None, shapely.Geometry | None]]) -> pa.Table:
    outlines, nuclei = zip(*cells, strict=True)
    return pa.table({
        "cell_id": [str(uuid.UUID(int=i + (4 << 76))) for i in range(len(cells))],
        "geometry": pa.array(shapely.to_wkb(np.array(outlines, object)), pa.binary()),
        "nucleus": pa.array(shapely.to_wkb(np.array(nuclei, object)), pa.binary()),
        "class_name": ["c"] * len(cells),
        "area_um2": [np.nan, np.inf, 1.0][: len(cells)] + [1.0] * max(0, len(cells) - 3),
    })  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.tuples(_shape, _shape), min_size=1, max_size=6),
    offset=st.sampled_from([(0.0, 0.0), (365.0, 12.0), (0.25, 1e5)]),
)
@example(cells=[(shapely.Polygon([(0, 0), (1e300, 0), (0, 1e300)]), None)], offset=(0.0, 0.0))
def test_hostile_geometry_never_breaks_a_file(
    tmp_path: Path,
    cells: list[tuple[shapely.Geometry | None, shapely.Geometry | None]],
    offset: tuple[float, float],
) -> None:
    pq.write_table(_table(cells), tmp_path / "cells.parquet")
    out = tmp_path / "q.geojson.gz"
    written = write_qupath(
        tmp_path / "cells.parquet", out, offset_px0=offset, taxonomy=TAXONOMY, specimen="blood_smear"
    )
    assert validate_qupath(out) == []
    found = json.loads(gzip.decompress(out.read_bytes()))["features"]
    assert len(found) == written
    good = [
        str(uuid.UUID(int=i + (4 << 76)))
        for i, (outline, _) in enumerate(cells)
        if outline is not None and outline.geom_type == "Polygon" and outline.is_valid and outline.area > 0.5
        and np.abs(shapely.get_coordinates(outline)).max() < 1e6
    ]  # fmt: skip
    assert set(good) <= {feature["id"] for feature in found}, "a valid outline of some size is never lost"


def test_the_validator_finds_what_the_writer_avoids(tmp_path: Path) -> None:
    """The rules can fail: the same shapes, written as they are, do not pass."""
    bad = [
        shapely.Polygon([(0, 0), (9, 9), (9, 0), (0, 9)]),
        shapely.Polygon([(0, 0), (5, 0), (9, 0)]),
        shapely.GeometryCollection([shapely.Point(1, 1)]),
        shapely.Polygon([(0, 0), (0.001, 0), (0, 0.001)]),
    ]
    for shape in bad:
        feature = {
            "type": "Feature", "id": str(uuid.UUID(int=4 << 76)), "geometry": shapely.geometry.mapping(shape),
            "properties": {"objectType": "detection"},
        }  # fmt: skip
        (tmp_path / "q.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        assert validate_qupath(tmp_path / "q.geojson"), shape.wkt


@pytest.mark.parametrize("word", ["NaN", "Infinity", "null"])
def test_coordinates_that_are_no_numbers_are_found(tmp_path: Path, word: str) -> None:
    text = (
        '{"type":"FeatureCollection","features":[{"type":"Feature","properties":{"objectType":"detection"},'
        f'"geometry":{{"type":"Polygon","coordinates":[[[0,0],[{word},0],[3,3],[0,0]]]}}}}]}}'
    )
    (tmp_path / "q.geojson").write_text(text)
    assert validate_qupath(tmp_path / "q.geojson")
