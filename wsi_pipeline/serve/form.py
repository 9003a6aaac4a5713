"""The form as it was sent: raw values and units by analyte, the tick, the pasted text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, cast, get_args
from urllib.parse import parse_qs

from wsi_pipeline.predictions.counts.analytes import Analyte
from wsi_pipeline.predictions.counts.numbers import parse_cell
from wsi_pipeline.serve.pasted import Pasted, read_pasted
from wsi_pipeline.serve.texts import LANGUAGES, Language

Action = Literal["answer", "fill", "show"]
"""``answer``: ask the model. ``fill``: put pasted values into the fields. ``show``: the same page once more."""

LONGEST_VALUE: Final = 40
LONGEST_PASTE: Final = 20_000
_MOST_FIELDS: Final = 200


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a person has entered.

    Parameters
    ----------
    values, units
        As written, by canonical name; a unit that is absent is the canonical one.
    answered
        An answer was on the page that sent this.
    """

    language: Language
    action: Action = "show"
    token: str = ""
    precondition: bool = False
    answered: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    paste: str = ""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A form whose pasted text went into the fields.

    Parameters
    ----------
    kept
        Fields that held another value than the pasted one, and keep it.
    detected
        Fields whose unit was chosen because the number fits no other.
    """

    form: Form
    pasted: Pasted
    kept: tuple[str, ...] = ()
    detected: tuple[str, ...] = ()


def parse_form(body: bytes, analytes: Sequence[Analyte], default: Language) -> Form:
    """Read an URL-encoded form.

    Raises
    ------
    ValueError
        It is no such form, or has too many fields.
    """
    sent = {
        key: found[-1]
        for key, found in parse_qs(
            body.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=_MOST_FIELDS
        ).items()
    }
    language = sent.get("to") or sent.get("lang")
    action = sent.get("action", "show")
    return Form(
        language=language if language in LANGUAGES else default,
        action=cast(Action, action) if action in get_args(Action) else "show",
        token=sent.get("token", ""),
        precondition=sent.get("precondition") == "yes",
        answered=sent.get("answered") == "yes",
        values={a.name: sent.get(f"v.{a.name}", "").strip()[:LONGEST_VALUE] for a in analytes},
        units={a.name: unit for a in analytes if (unit := sent.get(f"u.{a.name}", "")) in other_units(a)},
        paste=sent.get("paste", "")[:LONGEST_PASTE],
    )


def other_units(analyte: Analyte) -> tuple[str, ...]:
    """Return the units to choose from beside the canonical one: the first name of each factor."""
    by_factor: dict[float, str] = {1.0: analyte.unit}
    for unit, factor in analyte.units.items():
        by_factor.setdefault(factor, unit)
    return tuple(by_factor.values())[1:]


def fill(form: Form, analytes: Sequence[Analyte]) -> Filled:
    """Put the pasted values into the fields that are empty, and choose the units that values come with or show.

    A number that is impossible in the canonical unit and possible in one other is taken in that one, as in tables.
    """
    pasted = read_pasted(form.paste, analytes)
    values, units, kept, detected = dict(form.values), dict(form.units), [], []
    for analyte in analytes:
        name = analyte.name
        if typed := values.get(name):
            values[name], unit = _apart(typed, analyte)
            units[name] = unit or units.get(name, analyte.unit)
        if raw := pasted.values.get(name, "")[:LONGEST_VALUE]:
            number, unit = _apart(raw, analyte)
            if not typed:
                values[name], units[name] = number, unit or analyte.unit
            elif (values[name], units[name]) != (number, unit or analyte.unit):
                kept.append(name)
        if units.get(name) == analyte.unit and (shown := _shown_unit(values[name], analyte)):
            units[name] = shown
            detected.append(name)
    chosen = {a.name: units[a.name] for a in analytes if units.get(a.name, a.unit) != a.unit}
    text = form.paste if pasted.several or not pasted.values else ""
    return Filled(
        form=replace(form, values=values, units=chosen, paste=text),
        pasted=pasted,
        kept=tuple(kept),
        detected=tuple(detected),
    )


def _apart(raw: str, analyte: Analyte) -> tuple[str, str]:
    """Return number and unit where the unit is one to choose from, else the whole text and no unit."""
    written = parse_cell(raw).unit
    unit = analyte.find_unit(written) if written else None
    if unit is None or unit in analyte.refused_units or not raw.endswith(written):
        return raw, ""
    offered = {analyte.units[u]: u for u in other_units(analyte)}
    return raw.removesuffix(written).strip(), offered.get(analyte.factor(unit), analyte.unit)


def _shown_unit(raw: str, analyte: Analyte) -> str:
    cell = parse_cell(raw)
    if cell.state != "number" or cell.unit or cell.sign:
        return ""
    value = cell.readings[0]
    if analyte.plausible[0] <= value <= analyte.plausible[1]:
        return ""
    fitting = [unit for unit, (low, high) in analyte.detect.items() if low <= value <= high]
    return fitting[0] if len(fitting) == 1 and fitting[0] in other_units(analyte) else ""


def raw_values(form: Form, analytes: Sequence[Analyte]) -> dict[str, str]:
    """Return what the reader gets, by canonical name: each filled field, its chosen unit behind a bare number."""
    given = {}
    for analyte in analytes:
        if raw := form.values.get(analyte.name, ""):
            cell = parse_cell(raw)
            bare = cell.state == "number" and not cell.unit
            given[analyte.name] = f"{raw} {form.units.get(analyte.name, analyte.unit)}" if bare else raw
    return given
