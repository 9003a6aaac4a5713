"""Rows of a CSV file from anywhere: its encoding and separator are found, rows come in chunks."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsi_pipeline.errors import DataError

_HEAD = 1 << 16
_SEPARATORS = (",", ";", "\t")
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows and the line of the file each ends on."""

    lines: list[int]
    cells: list[list[str]]
    empty: int


@dataclass(frozen=True, kw_only=True)
class CsvSource:
    """A file whose form is known.

    ``encoding`` is ``utf-8-sig`` (with or without the mark), ``utf-16``, ``cp1252`` or ``latin-1``; ``skip`` the lines
    before the header (Excel's ``sep=;``).
    """

    path: Path
    encoding: str
    separator: str
    header: tuple[str, ...]
    skip: int

    def chunks(self, rows: int) -> Iterator[Rows]:
        """Yield the rows below the header, at most ``rows`` at a time; rows without any value are counted only.

        Raises
        ------
        DataError
            A row has another number of cells than the header, or the file is no CSV.
        """
        width = len(self.header)
        lines: list[int] = []
        cells: list[list[str]] = []
        empty = 0
        try:
            with self.path.open(encoding=self.encoding, newline="") as file:
                for _ in range(self.skip):
                    file.readline()
                reader = csv.reader(file, delimiter=self.separator)
                next(reader)
                for row in reader:
                    if not any(row) or not any(map(str.strip, row)):
                        empty += 1
                        continue
                    if len(row) != width:
                        self._trim(row, reader.line_num + self.skip)
                    lines.append(reader.line_num + self.skip)
                    cells.append(row)
                    if len(cells) == rows:
                        yield Rows(lines=lines, cells=cells, empty=empty)
                        lines, cells, empty = [], [], 0
        except (OSError, UnicodeError, csv.Error) as error:
            raise DataError(f"{self.path} cannot be read as a CSV file: {error}") from None
        if cells or empty:
            yield Rows(lines=lines, cells=cells, empty=empty)

    def _trim(self, row: list[str], line: int) -> None:
        """Drop empty cells beyond the header, as spreadsheets write them."""
        width = len(self.header)
        if len(row) > width and not any(map(str.strip, row[width:])):
            del row[width:]
            return
        hint = (
            " (decimal commas need another separator, or quotes)" if self.separator == "," and len(row) > width else ""
        )
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
        encoding = _encoding(path, head)
        with path.open(encoding=encoding, newline="") as file:
            declared = re.fullmatch(r"sep=(.)\s*", file.readline(8))
        skip = 1 if declared else 0
        separators = (declared[1],) if declared else _SEPARATORS
        headers = {separator: _header(path, encoding, separator, skip) for separator in separators}
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    separator = max(headers, key=lambda s: (known(headers[s]), len(headers[s])))
    header = headers[separator]
    while header and not header[-1].strip():
        header.pop()
    return CsvSource(path=path, encoding=encoding, separator=separator, header=tuple(header), skip=skip)


def _header(path: Path, encoding: str, separator: str, skip: int) -> list[str]:
    with path.open(encoding=encoding, newline="") as file:
        for _ in range(skip):
            file.readline()
        return next(csv.reader(file, delimiter=separator), [])


def _encoding(path: Path, head: bytes) -> str:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if head.startswith(b"PK\x03\x04"):
        raise DataError(f"{path} is a workbook or archive, not a CSV file; save the sheet as CSV")
    if _CONTROL.search(head):
        raise DataError(f"{path} is no text; a CSV file is needed")
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            with path.open(encoding=encoding) as file:
                while file.read(1 << 20):
                    pass
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"
