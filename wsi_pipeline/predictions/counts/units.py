"""In which unit a value is: declared, shown by the value itself, or shown by the other values of its column."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from wsi_pipeline.predictions.counts.analytes import Analyte

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MAJORITY = 0.9
"""Share of the values that show their unit, from which the others of that centre are taken in it too. Our choice."""
ENOUGH = 5
"""Fewer values that show their unit decide nothing for others. Our choice."""


@dataclass(frozen=True, kw_only=True)
class UnitPlan:
    """The units in which values of one column may be.

    The first is the declared one, or the canonical one where none is. ``low`` and ``high`` are the limits of a value
    in that unit, ``factor`` turns it into the canonical one (NaN: never converted).
    """

    units: tuple[str, ...]
    factor: Floats
    low: Floats
    high: Floats
    declared: bool
    fixed: bool

    def fits(self, value: float) -> bool:
        """Return whether a value lies within the limits of any unit that is converted."""
        return bool(np.any((value >= self.low) & (value <= self.high) & ~np.isnan(self.factor)))


def plan_units(analyte: Analyte, declared: str | None, *, fixed: bool = False) -> UnitPlan:
    """Return the units in which values of a column may be; ``fixed`` allows the declared one only."""
    first = declared or analyte.unit
    units = (first,) if fixed else tuple(dict.fromkeys((first, analyte.unit, *analyte.detect)))
    limits = []
    for unit in units:
        factor = analyte.factor(unit)
        shown = None if unit in (first, analyte.unit) else analyte.detect.get(unit)
        limits.append(shown or (analyte.plausible[0] / factor, analyte.plausible[1] / factor))
    return UnitPlan(
        units=units,
        factor=np.array([analyte.factor(unit) for unit in units]),
        low=np.array([low for low, _ in limits]) * (1 - 1e-9),
        high=np.array([high for _, high in limits]) * (1 + 1e-9),
        declared=declared is not None,
        fixed=fixed,
    )


@dataclass(kw_only=True)
class UnitEvidence:
    """What the values of one column of one centre show: how many fit each unit alone, and each column unit."""

    alone: Ints
    within: dict[str, int] = field(default_factory=dict)
    values: int = 0


@dataclass(frozen=True, kw_only=True)
class UnitDecision:
    """How a column of one centre is read.

    Parameters
    ----------
    preferred
        Position in the plan of the unit that decides values that fit several; -1 where they are refused.
    column_unit
        Unit in which all values are, shown only by the whole column; empty where there is none.
    sure
        The values show it; where they do not, each value that fits several units is reported.
    counts
        Values that fit one unit alone, by unit.
    values
        All numbers other than zero.
    """

    preferred: int
    column_unit: str
    sure: bool
    counts: dict[str, int]
    values: int


AS_DECLARED = UnitDecision(preferred=0, column_unit="", sure=True, counts={}, values=0)
"""Each value is read as its column declares."""


def observe(evidence: UnitEvidence, values: Floats, plan: UnitPlan, analyte: Analyte) -> None:
    """Add values ``(n,)`` as written (NaN: none) to the evidence. Zeros show nothing."""
    values = values[~np.isnan(values) & (values != 0)]
    fits = _fits(values, plan)
    alone = fits[fits.sum(axis=1) == 1]
    evidence.alone += alone.sum(axis=0)
    evidence.values += len(values)
    for unit, rule in analyte.column_units.items():
        low, high = rule.within
        inside = int(((values >= low) & (values <= high)).sum())
        evidence.within[unit] = evidence.within.get(unit, 0) + inside


def decide(evidence: UnitEvidence, plan: UnitPlan, analyte: Analyte) -> UnitDecision:
    """Return how the column of this centre is read."""
    counts = {unit: int(n) for unit, n in zip(plan.units, evidence.alone, strict=True)}
    total = int(evidence.alone.sum())
    column_unit = ""
    for unit, rule in analyte.column_units.items():
        usual = plan.units[0] == analyte.unit and not plan.fixed
        if usual and evidence.values >= rule.rows and evidence.within[unit] >= rule.share * evidence.values:
            column_unit = unit
    best = int(np.argmax(evidence.alone))
    if total >= ENOUGH and evidence.alone[best] >= MAJORITY * total:
        preferred, sure = best, True
    else:
        agreed = total == evidence.alone[0] and (plan.declared or total > 0)
        preferred, sure = (0 if agreed else -1), False
    return UnitDecision(preferred=preferred, column_unit=column_unit, sure=sure, counts=counts, values=evidence.values)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Values in the canonical unit.

    Parameters
    ----------
    values
        ``(n,)``; NaN where there is none or it is refused.
    unit
        ``(n,)`` position in the plan of the unit taken; -1 where there is none.
    implausible, ambiguous, unconverted
        ``(n,)`` why a value is refused: fits no unit; fits several; is in a unit that is never converted.
    """

    values: Floats
    unit: Ints
    implausible: Bools
    ambiguous: Bools
    unconverted: Bools


def resolve(values: Floats, plan: UnitPlan, preferred: Ints) -> Resolved:
    """Convert values as written.

    Parameters
    ----------
    values
        ``(n,)``; NaN where there is none.
    preferred
        ``(n,)`` position in the plan of the unit that decides where several fit; -1: refuse.
    """
    present = ~np.isnan(values)
    fits = _fits(values, plan)
    n_fitting = fits.sum(axis=1)
    rows = np.arange(len(values))
    by_column = (preferred >= 0) & fits[rows, np.maximum(preferred, 0)]
    unit = np.where(n_fitting == 1, np.argmax(fits, axis=1), np.where((n_fitting > 1) & by_column, preferred, -1))
    factor = np.where(unit >= 0, plan.factor[np.maximum(unit, 0)], np.nan)
    return Resolved(
        values=values * factor,
        unit=unit,
        implausible=present & (n_fitting == 0),
        ambiguous=present & (n_fitting > 1) & (unit < 0),
        unconverted=(unit >= 0) & np.isnan(factor),
    )


def _fits(values: Floats, plan: UnitPlan) -> Bools:
    column = values[:, None]
    return (column >= plan.low) & (column <= plan.high)


def also_fits(values: Floats, plan: UnitPlan) -> Bools:
    """Return ``(n,)`` whether a value fits more than one unit and is not zero."""
    return (_fits(values, plan).sum(axis=1) > 1) & (values != 0)
