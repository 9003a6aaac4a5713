"""Which column of a table is which analyte, and in which unit its name says it is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from wsi_pipeline.errors import ConfigError, DataError, some
from wsi_pipeline.predictions.counts.analytes import Analyte, identity_names, key, load_parts

_BRACKETED = re.compile(r"(.+?)[\s_]*[(\[]([^()\[\]]*)[)\]]\s*")


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column that holds an analyte.

    Parameters
    ----------
    index
        Position in the file, from 0.
    written
        Name as written.
    analyte
        Position among the analytes.
    unit
        Unit that the name or the user declares, or None.
    fixed
        The user declared it: values are never read in another unit.
    bare
        The name may mean percent or an absolute count.
    problem
        Why no value of this column can be used, or empty.
    """

    index: int
    written: str
    analyte: int
    unit: str | None
    fixed: bool = False
    bare: bool = False
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The columns of one table.

    ``repeated`` pairs a column with an earlier one of the same analyte; they must hold the same values.
    """

    columns: tuple[Column, ...]
    repeated: tuple[tuple[Column, Column], ...]
    patient: int | None
    centre: int | None
    label: int | None
    unknown: tuple[tuple[int, str], ...]


class ColumnNames:
    """The names under which a panel's analytes are found."""

    def __init__(self, analytes: Sequence[Analyte]) -> None:
        self._analytes = tuple(analytes)
        self._plain: dict[str, Column] = {}
        self._known: dict[str, tuple[int, str]] = {}
        for position, analyte in enumerate(analytes):
            self._known[key(analyte.name)] = (position, analyte.unit)
        for position, analyte in enumerate(analytes):
            self._add(position, analyte)

    def _add(self, position: int, analyte: Analyte) -> None:
        shown = set()
        if set(analyte.synonyms) - set(analyte.names_with_unit):
            shown = {*analyte.label.values(), *analyte.short.values()} - set(analyte.bare_names)
        with_unit = {key(name) for name in (*analyte.synonyms, *shown)}
        bare = {key(name) for name in analyte.bare_names}
        plain = with_unit - {key(name) for name in analyte.names_with_unit}
        for name in plain:
            self._plain.setdefault(name, replace(_column(position, None), bare=name in bare))
        for name in with_unit:
            for spelled, unit in analyte.unit_keys().items():
                self._known.setdefault(name + spelled, (position, unit))

    def match(self, name: str) -> Column | None:
        """Return the column that a name stands for (index 0, unplaced), or None."""
        known = self._known.get(key(name))
        found = _column(*known) if known else self._plain.get(key(name))
        if found is None:
            bracketed = _BRACKETED.fullmatch(name)
            base = self._plain.get(key(bracketed[1])) if bracketed else None
            if bracketed is None or base is None:
                return None
            analyte = self._analytes[base.analyte]
            found = replace(
                base,
                problem=f"the unit {bracketed[2]!r} is not known; write {' or '.join((analyte.unit, *analyte.units))}",
            )
        reason = self._analytes[found.analyte].refused_units.get(found.unit or "")
        return replace(found, written=name, problem=reason or found.problem)

    def count(self, names: Sequence[str]) -> int:
        """Return how many of the names are known."""
        return sum(self.match(name) is not None for name in names)


def _column(position: int, unit: str | None) -> Column:
    return Column(index=0, written="", analyte=position, unit=unit)


def read_header(
    names: Sequence[str],
    analytes: Sequence[Analyte],
    where: str,
    *,
    label: str | None = None,
    units: Mapping[str, str] | None = None,
) -> Header:
    """Return which column is what.

    Parameters
    ----------
    names
        The header's cells.
    where
        Name of the table, for messages.
    label
        Name of the column with the diagnosis.
    units
        Units the user declares, by column name as written or by analyte.

    Raises
    ------
    DataError
        No column is known, or the label column is absent.
    ConfigError
        ``units`` names a column or a unit that is not known.
    """
    known = ColumnNames(analytes)
    stripped = [name.strip() for name in names]
    keys = [key(name) for name in stripped]
    label_at = None if label is None else _label_column(stripped, label, where)
    patient, centre = (_first(keys, wanted, label_at) for wanted in identity_names())
    taken = {label_at, patient, centre}
    columns: list[Column] = []
    unknown: list[tuple[int, str]] = []
    for index, name in enumerate(stripped):
        if index in taken:
            continue
        found = known.match(name)
        if found is not None:
            columns.append(replace(found, index=index))
        elif name:
            unknown.append((index, name))
    if not columns:
        wanted = some(analyte.name for analyte in analytes)
        raise DataError(
            f"{where} has no known column; found {some(stripped) or 'nothing'}; needed are names like {wanted}"
        )
    columns = _settle_bare(_declare(columns, analytes, units or {}, where), analytes)
    kept, repeated = _repeated(columns)
    return Header(
        columns=kept, repeated=repeated, patient=patient, centre=centre, label=label_at, unknown=tuple(unknown)
    )


def _first(keys: list[str], wanted: tuple[str, ...], taken: int | None) -> int | None:
    return next((keys.index(name) for name in wanted if name in keys and keys.index(name) != taken), None)


def _label_column(names: list[str], label: str, where: str) -> int:
    for same in (lambda a: a, key):
        found = [index for index, name in enumerate(names) if same(name) == same(label.strip())]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{where} has the column {label!r} more than once")
    raise DataError(f"{where} has no column {label!r}; found {some(names)}")


def _declare(columns: list[Column], analytes: Sequence[Analyte], units: Mapping[str, str], where: str) -> list[Column]:
    declared = list(columns)
    for name, written in units.items():
        found = [
            place for place, column in enumerate(declared) if name in (column.written, analytes[column.analyte].name)
        ]
        if not found:
            raise ConfigError(f"a unit is given for {name!r}, which is no column or analyte of {where}")
        for place in found:
            analyte = analytes[declared[place].analyte]
            unit = analyte.find_unit(written)
            if unit is None or unit in analyte.refused_units:
                reason = analyte.refused_units.get(unit or "", "it is not known")
                units_there = ", ".join((analyte.unit, *analyte.units))
                raise ConfigError(f"{name!r} cannot be read in {written!r}: {reason}; give one of {units_there}")
            declared[place] = replace(declared[place], unit=unit, fixed=True, bare=False, problem="")
    return declared


def _settle_bare(columns: list[Column], analytes: Sequence[Analyte]) -> list[Column]:
    """Beside a column of percentages, a name without unit means the absolute count."""
    present = {analytes[column.analyte].name for column in columns}
    settled = {part.absolute for part in load_parts(tuple(analytes)) if part.percent in present}
    return [
        replace(column, bare=False) if column.bare and analytes[column.analyte].name in settled else column
        for column in columns
    ]


def _repeated(columns: list[Column]) -> tuple[tuple[Column, ...], tuple[tuple[Column, Column], ...]]:
    """Keep the first usable column of each analyte."""
    first: dict[int, Column] = {}
    for column in columns:
        if not column.problem:
            first.setdefault(column.analyte, column)
    kept = tuple(column for column in columns if column.problem or first[column.analyte] is column)
    repeated = tuple(
        (first[column.analyte], column)
        for column in columns
        if not column.problem and first[column.analyte] is not column
    )
    return kept, repeated
