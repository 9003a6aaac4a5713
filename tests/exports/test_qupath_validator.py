"""Every rule of QuPath's parser: the file that breaks it, and the file that does not."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsi_pipeline.exports.qupath_validator import validate_qupath

UUID = "5c9fd1a4-7c2f-5d0a-8f43-3a1f5a0f2b11"
OTHER = "5c9fd1a4-7c2f-5d0a-8f43-3a1f5a0f2b12"
SQUARE = [[0, 0], [10, 0], [10, 10.25], [0, 10], [0, 0]]
INNER = [[2, 2], [6, 2], [6, 6], [2, 6], [2, 2]]


def _cell() -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": UUID,
        "geometry": {"type": "Polygon", "coordinates": [SQUARE], "plane": {"c": -1, "z": 0, "t": 0}},
        "nucleusGeometry": {"type": "Polygon", "coordinates": [INNER]},
        "properties": {
            "objectType": "cell",
            "classification": {"name": "Blast", "color": [200, 0, 0]},
            "measurements": {"P(Blast)": 0.93, "N:C ratio": "NaN"},
            "name": "one",
            "isLocked": True,
            "color": [1, 2, 3],
            "metadata": {"k": "v"},
        },
    }


def _annotation() -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": OTHER,
        "geometry": {"type": "MultiPolygon", "coordinates": [[SQUARE, INNER], [[[20, 0], [30, 0], [30, 9], [20, 0]]]]},
        "properties": {"objectType": "annotation", "classification": {"names": ["a", "b"], "color": [1, 2, 3, 255]}},
    }


def _validate(data: Any, folder: Path) -> list[str]:
    path = folder / "x.geojson"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return validate_qupath(path)


def _collection(*features: Any) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def test_good_files_in_every_container(tmp_path: Path) -> None:
    both = _collection(_cell(), _annotation())
    for data in (both, both["features"], _cell(), _cell()["geometry"], _collection()):
        assert _validate(data, tmp_path) == []
    text = json.dumps(both).encode()
    (tmp_path / "x.geojson.gz").write_bytes(gzip.compress(text))
    (tmp_path / "x.json").write_bytes(text)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("part.geojson", text)
        archive.writestr("readme.txt", "not read")
    for name in ("x.geojson.gz", "x.json", "x.zip"):
        assert validate_qupath(tmp_path / name) == []


@pytest.mark.parametrize(
    "classification",
    [
        "Blast",
        None,
        {},
        {"colorRGB": -1, "name": "old"},
        {"name": "x", "color": [-12345]},
        {"names": ["a"], "color": [1, 2, 3]},
    ],
)
def test_classifications_qupath_takes(classification: Any, tmp_path: Path) -> None:
    cell = _cell()
    cell["properties"]["classification"] = classification
    assert _validate(_collection(cell), tmp_path) == []


@pytest.mark.parametrize(
    "geometry",
    [
        {"type": "Point", "coordinates": [1, 2]},
        {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]},
        {"type": "LineString", "coordinates": [[1, 2], [3, 4]]},
        {"type": "MultiLineString", "coordinates": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]},
        {"type": "Polygon", "coordinates": [[[*p, 0.0] for p in SQUARE], INNER]},
    ],
)
def test_geometries_qupath_takes(geometry: Any, tmp_path: Path) -> None:
    annotation = _annotation()
    annotation["geometry"] = geometry
    assert _validate(_collection(annotation), tmp_path) == []


def _set(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(feature: dict[str, Any]) -> None:
        for key in keys[:-1]:
            feature = feature[key]
        feature[keys[-1]] = to

    return change


def _drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(feature: dict[str, Any]) -> None:
        for key in keys[:-1]:
            feature = feature[key]
        del feature[keys[-1]]

    return change


def _rings(*rings: Any) -> Callable[[dict[str, Any]], None]:
    return _set("geometry", "coordinates", to=list(rings))


def _outside(feature: dict[str, Any]) -> None:
    feature["objectType"] = feature["properties"].pop("objectType")


_CLASS = ("properties", "classification")
BROKEN: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    # what kills the import
    (_set("geometry", to=None), "geometry is null"),
    (_drop("geometry"), "has no geometry"),
    (_set("id", to=None), "id is null"),
    (_set("id", to={}), "id is an object"),
    (_set("properties", "name", to=None), "name is null"),
    (_set("properties", to=None), "properties is null"),
    (_set(*_CLASS, to={"name": "x"}), "no color"),
    (_set(*_CLASS, to={"color": [1, 2, 3]}), "neither name nor names"),
    (_set(*_CLASS, to={"name": None, "color": [1, 2, 3]}), "class name is null"),
    (_set(*_CLASS, to={"name": " ", "color": [1, 2, 3]}), "blank"),
    (_set(*_CLASS, to={"name": "a\nb", "color": [1, 2, 3]}), "line break"),
    (_set(*_CLASS, to={"names": [], "color": [1, 2, 3]}), "names is not a filled array"),
    (_set(*_CLASS, to={"name": "x", "color": [1, 2]}), "2 values"),
    (_set(*_CLASS, to={"name": "x", "color": [1, 2, 3, 4, 5]}), "5 values"),
    (_set(*_CLASS, to={"name": "x", "color": "red"}), "not an array of integers"),
    (_set(*_CLASS, to={"name": "x", "color": [0.5, 1, 2]}), "not an array of integers"),
    (_set(*_CLASS, to={"name": "x", "color": [300, 1, 2]}), "outside 0 to 255"),
    (_set(*_CLASS, to=7), "classification is a number"),
    (_set(*_CLASS, to={"colorRGB": "red"}), "colorRGB"),
    (_rings(SQUARE[:-1]), "not closed"),
    (_rings([[0, 0], [5, 5], [0, 0]]), "fewer than 4"),
    (_rings(SQUARE, []), "empty ring"),
    (_rings(), "geometry is empty"),
    (_set("geometry", to={"type": "GeometryCollection", "geometries": []}), "GeometryCollection"),
    (_set("geometry", "type", to="Circle"), "type 'Circle'"),
    (_drop("geometry", "coordinates"), "no coordinates"),
    (_set("geometry", "coordinates", to=None), "is needed"),
    (_rings([[0, 0], [1, None], [1, 1], [0, 0]]), "not a finite number"),
    (_rings([[0, 0], ["1", 0], [1, 1], [0, 0]]), "not a finite number"),
    (_rings([[0, 0], [1], [1, 1], [0, 0]]), "array of x and y"),
    (_set("geometry", "coordinates", to=[3]), "where an array"),
    (_set("geometry", "plane", to={"c": 0, "z": "top", "t": 0}), "plane"),
    (_set("geometry", to={"type": "LineString", "coordinates": [[1, 2]]}), "fewer than 2 points"),
    (_rings([[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]), "is invalid (Self-intersection"),
    (_rings(SQUARE, [[20, 20], [30, 20], [30, 30], [20, 20]]), "Hole lies outside shell"),
    (_set("nucleusGeometry", to=None), "nucleusGeometry is null"),
    (_set("nucleusGeometry", "coordinates", to=[SQUARE[:-1]]), "nucleusGeometry has a ring that is not closed"),
    (_set("properties", "measurements", to={"a": None}), "measurement 'a' is null"),
    (_set("properties", "measurements", to={"a": "high"}), "measurement 'a' is text"),
    (_set("properties", "measurements", to=[{"name": "a"}]), "no name or value"),
    (_set("properties", "measurements", to=[{"name": "a", "value": None}]), "measurement 'a' is null"),
    (_set("properties", "color", to="red"), "properties.color is text"),
    (_set("properties", "objectType", to=None), "objectType is null"),
    # what QuPath silently changes or loses
    (_outside, "stands outside properties"),
    (_drop("properties", "objectType"), "no objectType"),
    (_set("properties", "objectType", to="nucleus"), "unknown"),
    (_set("id", to="object_0"), "not a UUID"),
    (_set("id", to=12), "not a UUID"),
    (_set("properties", "objectType", to="detection"), "nucleusGeometry on a detection"),
    (_set("properties", "nucleusGeometry", to={}), "inside properties"),
    (_set("properties", "color", to=[1, 2, 3, 4]), "4 values, not 3"),
    (_set("properties", "metadata", to={"k": None}), "metadata 'k' is null"),
    (_set("properties", "metadata", to=[]), "metadata is an array"),
    (_set("properties", "isLocked", to="yes"), "isLocked"),
    (_set("properties", "measurements", to=3), "QuPath ignores it"),
    (_set(*_CLASS, to={"name": "a: b", "color": [1, 2, 3]}), "derived classes"),
    (_set(*_CLASS, to={"name": "a", "color": []}), "no colour"),
    (_rings([[0, 0], [10.123, 0], [10, 10], [0, 0]]), "more than 2 decimals"),
    (_set("type", to="feature"), "not 'Feature'"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_broken_features_are_found_and_numbered(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    cell = _cell()
    change(cell)
    problems = _validate(_collection(_annotation(), cell), tmp_path)
    assert any(message in p for p in problems), problems
    assert all(p.startswith("feature 1: ") for p in problems)


def test_polygon_that_breaks_only_on_the_grid(tmp_path: Path) -> None:
    cell = _cell()
    cell["geometry"]["coordinates"] = [[[0, 0], [5, 0.004], [10, 0], [10, 10], [5, 0.001], [0, 10], [0, 0]]]
    # Valid as written: the two middle points meet only once rounded.
    cell["geometry"]["coordinates"][0][1], cell["geometry"]["coordinates"][0][4] = [5, 0.001], [5, 0.004]
    assert any("on the 0.01-px grid" in p for p in _validate(_collection(cell), tmp_path))


def test_duplicate_ids_and_children(tmp_path: Path) -> None:
    problems = _validate(_collection(_cell(), _cell()), tmp_path)
    assert problems == [f"feature 1: id {UUID} is already that of feature 0"]
    parent, child = _annotation(), _cell()
    del child["geometry"]
    parent["properties"]["childObjects"] = [child]
    assert _validate(_collection(parent), tmp_path) == ["feature 0: child 0: has no geometry: the import fails"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"type":"FeatureCollection"}', "without a 'features' array"),
        ('{"type":"Topology"}', "neither"),
        ("3", "neither"),
        ('{"type":"FeatureCollection","features":[3]}', "feature 0: is a number"),
        (json.dumps(_cell()).replace("0.93", "NaN"), "NaN is not JSON"),
        ('{"type":"Polygon","coordinates":[[[0,0],[1,0],[1,1]]]}', "bare geometry: geometry has a ring"),
    ],
)
def test_broken_containers(text: str, message: str, tmp_path: Path) -> None:
    problems = _validate(text, tmp_path)
    assert any(message in p for p in problems), problems


def test_unreadable_files(tmp_path: Path) -> None:
    text = json.dumps(_collection(_cell())).encode()
    (tmp_path / "cut.geojson.gz").write_bytes(gzip.compress(text)[:-20])
    (tmp_path / "plain.geojson.gz").write_bytes(text)
    (tmp_path / "bad.zip").write_bytes(text)
    (tmp_path / "x.xml").write_bytes(text)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    for name in ("cut.geojson.gz", "plain.geojson.gz", "bad.zip", "x.xml", "empty.zip", "none.geojson"):
        assert len(validate_qupath(tmp_path / name)) == 1, name
