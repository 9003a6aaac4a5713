"""Numbers as people write them: decimal commas, thousands separators, signs of comparison, units behind."""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

from wsi_pipeline.predictions.counts.analytes import missing_words

_SPACES = re.compile(r"\s+")
_POWER_UNIT = re.compile(r"(?<=[\s\d])\s*(?:[x×*·]\s*10|(?<=\s)10)\s*[\^eE*]?\s*\d\s*/.*$")
_CELL = re.compile(
    r"(?P<sign>[<>≤≥]=?)?\s*"
    r"(?P<number>[-+]?(?:\d(?:[\d ,.'’]*\d)?|[.,]\d+)(?:[eE][-+]?\d+)?)"
    r"\s*(?P<unit>[^\d\s,.'’+\-<>].*)?"
)
_GROUPED = re.compile(r"\d{1,3}(?:[ '’]\d{3})+")

State = Literal["number", "missing", "refused"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What one cell says.

    Parameters
    ----------
    readings
        The number; two where a single separator may be a decimal or a thousands separator (the decimal one first).
    ambiguous
        That separator, or empty.
    unit
        As written behind the number, or empty.
    sign
        ``<`` or ``>``, or empty.
    decimal, thousands
        Separators that have this role in this cell beyond doubt, or empty.
    reason
        Why the cell is refused.
    """

    state: State
    readings: tuple[float, ...] = ()
    ambiguous: str = ""
    unit: str = ""
    sign: str = ""
    decimal: str = ""
    thousands: str = ""
    reason: str = ""


@dataclass(kw_only=True)
class Separators:
    """Roles that commas and points have in the cells of one file, seen beyond doubt."""

    decimal: set[str] = field(default_factory=set)
    thousands: set[str] = field(default_factory=set)

    def role(self, separator: str) -> Literal["decimal", "thousands"] | None:
        """Return what a separator means where a cell leaves it open, such as ``1,234``; None when the file does too.

        A point is a decimal point unless the file's decimals are commas or its points part thousands.
        """
        here, other = separator in self.decimal, ({",", "."} - {separator}) & self.decimal
        parts = separator in self.thousands
        if separator == "." and not parts and (here or not other):
            return "decimal"
        if here:
            return None if parts or other else "decimal"
        return "thousands" if parts or (other and separator == ",") else None


@functools.lru_cache(maxsize=1 << 16)
def parse_cell(text: str) -> Cell:
    """Return what a cell says; never raises."""
    plain = _SPACES.sub(" ", unicodedata.normalize("NFKC", text)).replace("−", "-").strip()
    if plain.casefold() in missing_words():
        return Cell(state="missing")
    power = _POWER_UNIT.search(plain)
    unit = power.group().strip() if power else ""
    match = _CELL.fullmatch(plain[: power.start()].strip() if power else plain)
    if match is None or (unit and match["unit"]):
        return Cell(state="refused", reason="is no number")
    number = _number(match["number"])
    if number.state != "number":
        return number
    sign = {"≤": "<", "≥": ">"}.get((match["sign"] or "")[:1], (match["sign"] or "")[:1])
    return Cell(
        state="number",
        readings=number.readings,
        ambiguous=number.ambiguous,
        unit=unit or (match["unit"] or "").strip(),
        sign=sign,
        decimal=number.decimal,
        thousands=number.thousands,
    )


def _number(text: str) -> Cell:
    mantissa, exponent = re.fullmatch(r"([^eE]+)(?:[eE](.+))?", text).groups()  # type: ignore[union-attr]
    sign = -1.0 if mantissa[0] == "-" else 1.0
    scale = sign * 10.0 ** min(int(exponent or 0), 99)
    body = mantissa.lstrip("+-")
    grouped = _GROUPED.match(body)
    if grouped:
        body = re.sub(r"[ '’]", "", grouped.group()) + body[grouped.end() :]
    if re.search(r"[ '’]", body):
        return Cell(state="refused", reason="is more than one number")
    marks = [c for c in body if c in ",."]
    if not marks:
        return Cell(state="number", readings=(scale * float(body),))
    last = marks[-1]
    others = set(marks[:-1])
    if others:
        return _several(body, last, others, scale)
    left, right = body.split(last)
    decimal = scale * float(f"{left or '0'}.{right}")
    if len(right) == 3 and 1 <= len(left) <= 3 and left[0] != "0" and not grouped:
        return Cell(state="number", readings=(decimal, scale * float(left + right)), ambiguous=last)
    return Cell(state="number", readings=(decimal,), decimal=last)


def _several(body: str, last: str, others: set[str], scale: float) -> Cell:
    """Read ``1,234,567``, ``1,234.5`` or ``1.234,5``; anything else is no number."""
    if last in others:
        if len(others) == 1 and re.fullmatch(rf"\d{{1,3}}(?:{re.escape(last)}\d{{3}})+", body):
            return Cell(state="number", readings=(scale * float(body.replace(last, "")),), thousands=last)
    else:
        (mark,) = others
        if re.fullmatch(rf"\d{{1,3}}(?:{re.escape(mark)}\d{{3}})+{re.escape(last)}\d+", body):
            value = scale * float(body.replace(mark, "").replace(last, "."))
            return Cell(state="number", readings=(value,), decimal=last, thousands=mark)
    return Cell(state="refused", reason="is no number")
