"""Rows of a surveyed table turned into patients and canonical values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wsi_pipeline.predictions.counts.analytes import Analyte, Part
from wsi_pipeline.predictions.counts.cells import read_cells
from wsi_pipeline.predictions.counts.columns import Column, Header
from wsi_pipeline.predictions.counts.conversion import Bools, Floats, convert, describe
from wsi_pipeline.predictions.counts.csv_source import Rows
from wsi_pipeline.predictions.counts.findings import Findings
from wsi_pipeline.predictions.counts.numbers import Separators
from wsi_pipeline.predictions.counts.parts import reconcile
from wsi_pipeline.predictions.counts.repeats import Repeats
from wsi_pipeline.predictions.counts.survey import Survey, centres_of, words_of
from wsi_pipeline.predictions.counts.table import CountsTable
from wsi_pipeline.predictions.counts.units import AS_DECLARED, plan_units

_ENCODINGS = {
    "cp1252": "read as Windows-1252 text, since it is not UTF-8; check accented names",
    "latin-1": "read as Latin-1 text, since it is not UTF-8; check accented names",
    "utf-16": "read as UTF-16 text",
}


@dataclass(frozen=True, kw_only=True)
class SurveyedTable:
    """A table whose columns and units are known.

    Parameters
    ----------
    where
        The table in messages.
    name
        The file among several, and the centre of its rows where it has no such column; else empty.
    position
        Among the tables read together.
    from_file
        Rows have lines; else they come from a form.
    """

    where: str
    name: str
    position: int
    from_file: bool
    encoding: str
    header: Header
    analytes: tuple[Analyte, ...]
    parts: tuple[Part, ...]
    survey: Survey


def read_chunk(table: SurveyedTable, rows: Rows, repeats: Repeats, start: int, *, centred: bool) -> CountsTable:
    """Return the rows of a chunk that begins at row ``start``; findings on whole columns come with the first."""
    header, analytes, n = table.header, table.analytes, len(rows)
    patients = _patients(table, rows)
    codes, centres = centres_of(rows, header, table.name)
    out = Findings(
        rows.lines.tolist() if table.from_file else [None] * n, patients, f"{table.name}: " if table.name else ""
    )
    if start == 0:
        _report_table(table, out)
    values = np.full((n, len(analytes)), np.nan)
    refused = np.zeros((n, len(analytes)), dtype=bool)
    for column in header.columns:
        texts = rows.columns[column.index]
        if column.problem:
            refused[:, column.analyte] |= ~read_cells(texts, analytes[column.analyte], Separators()).missing
            continue
        texts = _percentages_apart(table, column, texts, codes, centres, values, refused, out)
        decisions = table.survey.decisions.get(column.index, {})
        values[:, column.analyte], unused = convert(
            texts,
            column,
            analytes[column.analyte],
            table.survey.plans[column.index],
            [decisions.get(centre, AS_DECLARED) for centre in centres],
            codes,
            table.survey.separators,
            out,
        )
        refused[:, column.analyte] |= unused
    written = {analytes[column.analyte].name: column.written for column in header.columns}
    reconcile(values, refused, analytes, table.parts, written, out)
    repeats.report(table.position, start, n, out)
    refused &= np.isnan(values)
    return CountsTable(
        patients=patients,
        values=values,
        analytes=analytes,
        findings=out.result(),
        labels=None if header.label is None else tuple(words_of(rows, header.label)),
        centres=tuple(centres[code] for code in codes.tolist()) if centred else None,
        refused=refused,
    )


def _patients(table: SurveyedTable, rows: Rows) -> tuple[str, ...]:
    prefix = f"{table.name} " if table.name else ""
    lines = rows.lines.tolist()
    names = [""] * len(lines) if table.header.patient is None else words_of(rows, table.header.patient)
    unnamed = "{}row {}" if table.from_file else "patient"
    return tuple(name or unnamed.format(prefix, line) for name, line in zip(names, lines, strict=True))


def _report_table(table: SurveyedTable, out: Findings) -> None:
    """Report what holds for the whole table or for whole columns."""
    header, survey, analytes = table.header, table.survey, table.analytes
    if table.encoding in _ENCODINGS:
        out.whole("", "encoding", _ENCODINGS[table.encoding])
    if survey.empty_rows:
        out.whole("", "empty-row", f"{survey.empty_rows} empty rows are left out")
    for _, name in header.unknown:
        out.whole(name, "unknown-column", "is no known analyte and is not read")
    for kept, same in header.repeated:
        out.whole(same.written, "duplicate", f"holds the same values as {kept.written}, which is read")
    for column in header.columns:
        analyte = analytes[column.analyte]
        if column.problem:
            out.whole(column.written, "refused", f"no value is used: {column.problem}")
            continue
        describe(column, analyte, survey.plans[column.index], survey.decisions.get(column.index, {}), out)
        for centre in sorted(centre for index, centre in survey.percent_in if index == column.index):
            where = f"centre {centre}: " if centre else ""
            message = f"{where}many values exceed the white cells and none 100: all are taken as percent"
            out.whole(column.written, "converted", message)
        for centre in sorted(centre for index, centre in survey.unsettled if index == column.index):
            where = f"centre {centre}: " if centre else ""
            message = f"{where}may be percent or {analyte.unit}; values without unit are refused; write it in the name"
            out.whole(column.written, "refused", message)
    present = {column.analyte for column in header.columns}
    derivable = {name for part in table.parts for name in (part.percent, part.absolute)}
    for position, analyte in enumerate(analytes):
        if position not in present:
            more = (
                "; it is computed where its other form and the white cells are there"
                if analyte.name in derivable
                else ""
            )
            out.whole(analyte.name, "missing", f"no column of {analyte.short['en']}{more}")


def _percentages_apart(
    table: SurveyedTable,
    column: Column,
    texts: pa.StringArray,
    codes: npt.NDArray[np.intp],
    centres: Sequence[str],
    values: Floats,
    refused: Bools,
    out: Findings,
) -> pa.StringArray:
    """Take what is no absolute count out of a column of absolute counts: percentages go where they belong."""
    survey = table.survey
    percent = np.array([(column.index, centre) in survey.percent_in for centre in centres])[codes]
    unsettled = np.array([(column.index, centre) in survey.unsettled for centre in centres])[codes]
    absolute = table.analytes[column.analyte]
    name = next((part.percent for part in table.parts if part.absolute == absolute.name), "")
    signed = pc.match_substring(texts, "%").to_numpy(zero_copy_only=False) & bool(name)
    if not percent.any() and not unsettled.any() and not signed.any():
        return texts
    cells = read_cells(texts, absolute, Separators())
    named = np.zeros(len(texts), dtype=bool)
    named[list(cells.units)] = True
    percent = signed | (percent & ~named)
    unsettled &= ~named & ~signed
    refused[unsettled & ~cells.missing, column.analyte] = True
    position = next(i for i, analyte in enumerate(table.analytes) if analyte.name == name)
    found, unused = convert(
        pc.if_else(pa.array(percent), texts, ""),
        column,
        table.analytes[position],
        plan_units(table.analytes[position], table.analytes[position].unit),
        [AS_DECLARED] * len(centres),
        codes,
        survey.separators,
        out,
    )
    empty = np.isnan(values[:, position])
    values[empty, position] = found[empty]
    refused[:, position] |= unused
    return pc.if_else(pa.array(percent | unsettled), "", texts)
