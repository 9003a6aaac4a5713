"""QuPath GeoJSON in and out. A file drawn by a user is checked at the door."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from wsi_pipeline.errors import RegionError
from wsi_pipeline.regions.reasons import REASONS

_MAX_BYTES = 200 * 2**20
_AREAS = ("Polygon", "MultiPolygon")
_NOT_DRAWN = ("detection", "cell", "tile", "tmacore")


@dataclass(frozen=True, kw_only=True)
class DrawnArea:
    """One area of a regions file, in level-0 pixels."""

    geometry: BaseGeometry
    ignored: bool
    """Its class ends in an asterisk, which is how QuPath marks what is not to be analysed."""
    reason: str


def dump_features(features: list[dict[str, Any]]) -> str:
    """Return a FeatureCollection as compact JSON, a feature a line."""
    lines = ",\n".join(json.dumps(feature, separators=(",", ":"), allow_nan=False) for feature in features)
    return '{"type":"FeatureCollection","features":[\n' + lines + "\n]}\n"


def read_regions(path: Path, *, offset_px0: tuple[int, int] = (0, 0)) -> list[DrawnArea]:
    """Read areas drawn in QuPath.

    Parameters
    ----------
    path
        GeoJSON (also gzipped): a FeatureCollection, a Feature, an array of features, or a bare geometry.
    offset_px0
        Origin of QuPath's frame in level-0 pixels (``openslide.bounds-x/y``); added to every vertex.

    Raises
    ------
    RegionError
        Missing, not GeoJSON, holds other than areas, detections instead of annotations, impossible coordinates,
        or no area at all.
    """
    areas = []
    for index, feature in enumerate(_features(_load(path), path)):
        geometry, properties = feature.get("geometry"), feature.get("properties") or {}
        where = f"{path}: feature {index}"
        if not isinstance(geometry, dict) or geometry.get("type") not in _AREAS:
            found = geometry.get("type") if isinstance(geometry, dict) else type(geometry).__name__
            raise RegionError(f"{where} is a {str(found)[:40]!r}; draw areas (Polygon or MultiPolygon) only")
        if not isinstance(properties, dict):
            raise RegionError(f"{where}: properties must be an object")
        kind = str(properties.get("objectType", "annotation")).lower()
        if kind in _NOT_DRAWN:
            raise RegionError(f"{where} is a QuPath {kind}; export annotations")
        label = _class_name(properties)
        metadata = properties.get("metadata")
        if isinstance(metadata, dict) and metadata.get("status") == "inside":
            continue  # fat of a run's own file: it lies in what was searched, and is no area of its own
        reason = str(metadata.get("reason", "")) if isinstance(metadata, dict) else ""
        areas.append(
            DrawnArea(
                geometry=_to_px0(geometry, offset_px0, where),
                ignored=label.endswith("*"),
                reason=_known_reason(reason),
            )
        )
    if not areas:
        raise RegionError(f"{path}: no area found; draw at least one annotation in QuPath and export it as GeoJSON")
    return areas


def _known_reason(text: str) -> str:
    return text if text in REASONS else "ignored-class"


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise RegionError(f"{path}: {path.stat().st_size:,} bytes; a regions file may have {_MAX_BYTES:,}")
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise RegionError(f"{path}: unpacks to more than {_MAX_BYTES:,} bytes")
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise RegionError(f"{path}: the regions file does not exist") from None
    except (OSError, EOFError, UnicodeDecodeError, ValueError, RecursionError) as error:
        if isinstance(error, RegionError):
            raise
        raise RegionError(f"{path}: not a GeoJSON file: {str(error)[:200]}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _features(tree: Any, path: Path) -> Iterator[dict[str, Any]]:
    if isinstance(tree, list):
        items = tree
    elif isinstance(tree, dict) and tree.get("type") == "FeatureCollection" and isinstance(tree.get("features"), list):
        items = tree["features"]
    elif isinstance(tree, dict) and tree.get("type") == "Feature":
        items = [tree]
    elif isinstance(tree, dict) and "coordinates" in tree:
        items = [{"type": "Feature", "geometry": tree, "properties": {}}]
    else:
        raise RegionError(f"{path}: not GeoJSON; a FeatureCollection, Feature or array of features is needed")
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise RegionError(f"{path}: feature {index} is a {type(item).__name__}, not an object")
        yield item


def _class_name(properties: dict[str, Any]) -> str:
    value = properties.get("classification")
    if isinstance(value, dict):
        names = value.get("names")
        value = value.get("name") or (names[0] if isinstance(names, list) and names else "")
    return value if isinstance(value, str) else ""


def _to_px0(geometry: dict[str, Any], offset_px0: tuple[int, int], where: str) -> BaseGeometry:
    try:
        with np.errstate(invalid="ignore"):
            drawn = shapely.force_2d(shape(geometry))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, shapely.errors.ShapelyError) as error:
        raise RegionError(f"{where}: the coordinates cannot be read: {str(error)[:120]}") from None
    coordinates = shapely.get_coordinates(drawn)
    if not len(coordinates) or not np.isfinite(coordinates).all() or np.abs(coordinates).max() > 1e9:
        raise RegionError(f"{where}: coordinates must be finite pixels of the slide")
    moved = shapely.make_valid(shapely.transform(drawn, lambda xy: xy + np.asarray(offset_px0, dtype=np.float64)))
    if not math.isfinite(moved.area) or moved.area <= 0:
        raise RegionError(f"{where} has no area")
    return moved
