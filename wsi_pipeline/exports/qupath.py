"""Write cells as GeoJSON that QuPath imports as cells and detections.

QuPath reads a file all or nothing, so every feature obeys the rules of its parser: ``objectType`` inside
``properties``, a class always with its colour, a UUID as id, closed and valid rings on the 0.01-pixel grid
to which QuPath 0.6 and later reduces geometries, no null and no NaN anywhere.
:mod:`wsi_pipeline.exports.qupath_validator` checks all of them.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from wsi_pipeline.atomic import atomic_path
from wsi_pipeline.cells.ahead import ahead
from wsi_pipeline.exports._stream import ObjectArray, floats, geometries, iter_cells, polygonal, strings
from wsi_pipeline.exports.rings import corners

if TYPE_CHECKING:
    from wsi_pipeline.taxonomies import Taxonomy

_log = logging.getLogger(__name__)

GRID_PX = 0.01
"""Grid of QuPath's geometries, level-0 pixels."""

UNKNOWN_COLOUR = (128, 128, 128)
"""Colour of a class that the taxonomy does not list."""

_FARTHEST_PX0 = 1e9

GZIP_LEVEL = 5  # level 6 gives 2 % smaller files in 1.6 times the time

_POLYGON = '{"type":"Polygon","coordinates":'
_HEAD = len(_POLYGON)

# Name in QuPath, column, decimals.
_MEASUREMENTS = (
    ("Area um^2", "area_um2", 2),
    ("Perimeter um", "perimeter_um", 2),
    ("Circularity", "circularity", 3),
    ("Solidity", "solidity", 3),
    ("Axis ratio", "shape_axis_ratio", 3),
    ("N:C ratio", "nc_ratio", 3),
    ("Nucleus area um^2", "nucleus_area_um2", 2),
    ("Nucleus lobes", "nucleus_lobes", 0),
    ("Nucleus density OD", "nucleus_od", 3),
    ("Chromatin OD", "nucleus_chromatin", 4),
    ("Cytoplasm granularity OD", "cytoplasm_granularity", 4),
    ("Granularity score", "granularity_score", 3),
    ("Hypogranular", "hypogranular", 0),
    ("Pseudo-Pelger", "pseudo_pelger", 0),
    ("Pallor depth", "pallor_depth", 3),
    ("Class probability", "class_probability", 4),
    ("Out of distribution", "out_of_distribution", 3),
    ("Cell probability", "cell_probability", 3),
)


@dataclass(frozen=True, kw_only=True)
class CellExtra:
    """What is added to a cell: its ``classification`` member (None keeps its class's), and encoded measurements."""

    classification: str | None
    measurements: str


def write_qupath(
    cells: Path,
    out: Path,
    *,
    offset_px0: tuple[float, float],
    taxonomy: Taxonomy,
    specimen: str,
    also: Taxonomy | None = None,
    extras: Mapping[str, CellExtra] | None = None,
) -> int:
    """Write a cell table as a gzipped GeoJSON FeatureCollection for QuPath.

    The table is streamed, so memory does not grow with the number of cells. The same table gives the same
    bytes: gzip's time is 0 and its name empty.

    Parameters
    ----------
    cells
        ``cells.parquet``; outlines in level-0 pixels.
    out
        The file to write, for example ``qupath.geojson.gz``; replaced when complete.
    offset_px0
        Level-0 position (x, y) of QuPath's origin: ``openslide.bounds-x/y``, to which QuPath crops, or 0, 0.
    taxonomy
        Names and colours of the classes. A class it does not list is written with its code, in grey.
    specimen
        ``blood_smear``, ``marrow_smear`` or ``trephine``; written to each file's ``specimen`` member.
    also
        Names and colours of further classes: the shapes of red cells.
    extras
        What is added to some cells, by their id: to megakaryocytes.

    Returns
    -------
    int
        Features written. A cell whose outline has no area left on the 0.01-pixel grid cannot be shown by
        QuPath and is left out, with a warning in the log.

    Raises
    ------
    DataError
        The table cannot be read or lacks a column.

    Notes
    -----
    A cell with a nucleus outline is a QuPath *cell*, others are *detections*. A ring that crosses itself,
    in the table or after rounding, is replaced by its largest valid part.
    """
    written = dropped = 0
    with feature_collection(out, specimen) as add:
        for rows, features in encode_cells(
            cells,
            offset_px0=offset_px0,
            taxonomies=(taxonomy, *(() if also is None else (also,))),
            extras=extras,
        ):
            add(features)
            written += len(features)
            dropped += rows - len(features)
    if dropped:
        _log.warning("%s: %d cells without area on the %s-pixel grid are not in %s", cells, dropped, GRID_PX, out)
    return written


@contextmanager
def feature_collection(out: Path, specimen: str) -> Iterator[Callable[[Sequence[str]], None]]:
    """Open a gzipped FeatureCollection; yields what appends encoded features. The file appears when it is whole."""
    empty = True
    with (
        atomic_path(out) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0) as file,
    ):

        def add(features: Sequence[str]) -> None:
            nonlocal empty
            if features:
                file.write((("" if empty else ",") + "\n" + ",\n".join(features)).encode())
                empty = False

        file.write(f'{{"type":"FeatureCollection","specimen":{json.dumps(specimen)},"features":['.encode())
        yield add
        file.write(b"\n]}\n")


def encode_cells(
    cells: Path,
    *,
    offset_px0: tuple[float, float],
    taxonomies: Sequence[Taxonomy],
    extras: Mapping[str, CellExtra] | None = None,
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of each batch of a cell table, and the features of those that have area on QuPath's grid.

    Parameters
    ----------
    cells, offset_px0, extras
        As :func:`write_qupath` takes them.
    taxonomies
        Names and colours of the classes; the last that lists a class decides.

    Raises
    ------
    DataError
        The table cannot be read or lacks a column.
    """
    classes = _ClassNames(*taxonomies)
    optional = ("nucleus", "truncated", *(column for _, column, _ in _MEASUREMENTS))
    batches = iter_cells(cells, ("cell_id", "geometry", "class_name"), optional)
    # The caller compresses one batch while the next is encoded.
    yield from ahead(
        (batch.num_rows, list(_features(batch, cells, first, offset_px0, classes, extras or {})))
        for first, batch in batches
    )


class _ClassNames:
    """The ``classification`` member of each class, encoded once."""

    def __init__(self, *taxonomies: Taxonomy) -> None:
        classes = (cell for taxonomy in taxonomies for cell in taxonomy.classes)
        self._known = {cell.code: _classification(cell.name_en, cell.color) for cell in classes}

    def __getitem__(self, code: str) -> str:
        found = self._known.get(code)
        if found is None:
            found = self._known[code] = _classification(code or "unclassified", UNKNOWN_COLOUR)
        return found


def _classification(name: str, colour: Sequence[int]) -> str:
    return json.dumps({"name": plain_name(name), "color": [int(c) for c in colour]}, separators=(",", ":"))


def plain_name(name: str) -> str:
    """Return the name of a class as one that QuPath takes whole.

    It splits names at colons into derived classes, and refuses line breaks and blanks.
    """
    return " ".join(name.replace(":", " ").split()) or "unclassified"


def _features(
    batch: pa.RecordBatch,
    path: Path,
    first_row: int,
    offset_px0: tuple[float, float],
    classes: _ClassNames,
    extras: Mapping[str, CellExtra],
) -> Iterator[str]:
    outlines = _polygons_json(to_grid(geometries(batch.column("geometry"), path, first_row), offset_px0))
    nuclei: list[str | None] = [None] * batch.num_rows
    if "nucleus" in batch.schema.names and batch.column("nucleus").null_count < batch.num_rows:
        nuclei = _nuclei_json(geometries(batch.column("nucleus"), path, first_row), offset_px0)
    measurements = _measurements_json(batch)
    for cell_id, outline, nucleus, code, measured in zip(
        strings(batch, "cell_id"), outlines, nuclei, strings(batch, "class_name"), measurements, strict=True
    ):
        if outline is None:
            continue
        classification, values = classes[code], measured
        if (extra := extras.get(cell_id)) is not None:
            classification = extra.classification or classification
            values = ",".join(filter(None, (measured, extra.measurements)))
        kind, inner = ("cell", f'"nucleusGeometry":{nucleus},') if nucleus else ("detection", "")
        yield (
            f'{{"type":"Feature","id":{json.dumps(cell_id)},"geometry":{outline},{inner}'
            f'"properties":{{"objectType":"{kind}","classification":{classification},'
            f'"measurements":{{{values}}}}}}}'
        )


def to_grid(shapes: ObjectArray, offset_px0: tuple[float, float]) -> ObjectArray:
    """Move outlines to QuPath's frame and grid, each as one valid polygon or None.

    Parameters
    ----------
    shapes
        ``(n,)`` shapely geometries or None, level-0 pixels.
    offset_px0
        Level-0 position of QuPath's origin.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` valid polygons whose coordinates are multiples of 0.01; None where there was none, no area is left,
        or coordinates are not finite or beyond 1e9 px.
    """
    shapes = _on_a_slide(shapes)
    moved = shapely.transform(shapes, lambda xy: _snap(xy - offset_px0))
    good = (shapely.get_type_id(moved) == 3) & shapely.is_valid(moved) & (shapely.area(moved) > 0)
    result: ObjectArray = np.full(len(shapes), None, dtype=object)
    result[good] = moved[good]
    for i in np.flatnonzero(~good & ~shapely.is_missing(moved)):
        result[i] = _repair(shapely.transform(shapes[i], lambda xy: xy - offset_px0))
    return result


def _on_a_slide(shapes: ObjectArray) -> ObjectArray:
    """Return the geometries with None for those whose coordinates are no numbers, or lie on no possible slide."""
    xy, index = shapely.get_coordinates(shapes, return_index=True)
    wild = index[~(np.abs(xy) <= _FARTHEST_PX0).all(axis=1)]
    if not len(wild):
        return shapes
    kept: ObjectArray = shapes.copy()
    kept[wild] = None
    return kept


def _snap(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # Dividing an integer by 100 gives the double nearest to the decimal, so it prints with two places.
    return np.rint(xy * 100.0) / 100.0


def _repair(shape: shapely.Geometry) -> shapely.Polygon | None:
    polygon = polygonal(shape)
    for _ in range(8):
        if polygon is None:
            return None
        # GEOS snap-rounding is valid on the grid; the pointwise step only removes its float noise.
        with np.errstate(invalid="ignore"):  # GEOS gives None where nothing is left
            polygon = polygonal(shapely.set_precision(polygon, GRID_PX))
        if polygon is not None:
            snapped = shapely.transform(polygon, _snap)
            if snapped.is_valid and snapped.area > 0:
                return snapped
            polygon = polygonal(snapped)
    return None


def _polygons_json(shapes: ObjectArray) -> list[str | None]:
    """Encode polygons on the grid as GeoJSON geometries, without points on straight lines; None as None.

    Numbers are formatted by Arrow for the whole batch: about ten times as fast as ``json.dumps``.
    """
    texts: list[str | None] = [None] * len(shapes)
    present = np.flatnonzero(~shapely.is_missing(shapes))
    if not len(present):
        return texts
    _, xy, (ring_starts, polygon_starts) = shapely.to_ragged_array(shapes[present])
    xy, ring_starts = corners(xy, ring_starts)
    xy = xy + 0.0  # no minus zero
    x, y = (pc.cast(pa.array(np.ascontiguousarray(xy[:, axis])), pa.string()) for axis in (0, 1))
    points = pc.binary_join_element_wise(x, y, ",")
    rings = pc.binary_join(pa.ListArray.from_arrays(ring_starts.astype(np.int32), points), "],[")
    bounded = pc.binary_join_element_wise("[[", rings, "]]", "")
    polygons = pc.binary_join(pa.ListArray.from_arrays(polygon_starts.astype(np.int32), bounded), ",")
    for i, text in zip(present, polygons.to_pylist(), strict=True):
        texts[i] = f"{_POLYGON}[{text}]}}"
    return texts


def _nuclei_json(shapes: ObjectArray, offset_px0: tuple[float, float]) -> list[str | None]:
    """Encode nuclei; one of several lobes stays a MultiPolygon where the lobes are valid together on the grid."""
    lobed = shapely.get_type_id(shapes) == 6
    whole = shapes.copy()
    whole[lobed] = None
    texts = _polygons_json(to_grid(whole, offset_px0))
    lobes, owner = shapely.get_parts(shapes[lobed], return_index=True)
    moved = to_grid(lobes, offset_px0)
    kept = ~shapely.is_missing(moved)
    encoded = np.array(_polygons_json(moved), dtype=object)
    for number, i in enumerate(np.flatnonzero(lobed)):
        mine = np.flatnonzero(kept & (owner == number))
        if not len(mine):
            continue
        largest = mine[np.argmax(shapely.area(moved[mine]))]
        if len(mine) == 1 or not shapely.is_valid(shapely.multipolygons(moved[mine])):
            texts[i] = encoded[largest]
        else:
            inner = ",".join(text[_HEAD:-1] for text in encoded[mine])
            texts[i] = f'{{"type":"MultiPolygon","coordinates":[{inner}]}}'
    return texts


def _measurements_json(batch: pa.RecordBatch) -> list[str]:
    # Arrow returns nothing at all where every value is null, so each row starts with one that is not.
    columns = [pa.array([""] * batch.num_rows, pa.string())]
    for name, column, decimals in _MEASUREMENTS:
        if column in batch.schema.names:
            values = np.round(floats(batch, column), decimals) + 0.0
            text = pc.cast(pa.array(values, mask=~np.isfinite(values)), pa.string())
            columns.append(pc.binary_join_element_wise(f"{json.dumps(name)}:", text, ""))
    if "truncated" in batch.schema.names:
        is_cut = np.nan_to_num(floats(batch, "truncated")) > 0
        columns.append(pa.array(np.where(is_cut, '"Truncated":1', ""), pa.string(), mask=~is_cut))
    return [text[1:] for text in pc.binary_join_element_wise(*columns, ",", null_handling="skip").to_pylist()]
