"""The cells of one column as numbers: whole columns at once where cells are plain, one by one where they are odd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from wsi_pipeline.predictions.counts.analytes import Analyte, key, missing_words
from wsi_pipeline.predictions.counts.numbers import Separators, parse_cell

# A separator before exactly three digits is left to parse_cell unless the file says that it is the decimal one.
_PLAIN = r"\d{1,15}"
_DECIMAL = r"\d{{0,15}}{mark}(?:\d{{1,2}}|\d{{4,30}})|0{mark}\d{{3}}|\d{{4,15}}{mark}\d{{3}}"
_ANY_DECIMAL = r"\d{{0,15}}{mark}\d{{1,30}}"


@dataclass(kw_only=True)
class Cells:
    """What the cells of one column say.

    Parameters
    ----------
    values
        ``(n,)`` in the unit of ``units`` where there is one, else in that of the column; NaN where there is no number.
    missing
        ``(n,)``, true for cells that say that there is no value.
    refused
        Reason by row.
    units
        Unit written in the cell, by row.
    signs
        ``<`` or ``>`` by row.
    notes
        How a cell was read that may be read otherwise, by row.
    """

    values: npt.NDArray[np.float64]
    missing: npt.NDArray[np.bool_]
    refused: dict[int, str] = field(default_factory=dict)
    units: dict[int, str] = field(default_factory=dict)
    signs: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)


def read_cells(
    texts: Sequence[str],
    analyte: Analyte,
    separators: Separators,
    *,
    fits: Callable[[float], bool] | None = None,
) -> Cells:
    """Return what the cells of one column say.

    Parameters
    ----------
    texts
        The cells as written.
    separators
        Roles of commas and points in this file. Without ``fits`` the roles seen here are added to it.
    fits
        Whether a number can be a value of this column; decides ``1,234`` where the file does not. None on a first
        pass: such cells are then left out.
    """
    if analyte.codes:
        return _read_codes(texts, analyte)
    array = pa.array(texts, pa.string())
    values, plain = _plain_numbers(array, separators, surveying=fits is None)
    empty = pc.equal(array, "").to_numpy(zero_copy_only=False)
    found = Cells(values=values, missing=empty)
    for row in np.flatnonzero(~(plain | empty)).tolist():
        _read_odd(texts[row], row, found, analyte, separators, fits)
    return found


def _plain_numbers(
    array: pa.StringArray, separators: Separators, *, surveying: bool
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    values = np.full(len(array), np.nan)
    done = np.zeros(len(array), dtype=bool)
    for mark, pattern in ((".", r"\."), (",", ",")):
        sure = not surveying and separators.role(mark) == "decimal"
        form = (_ANY_DECIMAL if sure else _DECIMAL).format(mark=pattern)
        if mark == ".":
            form = f"{_PLAIN}|{form}"
        elif not pc.any(pc.match_substring(array, ",")).as_py():
            break
        mask = pc.match_substring_regex(array, f"^(?:{form})$")
        numbers = array.filter(mask)
        if surveying and pc.any(pc.match_substring(numbers, mark)).as_py():
            separators.decimal.add(mark)
        if mark == ",":
            numbers = pc.replace_substring(numbers, ",", ".")
        chosen = mask.to_numpy(zero_copy_only=False)
        values[chosen] = pc.cast(numbers, pa.float64()).to_numpy(zero_copy_only=False)
        done |= chosen
    return values, done


def _read_odd(
    text: str,
    row: int,
    found: Cells,
    analyte: Analyte,
    separators: Separators,
    fits: Callable[[float], bool] | None,
) -> None:
    cell = parse_cell(text)
    if cell.state == "missing":
        found.missing[row] = True
        return
    if cell.state == "refused":
        found.refused[row] = cell.reason
        return
    if fits is None:
        separators.decimal |= {cell.decimal} - {""}
        separators.thousands |= {cell.thousands} - {""}
    unit = analyte.find_unit(cell.unit) if cell.unit else ""
    if unit is None:
        known = ", ".join((analyte.unit, *analyte.units))
        found.refused[row] = f"the unit {cell.unit[:20]!r} is not known; write one of {known}"
        return
    if unit in analyte.refused_units:
        found.refused[row] = analyte.refused_units[unit]
        return
    value = cell.readings[0]
    if cell.ambiguous:
        role = None if fits is None else separators.role(cell.ambiguous)
        if role == "thousands":
            value = cell.readings[1]
        elif role is None:
            factor = analyte.factor(unit) if unit else 1.0
            usable = [r for r in cell.readings if _usable(r, unit, factor, analyte, fits)]
            if len(usable) != 1:
                one, other = cell.readings
                found.refused[row] = (
                    f"may be {one:g} or {other:.15g}: the file does not show what its {cell.ambiguous!r} means"
                )
                return
            value = usable[0]
            found.notes[row] = f"read as {value:.15g}, the only plausible reading"
    found.values[row] = value
    if unit:
        found.units[row] = unit
    if cell.sign:
        found.signs[row] = cell.sign


def _usable(reading: float, unit: str, factor: float, analyte: Analyte, fits: Callable[[float], bool] | None) -> bool:
    if fits is None:
        return False
    if unit:
        return analyte.plausible[0] <= reading * factor <= analyte.plausible[1]
    return fits(reading)


def _read_codes(texts: Sequence[str], analyte: Analyte) -> Cells:
    numbers = {text: analyte.codes.get(key(text), float("nan")) for text in set(texts)}
    gone = {text for text in numbers if text.strip().casefold() in missing_words()}
    found = Cells(
        values=np.array([numbers[text] for text in texts], dtype=np.float64),
        missing=np.array([text in gone for text in texts], dtype=bool),
    )
    for row in np.flatnonzero(np.isnan(found.values) & ~found.missing).tolist():
        found.refused[row] = f"is none of {', '.join(analyte.codes)}"
    return found
