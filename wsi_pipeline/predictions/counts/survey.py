"""The first pass over a table: what its columns show about separators, units and repeated patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.compute as pc

from wsi_pipeline.errors import DataError
from wsi_pipeline.predictions.counts.analytes import Analyte, Part
from wsi_pipeline.predictions.counts.cells import read_cells
from wsi_pipeline.predictions.counts.columns import Column, Header
from wsi_pipeline.predictions.counts.csv_source import Rows
from wsi_pipeline.predictions.counts.numbers import Separators
from wsi_pipeline.predictions.counts.parts import PartEvidence
from wsi_pipeline.predictions.counts.repeats import Hashes, hash_lines, hash_patients, hash_values
from wsi_pipeline.predictions.counts.units import UnitDecision, UnitEvidence, UnitPlan, decide, observe, resolve

Floats = npt.NDArray[np.float64]


@dataclass(kw_only=True)
class Survey:
    """What a whole table shows.

    Parameters
    ----------
    plans
        Units in which each usable column may be, by its position in the file.
    decisions
        How each usable column is read, by its position in the file and centre.
    percent_in, unsettled
        Positions of columns of absolute counts, with the centre, that hold percentages, and of those whose name
        and values leave it open.
    patient_hashes, value_hashes, lines
        One a row: of the patient's identity, of the values as written, and the line.
    """

    separators: Separators = field(default_factory=Separators)
    plans: dict[int, UnitPlan]
    decisions: dict[int, dict[str, UnitDecision]] = field(default_factory=dict)
    percent_in: set[tuple[int, str]] = field(default_factory=set)
    unsettled: set[tuple[int, str]] = field(default_factory=set)
    patient_hashes: Hashes = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    value_hashes: Hashes = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    lines: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    empty_rows: int = 0


def words_of(rows: Rows, index: int) -> list[str]:
    """Return one column of a chunk, stripped."""
    texts: list[str] = pc.utf8_trim_whitespace(rows.columns[index]).to_pylist()
    return texts


def centres_of(rows: Rows, header: Header, default: str) -> tuple[npt.NDArray[np.intp], list[str]]:
    """Return the position of each row's centre among the centres of a chunk, and those."""
    if header.centre is None:
        return np.zeros(len(rows), dtype=np.intp), [default]
    codes, names = pd.factorize(np.array(words_of(rows, header.centre), dtype=object))
    return codes, [str(name) for name in names]


def survey_table(
    chunks: Iterable[Rows],
    header: Header,
    analytes: Sequence[Analyte],
    parts: Sequence[Part],
    plans: dict[int, UnitPlan],
    where: str,
    centre: str,
) -> Survey:
    """Read a table once, flat in memory but for three integers a row.

    Parameters
    ----------
    centre
        Of all rows where the table has no such column.

    Raises
    ------
    DataError
        There are no rows, or two columns of one analyte differ.
    """
    survey = Survey(plans=plans)
    evidence: dict[tuple[int, str], UnitEvidence] = {}
    in_parts: dict[tuple[int, str], PartEvidence] = {}
    patients, hashes, lines = [], [], []
    for rows in chunks:
        survey.empty_rows += rows.empty
        if not len(rows):
            continue
        codes, centres = centres_of(rows, header, centre)
        groups = [np.flatnonzero(codes == code) for code in range(len(centres))] if len(centres) < 50 else _split(codes)
        raw = {column.index: _undeclared(rows, column, analytes, survey.separators) for column in header.columns}
        for column in header.columns:
            if column.problem or analytes[column.analyte].codes:
                continue
            plan = plans[column.index]
            for name, members in zip(centres, groups, strict=True):
                seen = evidence.setdefault(
                    (column.index, name), UnitEvidence(alone=np.zeros(len(plan.units), dtype=np.int64))
                )
                observe(seen, raw[column.index][members], plan, analytes[column.analyte])
        _observe_parts(in_parts, raw, header, analytes, parts, plans, centres, groups)
        for first, second in header.repeated:
            _same(rows, first, second, analytes, survey.separators, where)
        alone = hash_lines(where, rows.lines)
        patients.append(alone)
        if header.patient is not None:
            names = words_of(rows, header.patient)
            patients[-1] = hash_patients(names, centres, codes, alone)
        hashes.append(hash_values(list(raw.values()), alone))
        lines.append(rows.lines)
    if not lines:
        raise DataError(f"{where} has a header and no rows")
    survey.patient_hashes, survey.value_hashes = np.concatenate(patients), np.concatenate(hashes)
    survey.lines = np.concatenate(lines)
    by_index = {column.index: column for column in header.columns}
    for (index, name), seen in evidence.items():
        decision = decide(seen, plans[index], analytes[by_index[index].analyte])
        survey.decisions.setdefault(index, {})[name] = decision
    _share_fractions(survey, header, analytes, parts, evidence)
    for place, seen_part in in_parts.items():
        if seen_part.holds_percent():
            survey.percent_in.add(place)
        elif by_index[place[0]].bare and not seen_part.holds_absolute():
            survey.unsettled.add(place)
    return survey


def _share_fractions(
    survey: Survey,
    header: Header,
    analytes: Sequence[Analyte],
    parts: Sequence[Part],
    evidence: Mapping[tuple[int, str], UnitEvidence],
) -> None:
    """Where one percentage of a centre is a fraction, the others of that centre are, if their values allow it."""
    percents = {part.percent for part in parts}
    columns = [column for column in header.columns if analytes[column.analyte].name in percents and not column.problem]
    unit = "fraction"
    told = {
        centre
        for column in columns
        for centre, decision in survey.decisions.get(column.index, {}).items()
        if decision.column_unit == unit
    }
    for column in columns:
        for centre in told & survey.decisions[column.index].keys():
            seen, rule = evidence[column.index, centre], analytes[column.analyte].column_units[unit]
            if seen.values and seen.within[unit] >= rule.share * seen.values and not column.fixed:
                decision = survey.decisions[column.index][centre]
                survey.decisions[column.index][centre] = replace(decision, column_unit=unit)


def _split(codes: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _undeclared(rows: Rows, column: Column, analytes: Sequence[Analyte], separators: Separators) -> Floats:
    """Return the numbers of a column that carry no unit of their own."""
    if column.problem:
        return np.full(len(rows), np.nan)
    cells = read_cells(rows.columns[column.index], analytes[column.analyte], separators)
    cells.values[[*cells.units, *cells.signs]] = np.nan
    return cells.values


def _observe_parts(
    found: dict[tuple[int, str], PartEvidence],
    raw: dict[int, Floats],
    header: Header,
    analytes: Sequence[Analyte],
    parts: Sequence[Part],
    plans: dict[int, UnitPlan],
    centres: Sequence[str],
    groups: Sequence[npt.NDArray[np.intp]],
) -> None:
    columns = {analytes[column.analyte].name: column for column in header.columns if not column.problem}
    for part in parts:
        absolute, whole = columns.get(part.absolute), columns.get(part.whole)
        if absolute is None or absolute.fixed:
            continue
        if whole is None:
            white = np.full(len(raw[absolute.index]), np.nan)
        else:
            one = np.full(len(raw[whole.index]), -1)
            white = resolve(raw[whole.index], plans[whole.index], one).values
        for name, members in zip(centres, groups, strict=True):
            seen = found.setdefault((absolute.index, name), PartEvidence())
            seen.observe(raw[absolute.index][members], white[members])


def _same(
    rows: Rows, first: Column, second: Column, analytes: Sequence[Analyte], separators: Separators, where: str
) -> None:
    """Check that two columns of one analyte hold the same values."""
    one, other = rows.columns[first.index], rows.columns[second.index]
    if one.equals(other):
        return
    analyte = analytes[first.analyte]
    numbers = []
    for column, texts in ((first, one), (second, other)):
        values = read_cells(texts, analyte, separators).values
        numbers.append(values * analyte.factor(column.unit or analyte.unit))
    close = np.isclose(numbers[0], numbers[1], rtol=1e-6, atol=0, equal_nan=True)
    unequal = np.flatnonzero(~close | (np.isnan(numbers[0]) & pc.not_equal(one, other).to_numpy(zero_copy_only=False)))
    if len(unequal):
        line = rows.lines[int(unequal[0])]
        raise DataError(
            f"{where}: columns {first.written!r} and {second.written!r} are both {analyte.name} and differ "
            f"(first on line {line}); keep one"
        )
