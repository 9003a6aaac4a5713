"""Tables of blood counts read in canonical units, with everything a person must know about them.

Every file is read twice, in chunks. The first pass (:mod:`~wsi_pipeline.predictions.counts.survey`) shows which
separators and units its columns use, centre by centre; the second converts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.counts.analytes import Analyte, load_analytes, load_parts
from wsi_pipeline.predictions.counts.chunks import SurveyedTable, read_chunk
from wsi_pipeline.predictions.counts.columns import ColumnNames, Header, read_header
from wsi_pipeline.predictions.counts.csv_source import CsvSource, Rows, open_csv
from wsi_pipeline.predictions.counts.findings import Finding
from wsi_pipeline.predictions.counts.repeats import Repeats
from wsi_pipeline.predictions.counts.survey import survey_table
from wsi_pipeline.predictions.counts.table import CountsTable, join_tables
from wsi_pipeline.predictions.counts.units import UnitPlan, plan_units

__all__ = ["CHUNK_ROWS", "CountsTable", "Finding", "iter_counts", "read_counts", "read_values"]

CHUNK_ROWS = 100_000


def read_counts(
    paths: Path | Sequence[Path],
    *,
    analytes: Sequence[Analyte] | None = None,
    label: str | None = None,
    units: Mapping[str, str] | None = None,
) -> CountsTable:
    """Read one or several CSV files.

    Parameters
    ----------
    analytes
        What to read; the panel ``acute-leukaemia`` when None.
    label
        Column with the diagnosis.
    units
        Units the user declares, by column or analyte: values are then never taken in another unit.

    Raises
    ------
    DataError
        A file cannot be read, has no rows or no known column, rows of unequal length, or two columns of one analyte
        that differ.
    ConfigError
        ``units`` names an unknown column or unit.
    """
    return join_tables(list(iter_counts(paths, analytes=analytes, label=label, units=units)))


def iter_counts(
    paths: Path | Sequence[Path],
    *,
    chunk_rows: int = CHUNK_ROWS,
    analytes: Sequence[Analyte] | None = None,
    label: str | None = None,
    units: Mapping[str, str] | None = None,
) -> Iterator[CountsTable]:
    """Yield the rows of one or several CSV files, at most ``chunk_rows`` at a time, in their order.

    Memory is that of one chunk, and 24 bytes a row to find patients who come twice. Findings on whole columns come
    with the first chunk of their file. Of one kind in one column a chunk has at most a thousand findings; a last
    one says how many more there are.

    Raises
    ------
    DataError, ConfigError
        As :func:`read_counts`, before the first chunk.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if not files:
        raise DataError("no table of counts was given")
    chosen = tuple(load_analytes() if analytes is None else analytes)
    names = _file_names(files) if len(files) > 1 else [""]
    sources = [open_csv(path, ColumnNames(chosen).count) for path in files]
    tables = [
        _survey(source, name, position, chosen, label, units)
        for position, (source, name) in enumerate(zip(sources, names, strict=True))
    ]
    repeats = Repeats([table.survey for table in tables], names)
    centred = len(files) > 1 or tables[0].header.centre is not None
    for source, table in zip(sources, tables, strict=True):
        first = True
        for rows in source.chunks(chunk_rows):
            if rows.cells:
                yield read_chunk(table, rows, repeats, first=first, centred=centred)
                first = False


def read_values(values: Mapping[str, str], *, analytes: Sequence[Analyte] | None = None) -> CountsTable:
    """Read one patient, typed or pasted.

    Parameters
    ----------
    values
        Raw text by name of the analyte or a synonym; a name, or the text, may carry a unit (``33,2 g/dL``). The name
        ``patient`` gives the identity. Findings have no row.

    Raises
    ------
    DataError
        No name is known, or two names are one analyte and differ.
    """
    chosen = tuple(load_analytes() if analytes is None else analytes)
    where = "the form"
    header = read_header(list(values), chosen, where)
    rows = Rows(lines=[1], cells=[list(values.values())], empty=0)
    survey = survey_table([rows], header, chosen, load_parts(chosen), _plans(header, chosen), where, "")
    table = SurveyedTable(
        where=where,
        name="",
        position=0,
        from_file=False,
        encoding="",
        header=header,
        analytes=chosen,
        parts=load_parts(chosen),
        survey=survey,
    )
    return read_chunk(table, rows, Repeats([survey], [""]), first=True, centred=False)


def _survey(
    source: CsvSource,
    name: str,
    position: int,
    analytes: tuple[Analyte, ...],
    label: str | None,
    units: Mapping[str, str] | None,
) -> SurveyedTable:
    where, parts = str(source.path), load_parts(analytes)
    header = read_header(source.header, analytes, where, label=label, units=units)
    survey = survey_table(source.chunks(CHUNK_ROWS), header, analytes, parts, _plans(header, analytes), where, name)
    return SurveyedTable(
        where=where,
        name=name,
        position=position,
        from_file=True,
        encoding=source.encoding,
        header=header,
        analytes=analytes,
        parts=parts,
        survey=survey,
    )


def _file_names(files: Sequence[Path]) -> list[str]:
    """Return names that tell the files apart: the stem, else with the folder in front, else the whole path."""
    for names in ([path.stem for path in files], [f"{path.parent.name}/{path.stem}" for path in files]):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in files]


def _plans(header: Header, analytes: Sequence[Analyte]) -> dict[int, UnitPlan]:
    return {
        column.index: plan_units(analytes[column.analyte], column.unit, fixed=column.fixed)
        for column in header.columns
        if not column.problem
    }
