"""Rows of a CSV file from anywhere: its encoding and separator are found, rows come in chunks."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from wsi_pipeline.errors import DataError

_HEAD = 1 << 16
_BLOCK = 1 << 22
_SEPARATORS = (",", ";", "\t")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_LONE_RETURN = re.compile(rb"\r(?!\n)")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a table.

    Parameters
    ----------
    lines
        ``(n,)`` line of the file on which each row ends.
    columns
        The cells as written, ``n`` in each column.
    empty
        Rows without any value, left out.
    """

    lines: npt.NDArray[np.int64]
    columns: list[pa.StringArray]
    empty: int

    def __len__(self) -> int:
        return len(self.lines)


@dataclass(frozen=True, kw_only=True)
class CsvSource:
    """A file whose form is known.

    Parameters
    ----------
    encoding
        ``utf-8-sig`` (with or without the mark), ``utf-16``, ``cp1252`` or ``latin-1``.
    skip
        Lines before the header (Excel's ``sep=;``).
    simple
        No cell is quoted, and lines end alike: a line is a row, and Arrow's reader is used.
    """

    path: Path
    encoding: str
    separator: str
    header: tuple[str, ...]
    skip: int
    simple: bool

    def chunks(self, rows: int) -> Iterator[Rows]:
        """Yield the rows below the header, at most ``rows`` at a time.

        Raises
        ------
        DataError
            A row has another number of cells than the header, or the file is no CSV.
        """
        done = 0
        if self.simple:
            try:
                for chunk in self._simple_chunks(rows):
                    yield chunk
                    done += len(chunk) + chunk.empty
                return
            except pa.ArrowInvalid:
                # A row of another length: the careful reader trims it or says which.
                pass
        yield from self._careful_chunks(rows, done)

    def _simple_chunks(self, rows: int) -> Iterator[Rows]:
        blank: list[int] = []

        def keep_count(row: pa_csv.InvalidRow) -> str:
            if row.text.strip():
                return "error"
            blank.append(row.number)
            return "skip"

        names = [str(place) for place in range(len(self.header))]
        encoding = "utf8" if self.encoding.startswith("utf-8") else self.encoding
        with pa_csv.open_csv(
            self.path,
            read_options=pa_csv.ReadOptions(
                use_threads=False,
                block_size=_BLOCK,
                skip_rows=self.skip + 1,
                column_names=names,
                encoding=encoding,
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=self.separator,
                quote_char=False,
                ignore_empty_lines=False,
                invalid_row_handler=keep_count,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        ) as reader:
            line = self.skip + 2
            waiting: list[pa.RecordBatch] = []
            for batch in reader:
                waiting.append(batch)
                while sum(map(len, waiting)) >= rows:
                    table = pa.Table.from_batches(waiting)
                    chunk, line = _chunk(table.slice(0, rows), line, blank)
                    waiting = table.slice(rows).to_batches()
                    yield chunk
            if waiting or blank:
                yield _chunk(pa.Table.from_batches(waiting, schema=reader.schema), line, blank)[0]

    def _careful_chunks(self, rows: int, done: int) -> Iterator[Rows]:
        """Yield the rows after the first ``done``."""
        width = len(self.header)
        parts: list[list[pa.StringArray]] = []
        cells: list[list[str]] = []
        lines: list[int] = []
        try:
            with self.path.open(encoding=self.encoding, newline="") as file:
                for _ in range(self.skip):
                    file.readline()
                reader = csv.reader(file, delimiter=self.separator)
                next(reader)
                for number, row in enumerate(reader):
                    if number < done:
                        continue
                    if len(row) != width:
                        self._fit(row, reader.line_num + self.skip)
                    lines.append(reader.line_num + self.skip)
                    cells.append(row)
                    if len(cells) >= 1000 or len(lines) == rows:
                        parts.append(_transposed(cells))
                        cells = []
                    if len(lines) == rows:
                        yield _without_empty(_joined(parts), np.array(lines, dtype=np.int64))
                        parts, lines = [], []
        except (OSError, UnicodeError, csv.Error) as error:
            raise DataError(f"{self.path} cannot be read as a CSV file: {error}") from None
        if lines:
            yield _without_empty(_joined([*parts, *([_transposed(cells)] if cells else [])]), np.array(lines))

    def _fit(self, row: list[str], line: int) -> None:
        """Drop empty cells beyond the header, as spreadsheets write them, and fill a row without any value."""
        width = len(self.header)
        if not any(map(str.strip, row)):
            row[:] = [""] * width
        elif len(row) > width and not any(map(str.strip, row[width:])):
            del row[width:]
        else:
            commas = self.separator == "," and len(row) > width
            hint = " (decimal commas need another separator, or quotes)" if commas else ""
            raise DataError(f"{self.path} line {line}: {len(row)} values for {width} columns{hint}")


def open_csv(path: Path, known: Callable[[Sequence[str]], int]) -> CsvSource:
    """Find a file's encoding and separator.

    Parameters
    ----------
    known
        How many names of a header are known: the separator that gives most is the file's.

    Raises
    ------
    DataError
        The file cannot be read, is empty or no text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if not head.strip():
            raise DataError(f"{path} is empty; a header and rows are needed")
        encoding, simple = _form(path, head)
        with path.open(encoding=encoding, newline="") as text:
            declared = re.fullmatch(r"sep=(.)\s*", text.readline(8))
        skip = 1 if declared else 0
        separators = (declared[1],) if declared else _SEPARATORS
        headers = {separator: _header(path, encoding, separator, skip) for separator in separators}
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    separator = max(headers, key=lambda s: (known(headers[s]), len(headers[s])))
    header = headers[separator]
    while header and not header[-1].strip():
        header.pop()
    return CsvSource(path=path, encoding=encoding, separator=separator, header=tuple(header), skip=skip, simple=simple)


def _header(path: Path, encoding: str, separator: str, skip: int) -> list[str]:
    with path.open(encoding=encoding, newline="") as file:
        for _ in range(skip):
            file.readline()
        return next(csv.reader(file, delimiter=separator), [])


def _form(path: Path, head: bytes) -> tuple[str, bool]:
    """Return the encoding, and whether a line is a row."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", False
    if head.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is a workbook or archive, not a CSV file; save the sheet as CSV")
    if _CONTROL.search(head):
        raise DataError(f"{path} is no text; a CSV file is needed")
    simple = not _LONE_RETURN.search(head[:-1])
    with path.open("rb") as file:
        while simple and (block := file.read(1 << 20)):
            simple = b'"' not in block
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            with path.open(encoding=encoding) as text:
                while text.read(1 << 20):
                    pass
        except UnicodeDecodeError:
            continue
        return encoding, simple
    return "latin-1", simple


def _chunk(table: pa.Table, line: int, blank: list[int]) -> tuple[Rows, int]:
    """Return the rows of a table that begins on ``line``, and the line after it; uses up the blank lines passed."""
    lines = np.arange(line, line + len(table))
    passed = 0
    while blank and blank[0] <= (lines[-1] if len(lines) else blank[0]):
        lines[lines >= blank.pop(0)] += 1
        passed += 1
    rows = _without_empty(table.combine_chunks().to_batches()[0].columns if len(table) else [], lines)
    after = int(lines[-1]) + 1 if len(lines) else line
    return Rows(lines=rows.lines, columns=rows.columns, empty=rows.empty + passed), after


def _transposed(cells: list[list[str]]) -> list[pa.StringArray]:
    return [pa.array(column, pa.string()) for column in zip(*cells, strict=True)]


def _joined(parts: list[list[pa.StringArray]]) -> list[pa.StringArray]:
    return [pa.concat_arrays(column) for column in zip(*parts, strict=True)]


def _without_empty(columns: list[pa.StringArray], lines: npt.NDArray[np.int64]) -> Rows:
    suspects = np.arange(len(lines))
    for column in columns:
        if not len(suspects):
            return Rows(lines=lines, columns=columns, empty=0)
        text = pc.utf8_trim_whitespace(column.take(pa.array(suspects)))
        suspects = suspects[pc.equal(text, "").to_numpy(zero_copy_only=False)]
    kept = np.ones(len(lines), dtype=bool)
    kept[suspects] = False
    mask = pa.array(kept)
    return Rows(lines=lines[kept], columns=[column.filter(mask) for column in columns], empty=len(suspects))
