"""Data door: the output of a run, with labels that a reader corrected.

Labels come from GeoJSON files that QuPath exported, from a CSV file ``cell_id,label``, or from a column ``label`` of
``cells.parquet``. Objects of a GeoJSON file are matched to cells by their id, else by an intersection over union of at
least 0.5. Every object with a class counts as read and vouched for, whether its class was changed or not; cells without
an object, or whose object has no class, are not trained on. The windows are read from the slides.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.csv_rows import read_rows
from wsi_pipeline.errors import DataError, some
from wsi_pipeline.training.cell_listing import Example, Listing, checked_mpp
from wsi_pipeline.training.qupath_objects import GEOJSON, cells_covered, class_name, read_features

_COLUMNS = ("cell_id", "geometry", "x_px0", "y_px0")


@dataclass(frozen=True, kw_only=True)
class _RunSlide:
    """One slide of a run: where it is, and its table of cells."""

    slide_id: str
    path: Path
    mpp: float
    table: pa.Table

    @property
    def ids(self) -> list[str]:
        return self.table.column("cell_id").to_pylist()


def is_run(data: Path) -> bool:
    """Tell whether a path is the output folder of a run, or a ``cells.parquet`` in one."""
    return data.suffix == ".parquet" or (
        data.is_dir() and (data / "slides.csv").is_file() and (data / "slides").is_dir()
    )


def read_run(data: Path, labels: Path | None) -> Listing:
    """List the labelled cells of a run.

    Parameters
    ----------
    data
        Output folder, or one ``slides/<slide_id>/cells.parquet`` in it.
    labels
        GeoJSON (also gzipped), a folder of such files, or CSV with columns ``cell_id,label``; None takes the column
        ``label`` of the tables.

    Raises
    ------
    DataError
        A table, slide or label file is missing or damaged; labels name cells that the run does not have; one cell has
        two labels.
    """
    slides = _slides(data)
    if labels is None:
        return _listing(slides, _own_labels(slides, data), [])
    if not labels.exists():
        raise DataError(f"--labels {labels} does not exist")
    if labels.suffix.lower() == ".csv":
        return _listing(slides, _csv_labels(labels, slides), [])
    files = sorted(p for p in labels.iterdir() if p.name.lower().endswith(GEOJSON)) if labels.is_dir() else [labels]
    if not files or not files[0].name.lower().endswith(GEOJSON):
        raise DataError(f"--labels {labels}: GeoJSON files ({', '.join(GEOJSON)}) or a CSV file are needed")
    found: dict[str, str] = {}
    notes: list[str] = []
    for file in files:
        for cell, label in _geojson_labels(file, slides, notes).items():
            if found.setdefault(cell, label) != label:
                raise DataError(f"{file}: cell {cell} is labelled {label}, in another file {found[cell]}")
    return _listing(slides, found, notes)


def _slides(data: Path) -> list[_RunSlide]:
    out = data.resolve().parents[2] if data.suffix == ".parquet" else data
    index = out / "slides.csv"
    try:
        with index.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{data}: {index} cannot be read ({error}); it says where the slides are") from None
    if rows and not {"slide_id", "path", "status", "mpp"} <= set(rows[0]):
        raise DataError(f"{index} has the columns {', '.join(rows[0])}; slide_id, path, status and mpp are needed")
    if data.suffix == ".parquet":
        rows = [r for r in rows if r["slide_id"] == data.resolve().parent.name]
    slides = []
    for row in rows:
        if row["status"] != "ok":
            continue
        path = Path(row["path"])
        path = path if path.is_absolute() or path.exists() else out / path
        if not path.exists():
            raise DataError(f"{index}: slide {row['slide_id']} is not at {path}; its pixels are needed")
        parquet = out / "slides" / row["slide_id"] / "cells.parquet"
        try:
            names = pq.read_schema(parquet).names
            if "image" in names:
                raise DataError(
                    f"{parquet} is of a gallery, whose cells have no place on a slide; train on the folders instead: "
                    f"--data {path.parent}"
                )
            missing = [c for c in _COLUMNS if c not in names]
            if missing:
                raise DataError(f"{parquet} has no column {', '.join(missing)}")
            wanted = [*_COLUMNS, *(c for c in ("class_name", "label") if c in names)]
            table = pq.read_table(parquet, columns=wanted)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{parquet} cannot be read: {error}") from None
        try:
            mpp = checked_mpp(float(row["mpp"]), f"{index}, slide {row['slide_id']}")
        except ValueError as error:
            raise (
                error
                if isinstance(error, DataError)
                else DataError(f"{index}: mpp of slide {row['slide_id']} is {row['mpp']!r}")
            ) from None
        slides.append(_RunSlide(slide_id=row["slide_id"], path=path, mpp=mpp, table=table))
    if not slides:
        raise DataError(f"{index} has no slide with status ok")
    return slides


def _own_labels(slides: list[_RunSlide], data: Path) -> dict[str, str]:
    found = {}
    for slide in slides:
        if "label" in slide.table.column_names:
            for cell, label in zip(slide.ids, slide.table.column("label").to_pylist(), strict=True):
                if label:
                    found[cell] = str(label)
    if not found:
        raise DataError(
            f"{data} is the output of a run, and its cells have no column label; give the corrected labels with "
            "--labels (GeoJSON of QuPath, or CSV cell_id,label)"
        )
    return found


def _csv_labels(path: Path, slides: list[_RunSlide]) -> dict[str, str]:
    header, rows = read_rows(path)
    if not {"cell_id", "label"} <= set(header):
        raise DataError(f"{path} has the columns {', '.join(header)}; cell_id and label are needed")
    known = {cell for slide in slides for cell in slide.ids}
    strangers = [f"{cell} (line {line})" for line, row in rows if (cell := row["cell_id"]) not in known]
    if strangers:
        raise DataError(f"{path}: {len(strangers)} cells are not in this run: {some(strangers)}")
    found: dict[str, str] = {}
    for line, row in rows:
        cell, label = row["cell_id"], row["label"]
        if label and found.setdefault(cell, label) != label:
            raise DataError(f"{path} line {line}: cell {cell} is labelled {label}, before that {found[cell]}")
    return found


def _geojson_labels(path: Path, slides: list[_RunSlide], notes: list[str]) -> dict[str, str]:
    home = {cell: slide for slide in slides for cell in slide.ids}
    found: dict[str, str] = {}
    rest: list[tuple[int, Any]] = []
    names: list[str] = []
    for number, feature in enumerate(read_features(path)):
        name, cell = class_name(feature), str(feature.get("id", ""))
        if name and cell not in home:
            rest.append((number, feature["geometry"]))
            names.append(name)
        elif name and found.setdefault(cell, name) != name:
            raise DataError(f"{path}: cell {cell} is labelled {name} and {found[cell]}")
    n_id = len(found)
    lost = 0
    if rest:
        slide = _slide_of(path, slides, [home[c] for c in found])
        for name, match in zip(names, _by_overlap(path, rest, slide), strict=True):
            if match is None:
                lost += 1
            elif found.setdefault(match, name) != name:
                raise DataError(f"{path}: objects labelled {name} and {found[match]} both cover cell {match}")
    notes.append(
        f"{path.name}: {n_id} cells labelled by id, {len(found) - n_id} by overlap"
        + (f", {lost} objects that match no cell left out" if lost else "")
    )
    return found


def _slide_of(path: Path, slides: list[_RunSlide], matched: list[_RunSlide]) -> _RunSlide:
    """Return the slide a file is of: the one its ids name, the only one, or the one it is named after."""
    names = {s.slide_id: s for s in matched} or {s.slide_id: s for s in slides}
    if len(names) == 1:
        return next(iter(names.values()))
    alike = [s for s in names.values() if path.name.startswith(f"{s.slide_id}.") or path.parent.name == s.slide_id]
    if len(alike) == 1:
        return alike[0]
    raise DataError(
        f"{path} has objects without a known id, and does not say of which slide they are; name it after one of "
        f"{some(names)} (<slide_id>.geojson), one file a slide"
    )


def _by_overlap(path: Path, features: list[tuple[int, Any]], slide: _RunSlide) -> list[str | None]:
    """Return for each object (number, geometry) the cell it covers with IoU of at least 0.5, if any."""
    from wsi_pipeline.slides import open_slide

    with open_slide(slide.path, mpp=slide.mpp, force_mpp=True) as opened:
        offset = (float(opened.bounds.x0), float(opened.bounds.y0))
    cells = shapely.from_wkb(slide.table.column("geometry").to_numpy(zero_copy_only=False))
    ids = slide.ids
    return [None if k is None else ids[k] for k in cells_covered(path, features, cells, offset)]


def _listing(slides: list[_RunSlide], labels: Mapping[str, str], notes: list[str]) -> Listing:
    examples = []
    for slide in slides:
        table = slide.table
        before = table.column("class_name").to_pylist() if "class_name" in table.column_names else [None] * len(table)
        places = zip(
            slide.ids, table.column("x_px0").to_pylist(), table.column("y_px0").to_pylist(), before, strict=True
        )
        for cell, x, y, earlier in places:
            if (label := labels.get(cell)) is None:
                continue
            examples.append(
                Example(
                    path=slide.path,
                    name=f"{slide.slide_id}/{cell}",
                    label=label,
                    centre=(float(x), float(y)),
                    mpp=slide.mpp,
                    slide=slide.slide_id,
                    predicted=earlier,
                    on_slide=True,
                )
            )
    if not examples:
        raise DataError("none of the labels belongs to a cell of this run")
    n_slides = len({e.slide for e in examples})
    summary = f"{len(examples)} labelled cells of {n_slides} slides"
    return Listing(door="corrected run", examples=tuple(examples), notes=(*notes, summary))
