"""Routine blood counts that stand beside the labels of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsi_pipeline.errors import DataError, some
from wsi_pipeline.predictions.bags.manifest import Manifest, ManifestRow, read_labels
from wsi_pipeline.predictions.bags.matching import Subject, matched
from wsi_pipeline.predictions.bags.runs import SECTIONS
from wsi_pipeline.predictions.counts.analytes import load_analytes
from wsi_pipeline.predictions.counts.columns import ColumnNames
from wsi_pipeline.predictions.counts.findings import remark, shown
from wsi_pipeline.predictions.counts.reading import read_counts


@dataclass(frozen=True, kw_only=True)
class RoutineCounts:
    """Values ``(n, k)`` in canonical units, NaN where missing, of the analytes ``names``; remarks for a person."""

    values: npt.NDArray[np.float64]
    names: tuple[str, ...]
    remarks: tuple[str, ...]


def panel_of(specimen: str) -> str:
    """Return the panel of analytes that stand beside the slides of a specimen."""
    return "mpn" if specimen in SECTIONS else "acute-leukaemia"


def read_routine_counts(
    table: Manifest, subjects: Sequence[Sequence[ManifestRow]], *, panel: str = "acute-leukaemia"
) -> RoutineCounts:
    """Return the counts of each subject; of several rows the first value in the order of the table.

    Parameters
    ----------
    table
        Its columns are looked up by the names that ``predict counts`` knows.
    subjects
        Rows of each.
    panel
        Which analytes (:func:`panel_of`).

    Raises
    ------
    DataError
        Two columns of one analyte differ.
    """
    nothing = RoutineCounts(values=np.empty((len(subjects), 0)), names=(), remarks=())
    analytes = load_analytes(panel)
    if not ColumnNames(analytes).count(table.other_columns):
        return nothing
    found = read_counts(table.path, analytes=analytes, label=table.label_column)
    position = {row.line: i for i, row in enumerate(table.rows)}
    values = np.full((len(subjects), len(analytes)), np.nan)
    differ = np.zeros(len(analytes), np.int64)
    for i, rows in enumerate(subjects):
        for row in sorted(rows, key=lambda r: r.line):
            own = found.values[position[row.line]]
            differ += np.isfinite(own) & np.isfinite(values[i]) & (own != values[i])
            values[i] = np.where(np.isfinite(values[i]), values[i], own)
    there = np.flatnonzero(np.isfinite(values).any(axis=0))
    several = [f"{analytes[j].name}: {differ[j]} further values of a subject differ; the first is used"
               for j in there.tolist() if differ[j]]  # fmt: skip
    remarks = [remark(f) for f in found.findings if f.kind not in ("missing", "unknown-column")]
    return RoutineCounts(
        values=values[:, there],
        names=tuple(analytes[j].name for j in there.tolist()),
        remarks=(*several, *shown(remarks)),
    )


def counts_of(
    table: Path, subjects: Sequence[Subject], *, panel: str = "acute-leukaemia"
) -> tuple[list[dict[str, float]], tuple[str, ...]]:
    """Return the routine counts that a table has of each subject, and remarks for a person.

    Parameters
    ----------
    table
        CSV table of patients or slides, with or without labels, and columns of counts by the names that
        ``predict counts`` knows.
    subjects
        Found by their slides, else by their patients; one that the table does not name has no counts.
    panel
        Which analytes (:func:`panel_of`).

    Returns
    -------
    tuple
        Values by analyte in canonical units, and sentences.

    Raises
    ------
    DataError
        The table cannot be read, has no column of counts, or names none of the subjects.
    """
    rows = read_labels(table, labelled=False)
    of_each = matched(rows, subjects)
    if not any(of_each):
        raise DataError(f"{table} names none of the subjects: it has {some(row.name for row in rows.rows)}")
    found = read_routine_counts(rows, of_each, panel=panel)
    if not found.names:
        raise DataError(f"{table} has no routine counts of these subjects; found {some(rows.other_columns)}")
    told = [
        {name: value for name, value in zip(found.names, own.tolist(), strict=True) if np.isfinite(value)}
        for own in found.values
    ]
    return told, found.remarks
