"""Of which slide of a run a GeoJSON file is, and which of its objects is which cell.

A file is taken for a slide by the fingerprint that the regions of ``export qupath`` carry, by the ids of its objects,
which are made from the slide's fingerprint, or by its name; what contradicts is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import shapely

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.exports.finished_run import RunSlide
from wsi_pipeline.exports.qupath_project import CORRECTED, PROJECT_FILE
from wsi_pipeline.slides import SlidePath
from wsi_pipeline.training.qupath.objects import GEOJSON, cells_covered, class_name, read_features

_MARGIN_PX0 = 200
"""What is drawn may reach so far beyond the edge of the slide."""

_LEAST_MATCHED = 0.5
"""Share of the objects that must lie on cells where neither a fingerprint nor an id says which slide it is."""

Locate = Callable[[RunSlide], SlidePath]
"""Tells where a slide's file is."""


@dataclass(frozen=True, kw_only=True)
class FileObjects:
    """Objects of a file, without the regions of the run.

    Attributes
    ----------
    known
        Class of the objects whose id is that of a cell of the run, by id.
    other
        Number in the file, class and geometry of the others.
    fingerprints
        Of slides, as regions name them.
    """

    known: dict[str, str]
    other: list[tuple[int, str, Any]]
    fingerprints: set[str]


def list_files(sources: Sequence[Path]) -> list[Path]:
    """Return the GeoJSON files among files and folders.

    Raises
    ------
    DataError
        One does not exist, has another ending, or is a folder without such files or one of ``export qupath``.
    """
    files: list[Path] = []
    for source in sources:
        if source.is_dir():
            if (source / PROJECT_FILE).is_file():
                raise DataError(
                    f"{source} is a folder of `export qupath`; run its export.groovy in QuPath, and give the folder "
                    f"{source / CORRECTED} that it writes"
                )
            inside = sorted(p for p in source.iterdir() if p.name.lower().endswith(GEOJSON))
            if not inside:
                raise DataError(f"{source} holds no file that ends in {', '.join(GEOJSON)}")
            files += inside
        elif not source.is_file():
            raise DataError(f"{source} does not exist")
        elif not source.name.lower().endswith(GEOJSON):
            raise DataError(f"{source}: files that end in {', '.join(GEOJSON)} are needed; export GeoJSON from QuPath")
        else:
            files.append(source)
    return files


def read_objects(path: Path, home: Mapping[str, str]) -> FileObjects:
    """Read a file; ``home`` gives the slide of each cell of the run.

    Raises
    ------
    DataError
        It cannot be read, holds no objects, or one cell has two classes.
    """
    known: dict[str, str] = {}
    other: list[tuple[int, str, Any]] = []
    fingerprints: set[str] = set()
    for number, feature in enumerate(read_features(path)):
        properties = feature.get("properties")
        metadata = properties.get("metadata") if isinstance(properties, dict) else None
        if isinstance(metadata, dict) and "status" in metadata:  # a region of the run
            if isinstance(metadata.get("fingerprint"), str):
                fingerprints.add(metadata["fingerprint"])
            continue
        name, cell = class_name(feature), str(feature.get("id", ""))
        if cell not in home:
            other.append((number, name, feature["geometry"]))
        elif known.setdefault(cell, name) != name:
            raise DataError(f"{path}: cell {cell} has the classes {known[cell]!r} and {name!r}")
    if not known and not other:
        raise DataError(f"{path} holds no cells; export all objects of the slide from QuPath")
    return FileObjects(known=known, other=other, fingerprints=fingerprints)


def slide_of(path: Path, objects: FileObjects, slides: Sequence[RunSlide], home: Mapping[str, str]) -> RunSlide:
    """Return the slide that a file is of.

    Raises
    ------
    DataError
        It is of another slide, of several, or does not say.
    """
    by_id = {home[cell] for cell in objects.known}
    by_print = {slide.slide_id for slide in slides if slide.fingerprint in objects.fingerprints}
    strange = objects.fingerprints - {slide.fingerprint for slide in slides}
    if strange:
        raise DataError(
            f"{path} is of another slide: its fingerprint is {min(strange)[:12]}..., and no slide of the run has that"
        )
    if len(by_id) > 1 or len(by_print) > 1:
        raise DataError(f"{path} holds objects of several slides ({some(sorted(by_id | by_print))}); one file a slide")
    if by_id and by_print and by_id != by_print:
        raise DataError(
            f"{path} contradicts itself: its regions are of slide {min(by_print)}, its cells of slide {min(by_id)}"
        )
    named = by_id or by_print
    if not named:
        stem = path.name
        alike = [s.slide_id for s in slides if stem.startswith(f"{s.slide_id}.") or path.parent.name == s.slide_id]
        if len(slides) > 1 and len(alike) != 1:
            raise DataError(
                f"{path} does not say of which slide it is: no object has an id of the run. Name it after one of "
                f"{some(slide.slide_id for slide in slides)} (<slide_id>.geojson)"
            )
        named = set(alike) or {slides[0].slide_id}
    return next(slide for slide in slides if slide.slide_id in named)


def match_objects(
    path: Path, objects: FileObjects, slide: RunSlide, locate: Locate
) -> Iterator[tuple[str | None, str, str]]:
    """Yield cell, class, and ``id`` or ``overlap``, of each object; the cell is None where it lies on none.

    Raises
    ------
    DataError
        Objects lie outside the slide, or, where no id is known, too few lie on cells.
    SlideError, ConfigError
        The slide, which is opened where ids are not enough, is not there or is another.
    """
    for cell, name in objects.known.items():
        yield cell, name, "id"
    if not objects.other:
        return
    with slide.spec(locate(slide)).open() as opened:
        bounds = opened.bounds
    for number, _, geometry in objects.other:
        point = _first_point(geometry)
        inside = point is not None and (
            -_MARGIN_PX0 <= point[0] <= bounds.width + _MARGIN_PX0
            and -_MARGIN_PX0 <= point[1] <= bounds.height + _MARGIN_PX0
        )
        if not inside:
            at = "has no coordinates" if point is None else f"lies at {point[0]:.0f}, {point[1]:.0f}"
            raise DataError(
                f"{path}: object {number} {at}, outside slide {slide.slide_id} "
                f"({bounds.width} x {bounds.height} pixels); the file is of another slide"
            )
    table = pq.read_table(slide.cells, columns=["cell_id", "geometry"])
    ids = table.column("cell_id").to_pylist()
    outlines = shapely.from_wkb(table.column("geometry").to_numpy(zero_copy_only=False))
    geometries = [(number, geometry) for number, _, geometry in objects.other]
    covered = cells_covered(path, geometries, outlines, (bounds.x0, bounds.y0))
    n = sum(k is not None for k in covered)
    if not objects.known and not objects.fingerprints and n < _LEAST_MATCHED * len(covered):
        raise DataError(
            f"{path}: only {n} of {len(covered)} objects lie on cells of slide {slide.slide_id}, and none has the id "
            "of one; the file is of another slide"
        )
    for k, (_, name, _) in zip(covered, objects.other, strict=True):
        yield (None if k is None else ids[k]), name, "overlap"


def _first_point(geometry: Any) -> tuple[float, float] | None:
    place = geometry.get("coordinates") if isinstance(geometry, dict) else None
    while isinstance(place, list) and place and isinstance(place[0], list):
        place = place[0]
    if isinstance(place, list) and len(place) >= 2 and all(isinstance(v, int | float) for v in place[:2]):
        return float(place[0]), float(place[1])
    return None
