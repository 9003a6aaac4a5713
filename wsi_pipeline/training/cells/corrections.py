"""Data door: the output of a run, with labels that a reader corrected.

Labels come from GeoJSON files that QuPath exported, from a CSV file ``cell_id,label``, or from a column ``label`` of
``cells.parquet``. Objects of a GeoJSON file are matched to cells by their id, else by an intersection over union of at
least 0.5. Every object with a class counts as read and vouched for, whether its class was changed or not; cells without
an object, or whose object has no class, are not trained on. The windows are read from the slides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from wsi_pipeline.csv_rows import read_rows
from wsi_pipeline.errors import DataError, some
from wsi_pipeline.exports.finished_run import RunSlide, locate_slides, read_finished_run
from wsi_pipeline.slides import RemotePath
from wsi_pipeline.training.cells.listing import Example, Listing, checked_mpp
from wsi_pipeline.training.qupath.matching import list_files, match_objects, read_objects, slide_of

_COLUMNS = ("cell_id", "geometry", "x_px0", "y_px0")


@dataclass(frozen=True, kw_only=True)
class _Slide:
    """One slide of a run, and its table of cells."""

    of: RunSlide
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
        The run is not finished; a table, slide or label file is missing, damaged or of another slide; labels name cells
        that the run does not have; one cell has two labels.
    ConfigError
        A slide is not the one that was run.
    """
    slides = _slides(data)
    if labels is None:
        return _listing(slides, _own_labels(slides, data), [])
    if not labels.exists():
        raise DataError(f"--labels {labels} does not exist")
    if labels.suffix.lower() == ".csv":
        return _listing(slides, _csv_labels(labels, slides), [])
    found: dict[str, str] = {}
    notes: list[str] = []
    for file in list_files([labels]):
        for cell, label in _geojson_labels(file, slides, notes).items():
            if found.setdefault(cell, label) != label:
                raise DataError(f"{file}: cell {cell} is labelled {label}, in another file {found[cell]}")
    return _listing(slides, found, notes)


def _slides(data: Path) -> list[_Slide]:
    out = data.resolve().parents[2] if data.suffix == ".parquet" else data
    run = read_finished_run(out)
    if run.damaged:
        raise DataError(f"{out}: {some(run.damaged.values())}")
    slides = [s for s in run.slides if data.suffix != ".parquet" or s.slide_id == data.resolve().parent.name]
    if not slides:
        raise DataError(f"{data} is the table of no slide of the run {out} that has cells")
    return [_Slide(of=slide, table=_table(slide.cells)) for slide in slides]


def _table(parquet: Path) -> pa.Table:
    try:
        names = pq.read_schema(parquet).names
        missing = [c for c in _COLUMNS if c not in names]
        if missing:
            raise DataError(f"{parquet} has no column {', '.join(missing)}")
        return pq.read_table(parquet, columns=[*_COLUMNS, *(c for c in ("class_name", "label") if c in names)])
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{parquet} cannot be read: {error}") from None


def _own_labels(slides: list[_Slide], data: Path) -> dict[str, str]:
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


def _csv_labels(path: Path, slides: list[_Slide]) -> dict[str, str]:
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


def _geojson_labels(path: Path, slides: list[_Slide], notes: list[str]) -> dict[str, str]:
    """Return the class, as written, of each cell that has one; the file is checked as by ``import qupath``."""
    home = {cell: slide.of.slide_id for slide in slides for cell in slide.ids}
    objects = read_objects(path, home)
    slide = slide_of(path, objects, [s.of for s in slides], home)
    found: dict[str, str] = {}
    matches = {"id": 0, "overlap": 0, "none": 0}
    for cell, name, how in match_objects(path, objects, slide, _where):
        if not name:
            continue
        matches["none" if cell is None else how] += 1
        if cell is not None and found.setdefault(cell, name) != name:
            raise DataError(f"{path}: objects labelled {name} and {found[cell]} both cover cell {cell}")
    notes.append(
        f"{path.name}: {matches['id']} cells labelled by id, {matches['overlap']} by overlap"
        + (f", {matches['none']} objects that match no cell left out" if matches["none"] else "")
    )
    return found


def _where(slide: RunSlide) -> Path:
    """Return where the slide's file is; it must be the one that was run."""
    if isinstance(slide.path, RemotePath):
        raise DataError(f"slide {slide.slide_id} is behind a URL ({slide.path}); its pixels are read from a file")
    if not slide.path.exists():
        raise DataError(f"slide {slide.slide_id} of the run is not at {slide.path} any more; its pixels are needed")
    locate_slides([slide], [(slide.slide_id, slide.path)], given="the run")
    return slide.path


def _listing(slides: list[_Slide], labels: Mapping[str, str], notes: list[str]) -> Listing:
    examples = []
    for slide in slides:
        if labels.keys().isdisjoint(slide.ids):
            continue
        table, name, path = slide.table, slide.of.slide_id, _where(slide.of)
        mpp = checked_mpp(slide.of.mpp[0], f"slide {name}")
        before = table.column("class_name").to_pylist() if "class_name" in table.column_names else [None] * len(table)
        places = zip(
            slide.ids, table.column("x_px0").to_pylist(), table.column("y_px0").to_pylist(), before, strict=True
        )
        for cell, x, y, earlier in places:
            if (label := labels.get(cell)) is None:
                continue
            examples.append(
                Example(
                    path=path,
                    name=f"{name}/{cell}",
                    label=label,
                    centre=(float(x), float(y)),
                    mpp=mpp,
                    slide=name,
                    predicted=earlier,
                    on_slide=True,
                )
            )
    if not examples:
        raise DataError("none of the labels belongs to a cell of this run")
    n_slides = len({e.slide for e in examples})
    summary = f"{len(examples)} labelled cells of {n_slides} slides"
    return Listing(door="corrected run", examples=tuple(examples), notes=(*notes, summary))
