"""Rows of CSV files: those that people and other programs wrote, and the text of our own."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path

from wsi_pipeline.errors import DataError


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return lower-case column names and the rows, each with its line number; values are stripped.

    Raises
    ------
    DataError
        The file cannot be read, has no rows, a column twice, or a row of another length.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            rows = []
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise DataError(f"{path} line {reader.line_num}: {len(cells)} values for {len(header)} columns")
                rows.append((reader.line_num, {k: v.strip() for k, v in zip(header, cells, strict=True)}))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {error}") from None
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(f"{path} has the column {', '.join(repeated)} more than once")
    if not rows:
        raise DataError(f"{path} has no rows")
    return header, rows


def csv_text(header: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a table as the text of a CSV file; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def number(text: str | None, where: str, column: str) -> float:
    """Return a finite number.

    Raises
    ------
    DataError
        It is none; ``where`` and ``column`` say where it stands.
    """
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {column} is {text!r}; a number is needed")
    return value
