"""GeoJSON: what QuPath may give is read, everything else is a RegionError; what is written comes back."""

from __future__ import annotations

import dataclasses
import gzip
import json
import uuid

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box, mapping, shape

from wsi_pipeline.config import RegionsConfig
from wsi_pipeline.errors import RegionError
from wsi_pipeline.regions import Exclusion, Regions, find_regions, read_regions, write_regions
from wsi_pipeline.regions.polygons import mask_to_polygons
from wsi_pipeline.units import FrameTransform

SQUARE = mapping(box(100, 100, 500, 400))
FILE = RegionsConfig(mode="file")


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


@pytest.fixture
def slide(open_image, glass):
    with open_image(glass(1000, 800)) as opened:
        yield opened


@pytest.mark.parametrize(
    "tree",
    [
        {"type": "FeatureCollection", "features": [feature(SQUARE)]},
        feature(SQUARE, objectType="annotation", classification={"name": "Region", "color": [1, 2, 3]}),
        [feature(SQUARE)],
        SQUARE,
        mapping(MultiPolygon([box(100, 100, 500, 400)])),
        {"type": "Feature", "geometry": SQUARE, "properties": None},
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_container_is_read(slide, tmp_path, tree, packed):
    path = tmp_path / "r.geojson"
    data = json.dumps(tree).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    regions = find_regions(slide, specimen="trephine", config=FILE, regions_file=path)
    assert regions.mode == "file"
    assert regions.included.equals(box(100, 100, 500, 400))
    assert [part.reason for part in regions.excluded] == ["outside-drawn"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "GeoJSON"),
        ("[]", "no area"),
        ('{"type":"Topology"}', "GeoJSON"),
        ("[3]", "feature 0"),
        (json.dumps(feature({"type": "Point", "coordinates": [1, 2]})), "Point"),
        (json.dumps(feature(None)), "NoneType"),
        (json.dumps(feature(SQUARE, objectType="cell")), "cell"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})), "coordinates"),
        (json.dumps(feature({"type": "Polygon", "coordinates": "x"})), "coordinates"),
        (json.dumps(feature({"type": "Polygon", "coordinates": []})), "coordinates"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [float("nan"), 1], [1, 0], [0, 0]]]})), "NaN"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1e999,1],[1,0],[0,0]]]}', "finite"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]})), "no area"),
        (json.dumps(feature(mapping(box(5000, 5000, 6000, 6000)))), "miss the slide"),
        (json.dumps(feature(SQUARE, classification={"name": "Ignore*", "color": []})), "ignored"),
    ],
)
def test_bad_files_are_refused(slide, tmp_path, text, says):
    path = tmp_path / "r.geojson"
    path.write_text(text)
    with pytest.raises(RegionError, match=says) as caught:
        find_regions(slide, specimen="trephine", config=FILE, regions_file=path)
    assert "r.geojson" in str(caught.value)


def test_missing_file_and_missing_name(slide, tmp_path):
    with pytest.raises(RegionError, match="does not exist"):
        find_regions(slide, specimen="trephine", config=FILE, regions_file=tmp_path / "no.geojson")
    with pytest.raises(RegionError, match="regions column"):
        find_regions(slide, specimen="trephine", config=FILE)


def test_bow_tie_is_repaired_and_the_outside_cut(slide, tmp_path):
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps(mapping(Polygon([(800, 0), (1200, 400), (1200, 0), (800, 400)]))))
    regions = find_regions(slide, specimen="trephine", config=RegionsConfig(), regions_file=path)
    assert regions.included.is_valid
    assert regions.included.bounds[2] <= 1000
    assert "cut off" in regions.note


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), offset=st.tuples(st.integers(0, 5000), st.integers(0, 5000)))
def test_written_regions_come_back(tmp_path, slide, seed, offset):
    rng = np.random.default_rng(seed)
    # Solid blocks: outlines of single pixels cross themselves once they are simplified.
    mask = np.kron(rng.random((14, 30)) < 0.5, np.ones((4, 4), bool))
    frame = FrameTransform(scale_x=16.3 / 4, scale_y=15.9 / 4, offset_x=offset[0], offset_y=offset[1])
    included = shapely.unary_union(mask_to_polygons(mask, frame))
    whole = box(offset[0], offset[1], offset[0] + 30 * 16.3, offset[1] + 14 * 15.9)
    regions = Regions(
        included=included,
        excluded=(Exclusion(whole.difference(included), "glass"),),
        mode_requested="auto",
        mode="stain",
        note="",
        area_mm2=0.0,
        fingerprint=slide.fingerprint,
        bounds_offset_px0=offset,
    )
    path = tmp_path / "regions.geojson"
    write_regions(regions, path, slide)
    tree = json.loads(path.read_text())
    for item in tree["features"]:
        uuid.UUID(item["id"])
        geometry = shape(item["geometry"])
        assert geometry.is_valid
        assert geometry.geom_type in ("Polygon", "MultiPolygon")
        assert np.array_equal(np.round(shapely.get_coordinates(geometry), 2), shapely.get_coordinates(geometry))
        assert set(item["properties"]["classification"]) == {"name", "color"}
        assert item["properties"]["objectType"] == "annotation"
        assert all(isinstance(value, str) for value in item["properties"]["metadata"].values())
    assert len({item["id"] for item in tree["features"]}) == len(tree["features"])
    back = read_regions(path, offset_px0=offset)
    kept = shapely.unary_union([area.geometry for area in back if not area.ignored])
    assert kept.symmetric_difference(included).area < 0.02 * included.length + 1e-6
    assert {area.reason for area in back if area.ignored} <= {"glass"}


def test_regions_of_another_slide_are_not_written(slide, tmp_path):
    regions = find_regions(slide, specimen="trephine", config=RegionsConfig())
    with pytest.raises(ValueError, match="another slide"):
        write_regions(dataclasses.replace(regions, fingerprint="0"), tmp_path / "r.geojson", slide)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), density=st.floats(0.05, 0.95))
def test_polygons_cover_the_pixels_of_the_mask(seed, density):
    """Simplification may move an outline by half a pixel, so solid blocks of 4 x 4 are used."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((10, 12)) < density, np.ones((4, 4), bool))
    identity = FrameTransform(scale_x=1.0, scale_y=1.0)
    pieces = mask_to_polygons(mask, identity)
    union = shapely.unary_union(pieces)
    assert all(piece.is_valid for piece in pieces)
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]]
    inside = shapely.contains_xy(union, xs + 0.5, ys + 0.5)
    # Corners of a block may be cut; its inner 2 x 2 pixels may not.
    inner = (ys % 4 % 3 != 0) & (xs % 4 % 3 != 0)
    assert np.array_equal(inside[inner], mask[inner])
