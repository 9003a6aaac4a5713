"""What a finished run and the truth of its virtual slides hold, read and checked."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from wsi_pipeline.errors import DataError
from wsi_pipeline.evaluation.polygons import BoolArray, FloatArray, IntArray, Outlines

TRUTH_NEEDED = ("class", "kind", "x_px0", "y_px0", "truncated", "outline")
"""Columns of a truth table that are read; others may follow."""

_PRED_COLUMNS = ("geometry", "kind", "class_name", "x_px0", "y_px0", "truncated")


@dataclass(frozen=True, kw_only=True)
class FinishedSlide:
    """A slide with results.

    Parameters
    ----------
    cells, truth
        ``cells.parquet`` and the truth's CSV.
    summary
        ``summary.json``.
    region
        What was searched, level-0 pixels; empty where nothing was.
    mpp, working_mpp
        Microns per level-0 pixel (mean of x and y), and of the segmentation.
    """

    slide_id: str
    specimen: str
    cells: Path
    truth: Path
    summary: Mapping[str, Any]
    region: shapely.Geometry
    mpp: float
    working_mpp: float

    @property
    def classified(self) -> bool:
        return bool(self.summary.get("provenance", {}).get("cell classifier"))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells of one slide, level-0 pixels: objects ``(n,)`` of text, centres ``(n, 2)``, outlines."""

    kind: npt.NDArray[np.object_]
    class_name: npt.NDArray[np.object_]
    xy: FloatArray
    truncated: BoolArray
    outlines: Outlines

    def __len__(self) -> int:
        return len(self.kind)

    def shapes(self, rows: IntArray) -> npt.NDArray[np.object_]:
        """Return the polygons of some rows."""
        return np.asarray(shapely.from_wkb(self.outlines.encoded[rows]), object)


def read_finished_run(run: Path, truth: Path) -> tuple[list[FinishedSlide], dict[str, str]]:
    """Return the slides with results, in the run's order, and the reasons of those without.

    Raises
    ------
    DataError
        Not a run's folder, the run is not finished, a truth is missing, or no slide has results.
    """
    rows = _read_slides(run)
    if not truth.is_dir():
        raise DataError(f"{truth} is not a folder; give the one with the <slide>.truth.csv files")
    wanted = {row["slide_id"]: truth / f"{Path(row['path']).stem}.truth.csv" for row in rows}
    missing = [(slide_id, path.name) for slide_id, path in wanted.items() if not path.is_file()]
    if missing:
        named = ", ".join(f"{name} (slide {slide_id})" for slide_id, name in missing)
        raise DataError(f"{truth} has no {named}; every slide of the run needs its truth")
    slides: list[FinishedSlide] = []
    left_out = {}
    for row in rows:
        slide_id = row["slide_id"]
        if row["status"] == "failed":
            left_out[slide_id] = row.get("reason") or "failed"
        else:
            slides.append(_slide(run / "slides" / slide_id, row, wanted[slide_id]))
    if not slides:
        reasons = ", ".join(f"{slide_id} ({reason})" for slide_id, reason in left_out.items())
        raise DataError(f"{run}: no slide has results: {reasons or 'the run had none'}")
    return slides, left_out


def _read_slides(run: Path) -> list[dict[str, str]]:
    table = run / "slides.csv"
    if not table.is_file():
        if (run / "work").is_dir() or (run / "slides").is_dir():
            raise DataError(f"{run} holds a run that is not finished; give the same run command again, it resumes")
        raise DataError(f"{run} is not a run's folder: it has no slides.csv")
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        lacking = sorted({"slide_id", "path", "specimen", "status"} - set(reader.fieldnames or ()))
        if lacking:
            raise DataError(f"{table} is not a run's table: it has no column {', '.join(lacking)}")
        return list(reader)


def _slide(folder: Path, row: Mapping[str, str], truth: Path) -> FinishedSlide:
    from wsi_pipeline.exports.region_map import read_region_features

    lost = [n for n in ("summary.json", "cells.parquet", "regions.geojson") if not (folder / n).is_file()]
    if lost:
        raise DataError(f"{folder} has no {', '.join(lost)}; give the same run command again, it makes them anew")
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        mpp = (summary["mpp"]["x"] + summary["mpp"]["y"]) / 2
        summary["taxonomy"], [row["members"] for row in summary["differential_corrected"]["rows"]]
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'summary.json'} cannot be read ({error}); run the slide again") from None
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / 'summary.json'} has no {error}; it is of another version: run with --restart"
        ) from None
    # Virtual slides have no bounds, so QuPath's frame is that of level 0.
    regions = read_region_features(folder / "regions.geojson", (0.0, 0.0))
    return FinishedSlide(
        slide_id=row["slide_id"],
        specimen=row["specimen"],
        cells=folder / "cells.parquet",
        truth=truth,
        summary=summary,
        region=shapely.union_all([r.shape for r in regions if r.included]),
        mpp=float(mpp),
        working_mpp=float(summary["working_mpp"]),
    )


def read_pred(path: Path) -> Cells:
    """Return the cells of a ``cells.parquet``.

    Raises
    ------
    DataError
        It is not one.
    """
    try:
        table = pq.read_table(path, columns=list(_PRED_COLUMNS))
        return _cells(table, ("geometry", "class_name"), table.column("truncated").to_numpy())
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path} is not a cell table ({error}); run the slide again") from None


def read_truth(path: Path) -> Cells:
    """Return the cells of a truth table.

    Raises
    ------
    DataError
        A column is missing, or a value is not what the column holds.
    """
    from pyarrow import csv as arrow_csv

    text = dict.fromkeys(("class", "kind", "truncated", "outline"), pa.string())
    options = arrow_csv.ConvertOptions(
        column_types={**text, "x_px0": pa.float64(), "y_px0": pa.float64()},
        include_columns=list(TRUTH_NEEDED),
        strings_can_be_null=False,
    )
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header: Sequence[str] = next(csv.reader(file), [])
        lacking = [name for name in TRUTH_NEEDED if name not in header]
        if lacking:
            raise DataError(f"{path} has no column {', '.join(lacking)}; found {', '.join(header) or 'nothing'}")
        table = arrow_csv.read_csv(path, convert_options=options)
        flags = table.column("truncated").to_pylist()
        odd = sorted(set(flags) - {"true", "false"})
        if odd:
            raise DataError(f"{path}: truncated must be true or false, not {odd[0]!r}")
        return _cells(table, ("outline", "class"), np.array([flag == "true" for flag in flags], bool))
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a truth table ({' '.join(str(error).split())})") from None


def _cells(table: pa.Table, names: tuple[str, str], truncated: BoolArray) -> Cells:
    outline, class_name = names
    return Cells(
        # Few different words, so each is held once.
        kind=table.column("kind").dictionary_encode().to_pandas().astype(object).to_numpy(),
        class_name=table.column(class_name).dictionary_encode().to_pandas().astype(object).to_numpy(),
        xy=np.stack([table.column(f"{axis}_px0").to_numpy() for axis in "xy"], axis=1),
        truncated=np.asarray(truncated, bool),
        outlines=Outlines.measure(np.array(table.column(outline).to_pylist(), object)),
    )
