"""Pasted text of one patient to values by analyte: name and value on each line, or names above values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsi_pipeline.predictions.counts.analytes import Analyte, load_parts
from wsi_pipeline.predictions.counts.columns import Column, ColumnNames
from wsi_pipeline.predictions.counts.numbers import parse_cell

_RANGE = re.compile(r"[\[(]?\s*[\d.,]+\s*(?:-|–|à|to)\s*[\d.,]+\s*[\])]?|[<>]\s*[\d.,]+|[-+HLNhln*]{1,2}")
_BRACKETED = re.compile(r"[^(\[]*[(\[]([^)\]]*)[)\]]\s*")
_BREAKS = re.compile(r"[\s:=,]+")
_LONGEST_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Pasted:
    """What was found in pasted text.

    Parameters
    ----------
    values
        Raw value by canonical name, with its unit behind where one was given.
    unknown
        Names or lines that no analyte has.
    twice
        Canonical names given more than once; the first value is in ``values``.
    unclear
        Names that may mean percent or an absolute count, without a unit; not in ``values``.
    several
        The text holds more than one patient; nothing of it is in ``values``.
    """

    values: Mapping[str, str]
    unknown: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    unclear: tuple[str, ...] = ()
    several: bool = False


def read_pasted(text: str, analytes: Sequence[Analyte]) -> Pasted:
    """Read the values of one patient from text copied out of a spreadsheet or laboratory system.

    Cells are separated by tabs or semicolons; without either, a line is split where a known name ends, and two lines
    of names and values at commas. A third cell that is no range is taken as the unit.
    """
    if not text.strip():
        return Pasted(values={})
    names = ColumnNames(analytes)
    lines = [line for line in text.lstrip("\ufeff").splitlines() if line.strip()]
    separator = next((s for s in "\t;" if s in text), None)
    if separator is not None:
        rows = [[cell.strip().strip('"') for cell in line.split(separator)] for line in lines]
    elif lines and _is_header(header := lines[0].split(","), names):
        rows = [header, *(line.split(",") for line in lines[1:])]
    else:
        rows = [_split_line(line, names) for line in lines]
    if rows and _is_header(rows[0], names):
        if len(rows) > 2:
            return Pasted(values={}, several=True)
        rows = [[*pair] for pair in zip(rows[0], rows[1], strict=False)] if len(rows) == 2 else []
    return _collect(rows, names, analytes)


def _is_header(cells: Sequence[str], names: ColumnNames) -> bool:
    """Return whether a line holds names alone: no number in it, and at least two that are known."""
    filled = [cell for cell in cells if cell.strip()]
    if any(parse_cell(cell[:_LONGEST_NAME]).state == "number" for cell in filled):
        return False
    return sum(_match(cell, "", names) is not None for cell in filled) >= 2


def _match(name: str, unit: str, names: ColumnNames) -> Column | None:
    if not name.strip() or len(name) + len(unit) > _LONGEST_NAME:
        return None
    return (names.match(f"{name} {unit}") if unit else None) or names.match(name.strip())


def _split_line(line: str, names: ColumnNames) -> list[str]:
    for gap in reversed(list(_BREAKS.finditer(line[:_LONGEST_NAME]))):
        if _match(line[: gap.start()], "", names):
            return [line[: gap.start()], line[gap.end() :]]
    return [line]


def _collect(rows: Sequence[Sequence[str]], names: ColumnNames, analytes: Sequence[Analyte]) -> Pasted:
    values: dict[str, str] = {}
    bare: dict[str, str] = {}
    unknown: list[str] = []
    twice: list[str] = []
    for cells in rows:
        name, value, third, *_ = [cell.strip() for cell in (*cells, "", "", "")]
        unit = parse_cell(value).unit or ("" if _RANGE.fullmatch(third) else third)
        column = _match(name, unit, names)
        if column is None:
            unknown.append(name or value)
            continue
        if not value:
            continue
        analyte = analytes[column.analyte]
        if analyte.name in values:
            twice.append(analyte.name)
            continue
        values[analyte.name] = value if parse_cell(value).unit else f"{value} {unit or _unit_of(column)}".strip()
        if column.bare and not unit:
            bare[analyte.name] = name
    settled = {part.absolute for part in load_parts(tuple(analytes)) if part.percent in values}
    unclear = {analyte: name for analyte, name in bare.items() if analyte not in settled}
    return Pasted(
        values={analyte: value for analyte, value in values.items() if analyte not in unclear},
        unknown=tuple(filter(None, dict.fromkeys(unknown))),
        twice=tuple(dict.fromkeys(twice)),
        unclear=tuple(unclear.values()),
    )


def _unit_of(column: Column) -> str:
    """Return the unit that the name says, also one that nobody knows: the reader then refuses the value."""
    bracketed = _BRACKETED.fullmatch(column.written) if column.problem and not column.unit else None
    return bracketed[1].strip() if bracketed else column.unit or ""
