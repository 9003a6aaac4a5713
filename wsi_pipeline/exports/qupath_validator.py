"""Say what QuPath would do with a GeoJSON file, without QuPath.

A port of the rules of QuPath's importer (``GsonTools``, ``QuPathTypeAdapters``, ``ROITypeAdapters``,
``PathIO``; 0.5 to 0.7). The importer has no error handling per feature: one bad feature loses the whole
file, often without a dialog. Reported are

* what stops the import: null geometry, id or name, a class without colour, an open or short ring, a
  GeometryCollection, a polygon that is invalid once reduced to the 0.01-pixel grid of 0.6 and later ...;
* what is silently changed or lost: an ``objectType`` outside ``properties``, an id that is no UUID, a
  measurement that is null, a nucleus on something that is not a cell ...
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

OBJECT_TYPES = ("annotation", "detection", "cell", "tile", "tmaCore", "root")
GEOMETRY_TYPES = ("Point", "MultiPoint", "LineString", "MultiLineString", "Polygon", "MultiPolygon")
GRID_PX = 0.01

# java.util.UUID.fromString also takes shorter groups; only the usual form is idempotent everywhere.
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_FLOAT_WORDS = ("NaN", "inf", "-inf", "Infinity", "-Infinity")
_INT_RANGE = range(-(2**31), 2**32)


def validate_qupath(path: Path) -> list[str]:
    """Return the problems QuPath would have with a file; an empty list when it imports as meant.

    Parameters
    ----------
    path
        ``.geojson``, ``.json``, ``.geojson.gz``, ``.json.gz`` or ``.zip`` (of several of these).

    Returns
    -------
    list of str
        One sentence a problem, beginning with the index of the feature (``feature 12: ...``).

    Notes
    -----
    The whole file is held in memory, as QuPath does.
    """
    try:
        texts = list(_texts(path))
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError) as error:
        return [f"{path.name} cannot be read: {error}"]
    problems: list[str] = []
    ids: dict[str, str] = {}
    for prefix, text in texts:
        problems.extend(prefix + problem for problem in _validate_text(text, ids))
    return problems if texts else [f"{path.name} holds no .geojson or .json entry"]


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    name = path.name.lower()
    if name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.lower().endswith((".geojson", ".json")):
                    yield f"{entry}: ", archive.read(entry).decode("utf-8")
    elif name.endswith((".geojson.gz", ".json.gz")):
        yield "", gzip.decompress(path.read_bytes()).decode("utf-8")
    elif name.endswith((".geojson", ".json")):
        yield "", path.read_bytes().decode("utf-8")
    else:
        raise OSError(f"QuPath recognises .geojson, .json, .geojson.gz and .zip, not {path.suffix or 'no suffix'}")


def _validate_text(text: str, ids: dict[str, str]) -> list[str]:
    constants: list[str] = []

    def constant(word: str) -> float:
        constants.append(word)
        return math.nan

    try:
        data = json.loads(text, parse_constant=constant)
    except (json.JSONDecodeError, RecursionError) as error:
        return [f"not JSON: {error}"]
    problems = [f"{word} is not JSON; leave the value out" for word in sorted(set(constants))]
    features: Any
    if isinstance(data, list):
        features = data
    elif isinstance(data, dict) and data.get("type") == "FeatureCollection":
        features = data.get("features")
        if not isinstance(features, list):
            return [*problems, "FeatureCollection without a 'features' array: nothing is imported"]
    elif isinstance(data, dict) and data.get("type") == "Feature":
        features = [data]
    elif isinstance(data, dict) and data.get("type") in GEOMETRY_TYPES:
        return problems + [f"bare geometry: {p}" for p in _geometry_problems(data, "geometry")]
    else:
        found = data.get("type") if isinstance(data, dict) else type(data).__name__
        return [*problems, f"neither a FeatureCollection, an array, a Feature nor a geometry: {found!r}"]
    for index, feature in enumerate(features):
        where = f"feature {index}"
        problems.extend(f"{where}: {problem}" for problem in _feature_problems(feature, where, ids))
    return problems


def _feature_problems(feature: Any, where: str, ids: dict[str, str]) -> Iterator[str]:
    if not isinstance(feature, dict):
        yield f"is {_kind(feature)}, not an object: the import fails"
        return
    if feature.get("type") != "Feature":
        yield f"type is {feature.get('type')!r}, not 'Feature'"
    yield from _id_problems(feature, where, ids)
    if "geometry" not in feature:
        yield "has no geometry: the import fails"
    else:
        yield from _geometry_problems(feature["geometry"], "geometry")
    properties = feature.get("properties", {})
    if not isinstance(properties, dict):
        yield f"properties is {_kind(properties)}, not an object: the import fails"
        return
    if "objectType" in feature or "object_type" in feature:
        yield "objectType stands outside properties: QuPath makes an annotation of it"
    object_type = yield from _object_type(properties)
    if "nucleusGeometry" in properties:
        yield "nucleusGeometry stands inside properties: the nucleus is lost; it belongs beside geometry"
    if "nucleusGeometry" in feature:
        if object_type != "cell":
            yield f"nucleusGeometry on a {object_type}: the nucleus is lost; only cells have one"
        yield from _geometry_problems(feature["nucleusGeometry"], "nucleusGeometry")
    for key, check in _PROPERTY_CHECKS.items():
        if key in properties:
            yield from check(properties[key])
    children = properties.get("childObjects", properties.get("children"))
    if isinstance(children, list):
        for number, child in enumerate(children):
            for problem in _feature_problems(child, f"{where} child {number}", ids):
                yield f"child {number}: {problem}"


def _id_problems(feature: dict[str, Any], where: str, ids: dict[str, str]) -> Iterator[str]:
    if "id" not in feature:
        return
    value = feature["id"]
    if isinstance(value, int | float | bool):
        yield f"id {value!r} is not a UUID: QuPath drops it"
    elif not isinstance(value, str):
        yield f"id is {_kind(value)}: the import fails"
    elif not _UUID.fullmatch(value):
        yield f"id {value[:60]!r} is not a UUID: QuPath drops it"
    elif (key := value.lower()) in ids:
        yield f"id {value} is already that of {ids[key]}"
    else:
        ids[key] = where


def _object_type(properties: dict[str, Any]) -> Generator[str, None, str]:
    """Yield problems; the value of the generator is the type QuPath uses."""
    for key in ("objectType", "object_type", "type"):
        if key in properties:
            value = properties[key]
            if not isinstance(value, str):
                yield f"properties.{key} is {_kind(value)}: the import fails"
                return "annotation"
            if value not in OBJECT_TYPES:
                yield f"objectType {value[:60]!r} is unknown: QuPath makes an annotation of it"
                return "annotation"
            if key != "objectType":
                yield f"the object type is in properties.{key}; QuPath warns, write objectType"
            return value
    yield "properties has no objectType: QuPath makes an annotation of it"
    return "annotation"


def _classification_problems(value: Any) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, str):
        yield from _class_name_problems(value)
        return
    if not isinstance(value, dict):
        yield f"classification is {_kind(value)}: the import fails"
        return
    if not value or "colorRGB" in value or "parentClass" in value:
        if "colorRGB" in value and not _is_int(value["colorRGB"]):
            yield "classification.colorRGB is not a packed integer: the import fails"
        return
    if "name" not in value and "names" not in value:
        yield "classification has neither name nor names: the import fails"
    if "name" in value:
        yield from _class_name_problems(value["name"])
    if "names" in value:
        names = value["names"]
        if not isinstance(names, list) or not names:
            yield "classification.names is not a filled array: the class is lost or the import fails"
        else:
            for name in names:
                yield from _class_name_problems(name)
    if "color" not in value:
        yield "classification has no color: the import fails"
    elif not isinstance(value["color"], list) or not all(map(_is_int, value["color"])):
        yield "classification.color is not an array of integers: the import fails"
    elif len(value["color"]) not in (0, 1, 3, 4):
        yield f"classification.color has {len(value['color'])} values, not 3 or 4: the import fails"
    elif len(value["color"]) >= 3 and not all(0 <= c <= 255 for c in value["color"]):
        yield f"classification.color {value['color']} is outside 0 to 255"
    elif not value["color"]:
        yield "classification.color is empty: the class gets no colour"


def _class_name_problems(name: Any) -> Iterator[str]:
    if not isinstance(name, str):
        yield f"class name is {_kind(name)}: the import fails or the class is lost"
    elif not name.strip():
        yield "class name is blank: the import fails"
    elif "\n" in name or "\r" in name:
        yield f"class name {name[:60]!r} holds a line break: the import fails"
    elif ":" in name:
        yield f"class name {name[:60]!r} holds a colon: QuPath splits it into derived classes"


def _color_problems(value: Any) -> Iterator[str]:
    if value is None or _is_int(value):
        return
    if not isinstance(value, list):
        yield f"properties.color is {_kind(value)}: the import fails"
    elif len(value) != 3:
        yield f"properties.color has {len(value)} values, not 3: QuPath ignores it"
    elif not all(map(_is_int, value)):
        yield "properties.color is not an array of integers: the import fails"


def _measurement_problems(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = []
        for entry in value:
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "value" not in entry:
                yield "a measurement of the list has no name or value: the import fails"
            else:
                pairs.append((entry["name"], entry["value"]))
    else:
        yield f"measurements is {_kind(value)}: QuPath ignores it"
        return
    for name, number in pairs:
        if isinstance(number, str) and number in _FLOAT_WORDS:
            continue
        if isinstance(number, bool) or not isinstance(number, int | float):
            yield f"measurement {name[:60]!r} is {_kind(number)}, not a number: the import fails; leave it out"


def _metadata_problems(value: Any) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"metadata is {_kind(value)}, not an object: QuPath ignores it"
        return
    for name, entry in value.items():
        if entry is None or isinstance(entry, dict | list):
            yield f"metadata {name[:60]!r} is {_kind(entry)}, not text or a number: QuPath ignores it"


def _name_problems(value: Any) -> Iterator[str]:
    if value is None or isinstance(value, dict | list):
        yield f"properties.name is {_kind(value)}: the import fails"


def _flag_problems(value: Any) -> Iterator[str]:
    if not isinstance(value, bool):
        yield f"isLocked or isMissing is {_kind(value)}, not true or false"


_PROPERTY_CHECKS: dict[str, Callable[[Any], Iterator[str]]] = {
    "name": _name_problems,
    "color": _color_problems,
    "classification": _classification_problems,
    "measurements": _measurement_problems,
    "metadata": _metadata_problems,
    "isLocked": _flag_problems,
    "isMissing": _flag_problems,
}


def _geometry_problems(geometry: Any, key: str) -> Iterator[str]:
    if not isinstance(geometry, dict):
        yield f"{key} is {_kind(geometry)}, not an object: the import fails"
        return
    kind = geometry.get("type")
    if kind == "GeometryCollection":
        yield f"{key} is a GeometryCollection: the import fails"
        return
    if kind not in GEOMETRY_TYPES:
        yield f"{key} has type {kind!r}: the import fails"
        return
    if "coordinates" not in geometry:
        yield f"{key} has no coordinates: the import fails"
        return
    plane = geometry.get("plane", {})
    if not isinstance(plane, dict) or not all(_is_int(plane.get(axis, 0)) for axis in "czt"):
        yield f"{key}.plane is not an object of integers c, z, t: the import fails"
    # Depth of nesting above a single position.
    depth = {"Point": 0, "MultiPoint": 1, "LineString": 1, "Polygon": 2, "MultiLineString": 2, "MultiPolygon": 3}
    lines: list[npt.NDArray[np.float64]] = []
    problem = _collect(geometry["coordinates"], depth[kind], lines)
    if problem:
        yield f"{key} {problem}: the import fails"
        return
    if not lines:
        yield f"{key} is empty"
        return
    if any(np.any(np.abs(line * 100 - np.rint(line * 100)) > 1e-3) for line in lines):
        yield f"{key} has more than 2 decimals: QuPath moves it to the {GRID_PX}-px grid"
    if kind in ("LineString", "MultiLineString") and any(len(line) < 2 for line in lines):
        yield f"{key} has a line of fewer than 2 points: the import fails"
    if kind in ("Polygon", "MultiPolygon"):
        yield from _ring_problems(geometry, lines, key)


def _collect(value: Any, depth: int, lines: list[npt.NDArray[np.float64]]) -> str | None:
    """Gather the innermost point arrays; return what makes them unreadable."""
    if not isinstance(value, list):
        return f"has {_kind(value)} where an array of coordinates is needed"
    if depth > 1:
        return next((problem for part in value if (problem := _collect(part, depth - 1, lines))), None)
    points = [value] if depth == 0 else value
    for point in points:
        if not isinstance(point, list) or len(point) < 2:
            return "has a position that is not an array of x and y"
        if not all(isinstance(c, int | float) and not isinstance(c, bool) and math.isfinite(c) for c in point):
            return "has a coordinate that is not a finite number"
    if points:
        lines.append(np.array([point[:2] for point in points], dtype=np.float64))
    return None


def _ring_problems(geometry: dict[str, Any], rings: list[npt.NDArray[np.float64]], key: str) -> Iterator[str]:
    for ring in rings:
        if not np.array_equal(ring[0], ring[-1]):
            yield f"{key} has a ring that is not closed: the import fails"
            return
        if len(ring) < 4:
            yield f"{key} has a ring of {len(ring)} points, fewer than 4: the import fails"
            return
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    if any(not ring for part in parts for ring in part):
        yield f"{key} has an empty ring: the import fails"
        return
    polygons = [
        shapely.Polygon([p[:2] for p in part[0]], [[p[:2] for p in hole] for hole in part[1:]])
        for part in parts
        if part
    ]
    shape = shapely.MultiPolygon(polygons) if geometry["type"] == "MultiPolygon" else polygons[0]
    reduced = shapely.transform(shape, lambda xy: np.rint(xy / GRID_PX) * GRID_PX)
    for candidate, when in ((shape, ""), (reduced, f" on the {GRID_PX}-px grid")):
        if not candidate.is_valid:
            yield f"{key} is invalid{when} ({shapely.is_valid_reason(candidate)}): the import can fail"
            return
        if candidate.area == 0:
            yield f"{key} has no area{when}"
            return


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in _INT_RANGE


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {dict: "an object", list: "an array", str: "text", bool: "true or false"}.get(type(value), "a number")
