"""Objects of a GeoJSON file as QuPath exports them, one at a time, and the cells that they cover."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from wsi_pipeline.errors import DataError

GEOJSON = (".geojson", ".json", ".geojson.gz", ".json.gz")
"""Endings of files that are read."""

MIN_IOU = 0.5
"""Least intersection over union of an object and the cell that it is."""

_MAX_BYTES = 4 * 2**30
_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def read_features(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the features of a FeatureCollection or an array of features.

    The text is held in memory, the objects one at a time.

    Raises
    ------
    DataError
        The file cannot be read, is not JSON, holds more than 4 GiB, or is no collection of features.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise DataError(f"{path} holds more than {_MAX_BYTES:,} bytes; export fewer objects a file")
        text = raw.decode("utf-8-sig")
        del raw
        for number, feature in enumerate(_elements(text)):
            if not isinstance(feature, dict) or "geometry" not in feature:
                raise DataError(f"{path}: element {number} is no GeoJSON feature; export objects from QuPath")
            yield feature
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path} {error}") from None
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as GeoJSON: {error}") from None


def _elements(text: str) -> Iterator[Any]:
    """Yield the elements of an array, or of the member ``features`` of an object, without parsing all at once."""
    at = _skip(text, 0)
    if text.startswith("[", at):
        end = yield from _array(text, at)
    elif text.startswith("{", at):
        end, found = at + 1, False
        while not text.startswith("}", end := _skip(text, end)):
            name, end = _DECODER.raw_decode(text, end)
            end = _skip(text, _expect(text, _skip(text, end), ":"))
            if name == "features" and text.startswith("[", end):
                found = True
                end = yield from _array(text, end)
            else:
                _, end = _DECODER.raw_decode(text, end)
            end = _separated(text, end, "}")
        end += 1
        if not found:
            raise DataError("is no GeoJSON FeatureCollection; export objects as such from QuPath")
    else:
        raise DataError("is no GeoJSON FeatureCollection; export objects as such from QuPath")
    if _skip(text, end) != len(text):
        raise ValueError(f"more text after the end, at character {end}")


def _array(text: str, at: int) -> Generator[Any, None, int]:
    """Yield the elements of the array that starts at ``at``; the generator's value is where it ends."""
    at += 1
    while not text.startswith("]", at := _skip(text, at)):
        element, at = _DECODER.raw_decode(text, at)
        yield element
        at = _separated(text, at, "]")
    return at + 1


def _separated(text: str, at: int, closing: str) -> int:
    """Return where the next element starts, or the closing bracket stands."""
    at = _skip(text, at)
    if text.startswith(closing, at):
        return at
    after = _skip(text, _expect(text, at, ","))
    if text.startswith(closing, after):
        raise ValueError(f"a comma before {closing!r}, at character {at}")
    return after


def _expect(text: str, at: int, character: str) -> int:
    if not text.startswith(character, at):
        raise ValueError(f"{character!r} is missing, at character {at}")
    return at + 1


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def class_name(feature: Mapping[str, Any]) -> str:
    """Return the class of an object, or an empty string.

    QuPath writes a name, the names of a derived class, or text.
    """
    properties = feature.get("properties")
    given = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(given, str):
        return given.strip()
    if not isinstance(given, dict):
        return ""
    names = given.get("names") or [given.get("name") or ""]
    return ": ".join(str(n) for n in names).strip() if isinstance(names, list) else ""


def cells_covered(
    path: Path, geometries: Sequence[tuple[int, Any]], cells: npt.NDArray[np.object_], offset_px0: tuple[float, float]
) -> list[int | None]:
    """Return for each object the index of the cell it covers with the largest intersection over union, if any.

    Parameters
    ----------
    path
        The file, for messages.
    geometries
        Number of the object in the file, and its GeoJSON geometry in QuPath's frame.
    cells
        ``(n,)`` polygons, level-0 pixels.
    offset_px0
        Origin of QuPath's frame, level-0 pixels.

    Raises
    ------
    DataError
        A geometry is damaged.
    """
    tree = shapely.STRtree(cells)
    found: list[int | None] = []
    for number, geometry in geometries:
        try:
            shape = shapely.geometry.shape(geometry)
            shape = shapely.make_valid(shapely.transform(shape, lambda xy: xy + np.asarray(offset_px0, float)))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, shapely.errors.ShapelyError) as error:
            raise DataError(f"{path}: the geometry of object {number} is damaged ({error})") from None
        best, cell = 0.0, None
        for k in tree.query(shape, predicate="intersects").tolist():
            outline = cells[k] if cells[k].is_valid else shapely.make_valid(cells[k])
            common = shape.intersection(outline).area
            share = common / max(shape.area + outline.area - common, 1e-9)
            if share > best:
                best, cell = share, k
        found.append(cell if best >= MIN_IOU else None)
    return found
