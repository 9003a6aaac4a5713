"""One column of a table in canonical units, and what happened to its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.cells import Cells, read_cells
from wsi_pipeline.predictions.counts.columns import Column
from wsi_pipeline.predictions.counts.findings import Findings
from wsi_pipeline.predictions.counts.numbers import Separators
from wsi_pipeline.predictions.counts.units import UnitDecision, UnitPlan, also_fits, resolve

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def describe(
    column: Column, analyte: Analyte, plan: UnitPlan, decisions: Mapping[str, UnitDecision], out: Findings
) -> None:
    """Report what holds for a whole column, or for the column of one centre."""
    if plan.declared and plan.units[0] != analyte.unit:
        how = "declared" if plan.fixed else "by its name"
        out.whole(column.written, "converted", f"{plan.units[0]} {how}: {_times(analyte, plan.units[0])}")
    for centre, decision in decisions.items():
        where = f"centre {centre}: " if centre else ""
        if decision.column_unit:
            unit, n = decision.column_unit, decision.values
            if unit in analyte.refused_units:
                message = f"{where}the {n} values look like {unit}; {analyte.refused_units[unit]}; all are refused"
                out.whole(column.written, "refused", message)
            else:
                message = f"{where}the {n} values other than 0 are in {unit}: {_times(analyte, unit)}"
                out.whole(column.written, "converted", message)
        elif decision.sure and decision.preferred > 0:
            unit = plan.units[decision.preferred]
            n, of = decision.counts[unit], sum(decision.counts.values())
            shown = f"{where}{n} of the {of} values that show their unit are in {unit}"
            if unit in analyte.refused_units:
                out.whole(column.written, "refused", f"{shown}; {analyte.refused_units[unit]}")
            else:
                out.whole(column.written, "converted", f"{shown}, not {plan.units[0]}: {_times(analyte, unit)}")


def convert(
    texts: Sequence[str],
    column: Column,
    analyte: Analyte,
    plan: UnitPlan,
    decisions: Sequence[UnitDecision],
    centre: npt.NDArray[np.intp],
    separators: Separators,
    out: Findings,
) -> tuple[Floats, Bools]:
    """Return the values ``(n,)`` of a column in the canonical unit, and which are refused.

    Parameters
    ----------
    decisions, centre
        How the column of each centre is read, and the position of each row's centre in ``decisions``.
    out
        Receives the findings.
    """
    cells = read_cells(texts, analyte, separators, fits=plan.fits)
    refused = np.zeros(len(texts), dtype=bool)
    named = np.zeros(len(texts), dtype=bool)
    named[list(cells.units)] = True
    raw = np.where(named, np.nan, cells.values)

    preferred = np.array([decision.preferred for decision in decisions])[centre]
    whole = np.array([bool(decision.column_unit) for decision in decisions])[centre]
    resolved = resolve(np.where(whole, np.nan, raw), plan, preferred)
    values = resolved.values
    _whole_columns(values, refused, raw, analyte, decisions, centre)
    _named_units(values, cells, analyte)
    _report_units(texts, column, analyte, plan, decisions, centre, resolved.unit, raw, out)
    _report_named(texts, column, analyte, cells, out)

    low, high = analyte.plausible
    outside = ~np.isnan(values) & ~((values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9)))
    implausible = np.flatnonzero(resolved.implausible | outside)
    limits = f"implausible: outside {low:g} to {high:g} {analyte.unit}"
    out.each(implausible, column.written, "refused", texts, lambda row: limits)
    several = np.flatnonzero(resolved.ambiguous)
    out.each(several, column.written, "refused", texts, lambda row: _may_be(raw[row], plan) + "; write the unit")
    unconverted = np.flatnonzero(resolved.unconverted)
    out.each(
        unconverted,
        column.written,
        "refused",
        texts,
        lambda row: (
            f"looks like {_unit(plan, resolved.unit[row])}; {analyte.refused_units[_unit(plan, resolved.unit[row])]}"
        ),
    )
    out.each(list(cells.refused), column.written, "refused", texts, lambda row: cells.refused[row])
    for rows in (implausible, several, unconverted, list(cells.refused)):
        refused[rows] = True
    values[refused] = np.nan
    _limits(values, refused, texts, column, analyte, cells, out)
    return values, refused


def _unit(plan: UnitPlan, position: int) -> str:
    return plan.units[int(position)]


def _times(analyte: Analyte, unit: str) -> str:
    return f"times {analyte.factor(unit):.6g} to {analyte.unit}"


def _may_be(value: float, plan: UnitPlan) -> str:
    units = [u for u, low, high in zip(plan.units, plan.low, plan.high, strict=True) if low <= value <= high]
    return f"may be in {' or '.join(units)}"


def _whole_columns(
    values: Floats,
    refused: Bools,
    raw: Floats,
    analyte: Analyte,
    decisions: Sequence[UnitDecision],
    centre: npt.NDArray[np.intp],
) -> None:
    """Convert, or refuse, the columns of centres that are in a unit only the whole column shows."""
    for unit in {decision.column_unit for decision in decisions} - {""}:
        rows = np.array([decision.column_unit == unit for decision in decisions])[centre] & ~np.isnan(raw)
        values[rows] = raw[rows] * analyte.factor(unit)
        refused[rows] = unit in analyte.refused_units


def _named_units(values: Floats, cells: Cells, analyte: Analyte) -> None:
    for row, unit in cells.units.items():
        values[row] = cells.values[row] * analyte.factor(unit)


def _report_named(texts: Sequence[str], column: Column, analyte: Analyte, cells: Cells, out: Findings) -> None:
    other = [row for row, unit in cells.units.items() if unit != analyte.unit]
    out.each(other, column.written, "converted", texts, lambda row: _times(analyte, cells.units[row]))
    out.each(list(cells.notes), column.written, "converted", texts, lambda row: cells.notes[row])


def _report_units(
    texts: Sequence[str],
    column: Column,
    analyte: Analyte,
    plan: UnitPlan,
    decisions: Sequence[UnitDecision],
    centre: npt.NDArray[np.intp],
    unit: npt.NDArray[np.int64],
    raw: Floats,
    out: Findings,
) -> None:
    """Report values that are not in the unit of their column, and those taken as declared that fit another unit."""
    sure = np.array([decision.sure for decision in decisions])
    usual = np.where(sure, [decision.preferred for decision in decisions], 0)[centre]
    other = (unit >= 0) & (unit != usual) & ~np.isnan(plan.factor[np.maximum(unit, 0)])

    def message(row: int) -> str:
        taken = _unit(plan, unit[row])
        how = "as it stands" if taken == analyte.unit else _times(analyte, taken)
        return f"taken as {taken}, not {_unit(plan, usual[row])} as its column: {how}"

    out.each(np.flatnonzero(other), column.written, "converted", texts, message)
    doubtful = (unit >= 0) & ~sure[centre]
    doubtful[doubtful] = also_fits(raw[doubtful], plan)
    out.each(
        np.flatnonzero(doubtful),
        column.written,
        "ambiguous",
        texts,
        lambda row: f"taken as {_unit(plan, unit[row])}, but {_may_be(raw[row], plan)}",
    )


def _limits(
    values: Floats, refused: Bools, texts: Sequence[str], column: Column, analyte: Analyte, cells: Cells, out: Findings
) -> None:
    """Take ``<x`` and ``>x`` as x where x is a method's limit; elsewhere they say too little."""
    signed = [row for row in cells.signs if not np.isnan(values[row])]
    lowest, highest = analyte.at_limit or (-np.inf, np.inf)
    taken = [row for row in signed if (values[row] <= lowest if cells.signs[row] == "<" else values[row] >= highest)]
    left = [row for row in signed if row not in set(taken)]
    out.each(taken, column.written, "at-limit", texts, lambda row: f"taken as {values[row]:.6g} {analyte.unit}")
    if left:
        values[left] = np.nan
        refused[left] = True
    out.each(left, column.written, "refused", texts, lambda row: "is a bound that says too little; write the value")
